//! The state of this process, and how it begins and ends.

use crate::captures::Captures;
use crate::contexts::Contexts;
use crate::counters;
use crate::devices::Devices;
use crate::fills::Fills;
use crate::freezing::Freezing;
use crate::gate;
use crate::ledger::Ledger;
use crate::{log, report};
use parking_lot::Mutex;
use rewarm::config::{LanePlan, Note, Settings, cpus};
use rewarm::control::{Reporter, Request, Response, Server, StatsFile, Tick};
use rewarm::driver::sys::{CUcontext, CUdevice};
use rewarm::driver::{Driver, LookupError};
use rewarm_abi::FrontTable;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering};

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(std::ptr::null_mut());

/// Copies of fewer bytes go straight to the driver. No copy is as large as the
/// initial value.
static MIN_COPY: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The device of small copies: an ordinal, or [`ASK`] where there are several.
static SMALL_DEVICE: AtomicI32 = AtomicI32::new(0);
const ASK: i32 = -1;

/// Everything that the core knows about the process that it is in.
pub(crate) struct Process {
    pub(crate) driver: Driver,
    pub(crate) settings: Settings,
    /// What was wrong with the settings.
    pub(crate) notes: Vec<Note>,
    pub(crate) plan: LanePlan,
    pub(crate) devices: Devices,
    pub(crate) contexts: Mutex<Contexts>,
    pub(crate) fills: Fills,
    /// Device memory, in freezable processes.
    pub(crate) ledger: Option<Ledger>,
    /// What freezing needs besides, where there is a ledger.
    pub(crate) freezing: Option<Freezing>,
    pub(crate) captures: Captures,
    /// Copies of no direction.
    pub(crate) undirected: counters::Copies,
    server: Mutex<Option<Server>>,
    stats: Option<StatsFile>,
}

/// The process's state; `None` in a forked child, where everything passes.
#[inline(always)]
pub(crate) fn current() -> Option<&'static Process> {
    // SAFETY: published complete and never freed.
    unsafe { PROCESS.load(Ordering::Acquire).as_ref() }
}

/// The threshold for fan-outs, in bytes.
#[inline(always)]
pub(crate) fn min_copy() -> usize {
    MIN_COPY.load(Ordering::Relaxed)
}

/// Index of the device that a small copy is counted for.
#[inline(always)]
pub(crate) fn small_device() -> usize {
    match SMALL_DEVICE.load(Ordering::Relaxed) {
        ASK => current_device().unwrap_or(0),
        device => device as usize,
    }
}

#[cold]
fn current_device() -> Option<usize> {
    let mut device: CUdevice = 0;
    // SAFETY: an out-pointer to a local.
    unsafe { current()?.driver.current_device(&mut device).ok()? };
    usize::try_from(device).ok()
}

/// Makes the process's state, and starts what is always there: the control
/// socket, the log and the statistics that were asked for.
pub(crate) fn open(front: &FrontTable) -> Result<(), LookupError> {
    let (settings, notes) = Settings::from_env();
    log::start(&settings);
    let (dlsym, library) = (front.dlsym, front.driver);
    // SAFETY: the driver's own symbols; the front keeps the driver loaded.
    let driver = unsafe { Driver::load(|name| dlsym(library, name.as_ptr()).cast_const())? };
    let freezing = settings.freezable.then(|| {
        // SAFETY: as above.
        unsafe { Freezing::load(driver, |name| dlsym(library, name.as_ptr()).cast_const()) }
            .inspect_err(|error| tracing::error!(%error, "this process cannot be frozen"))
            .ok()
    });
    let freezing = freezing.flatten();
    let plan = settings.plan(cpus());
    let process: &'static Process = Box::leak(Box::new(Process {
        driver,
        plan,
        devices: Devices::new(),
        contexts: Mutex::default(),
        fills: Fills::default(),
        ledger: freezing
            .as_ref()
            .map(|freezing| Ledger::new(driver, freezing.memory)),
        freezing,
        captures: Captures::default(),
        undirected: counters::Copies::default(),
        server: Mutex::new(None),
        stats: settings.stats.as_deref().and_then(claim_stats),
        settings,
        notes,
    }));
    PROCESS.store(std::ptr::from_ref(process).cast_mut(), Ordering::Release);
    MIN_COPY.store(process.settings.min_copy_bytes, Ordering::Relaxed);
    process.start_server();
    write_stats_at_exit();
    Ok(())
}

