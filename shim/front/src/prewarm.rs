//! The prewarming thread: who gets one, and what others must know of it.

use crate::{driver, fork, settings, state};
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use rewarm_abi::Hook;

const NONE: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;

static PHASE: AtomicU8 = AtomicU8::new(NONE);
static THREAD: AtomicUsize = AtomicUsize::new(0);

/// How long a fork or the end of the process waits for prewarming. On hosts
/// with many GPUs initialisation takes up to three seconds.
const LONGEST_WAIT_MS: u32 = 10_000;

/// Starts the thread, in a process that asked for it and stands to gain.
///
/// The driver's library is loaded by the calling thread, not by the new one: it
/// keeps an account of the thread that loaded it, which must still exist in a
/// forked child (driver 580 otherwise waits for it for ever at exit). The core
/// is opened here too, so that no call of the application's gets by the hooks.
/// And without a copy of the library's data a fork could not be undone: then
/// there is no prewarming.
pub(crate) fn start_if_wanted() {
    if !settings::prewarm_wanted() || !driver::load() {
        return;
    }
    let init = driver::link().map_or(ptr::null(), |real| real[Hook::cuInit as usize]);
    if init.is_null() || !fork::save_driver(init) {
        return;
    }
    state::open_core();
    if state::core().is_none() {
        return;
    }
    // Handlers run in reverse order: this one before those that the driver's
    // library registered when it was loaded.
    // SAFETY: the handler lives as long as the process.
    unsafe { __cxa_atexit(wait_at_exit, ptr::null_mut(), ptr::null_mut()) };
    PHASE.store(RUNNING, Ordering::Release);
    if !spawn() {
        PHASE.store(NONE, Ordering::Release);
    }
}

/// Whether prewarming has touched the driver in this process.
pub(crate) fn ran() -> bool {
    PHASE.load(Ordering::Acquire) != NONE
}

/// Whether the caller is the prewarming thread.
pub(crate) fn is_this_thread() -> bool {
    // SAFETY: has no requirements.
    THREAD.load(Ordering::Acquire) == unsafe { libc::pthread_self() } as usize
}

/// In a forked child: there is no such thread here.
pub(crate) fn forget() {
    PHASE.store(NONE, Ordering::Release);
    THREAD.store(0, Ordering::Release);
}

/// Waits until prewarming is over, if it is under way in another thread.
pub(crate) fn wait() {
    let mut waited = 0;
    while PHASE.load(Ordering::Acquire) == RUNNING && !is_this_thread() && waited < LONGEST_WAIT_MS
    {
        let pause = libc::timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        // SAFETY: a valid time; what is left of it does not matter.
        unsafe { libc::nanosleep(&pause, ptr::null_mut()) };
        waited += 1;
    }
}

extern "C" fn wait_at_exit(_: *mut c_void) {
    wait();
}

unsafe extern "C" {
    /// What `atexit` comes to, which is not in the shared C library (Itanium
    /// C++ ABI, 3.3.5.3). Without a library's handle the function runs when the
    /// process exits.
    fn __cxa_atexit(
        function: extern "C" fn(*mut c_void),
        argument: *mut c_void,
        library: *mut c_void,
    ) -> c_int;
}

/// A detached thread that no signal of the application's is delivered to.
fn spawn() -> bool {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: each value is filled by the call before it is used.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        let failed = libc::pthread_create(thread.as_mut_ptr(), ptr::null(), run, ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut());
        if failed == 0 {
            libc::pthread_detach(thread.assume_init());
        }
        failed == 0
    }
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    // SAFETY: has no requirements.
    THREAD.store(unsafe { libc::pthread_self() } as usize, Ordering::Release);
    prewarm();
    // A later thread may get the same descriptor.
    THREAD.store(0, Ordering::Release);
    PHASE.store(DONE, Ordering::Release);
    ptr::null_mut()
}

fn prewarm() {
    if let Some(prewarm) = state::core().and_then(|core| core.prewarm) {
        // SAFETY: the core's own function, called once.
        unsafe { prewarm() };
    }
}