impl Process {
    /// The calling thread's current context, or null.
    pub(crate) fn current_context(&self) -> CUcontext {
        let mut context = ptr::null_mut();
        // SAFETY: an out-pointer to a local; what fails leaves it null.
        let _ = unsafe { self.driver.current_context(&mut context) };
        context
    }

    /// Runs `action` with `context`, which is alive, current.
    pub(crate) fn with_context(&self, context: CUcontext, action: impl FnOnce()) {
        // SAFETY: a context that is still alive.
        if let Err(error) = unsafe { self.driver.push_context(context) } {
            tracing::warn!(%error, "a context could not be entered");
            return;
        }
        action();
        self.pop_context();
    }

    /// Takes the top off the calling thread's context stack.
    pub(crate) fn pop_context(&self) {
        let mut popped = ptr::null_mut();
        // SAFETY: an out-pointer to a local.
        let _ = unsafe { self.driver.pop_context(&mut popped) };
    }

    fn start_server(&'static self) {
        let answer = |request: Request, reporter: &Reporter| match request {
            Request::Status => Response::Status(Box::new(report::process(self))),
            other => self.answer_freezing(&other, reporter),
        };
        let tick = self
            .stats
            .is_some()
            .then(|| Box::new(|| self.write_stats()) as Tick);
        match Server::start(&self.settings.run_dirs, Arc::new(answer), tick) {
            Ok(server) => *self.server.lock() = Some(server),
            Err(error) => tracing::warn!(%error, "no control socket"),
        }
    }

    fn write_stats(&self) {
        if let Some(stats) = &self.stats
            && let Err(error) = stats.write(&report::process(self))
        {
            tracing::warn!(%error, "statistics could not be written");
        }
    }
}

fn claim_stats(path: &Path) -> Option<StatsFile> {
    StatsFile::claim(path)
        .inspect_err(|error| tracing::warn!(%error, "no statistics"))
        .ok()
}

/// The application's own `cuInit` has returned.
pub(crate) unsafe extern "C" fn initialised(nanoseconds: u64) {
    let Some(process) = current() else { return };
    process.contexts.lock().waited(nanoseconds);
    let mut count = 0;
    // SAFETY: an out-pointer to a local.
    if unsafe { process.driver.device_count(&mut count) }.is_ok() && count > 1 {
        SMALL_DEVICE.store(ASK, Ordering::Relaxed);
    }
}

/// In a forked child: the threads are gone and any lock may be held, so the old
/// state is left where it is.
pub(crate) unsafe extern "C" fn forked() {
    MIN_COPY.store(usize::MAX, Ordering::Relaxed);
    let process = current();
    PROCESS.store(std::ptr::null_mut(), Ordering::Release);
    gate::forked();
    counters::clear_small();
    if let Some(process) = process
        && let Some(server) = process
            .server
            .try_lock()
            .and_then(|mut server| server.take())
    {
        server.forget_after_fork();
    }
}

fn write_stats_at_exit() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn at_exit() {
        gate::exiting();
        if let Some(process) = current() {
            if let Some(freezing) = &process.freezing {
                freezing.wait_at_exit();
            }
            process.write_stats();
            if let Some(server) = process
                .server
                .try_lock()
                .and_then(|mut server| server.take())
            {
                server.stop();
            }
        }
    }
    if !REGISTERED.swap(true, Ordering::AcqRel) {
        // SAFETY: this library is never unloaded.
        unsafe { libc::atexit(at_exit) };
    }
}
