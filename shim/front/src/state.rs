//! The life of the preloaded library in one process.
//!
//! ```text
//! Inert ──cuInit succeeds──► Opening ──core opened──► Active
//!   │                           └──── core missing ──► Disabled
//!   └── REWARM_DISABLE=1, setuid ────────────────────► Disabled (for good)
//! Active ──fork, child──► Inert   (driver put back, if only prewarming used it)
//!        └──────────────► Orphan  (CUDA does not work in such a child either way)
//! ```

use crate::{driver, fork, lookup, settings, slots, symbols};
use core::ffi::{c_int, c_uint, c_void};
use core::mem::{MaybeUninit, transmute};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use rewarm_abi::{ABI_VERSION, CORE_ENTRY, CoreEntry, CoreTable, FrontTable, Hook};

const INERT: u8 = 0;
const OPENING: u8 = 1;
const ACTIVE: u8 = 2;
const DISABLED: u8 = 3;
const ORPHAN: u8 = 4;

static STATE: AtomicU8 = AtomicU8::new(INERT);
static APPLICATION_USED_CUDA: AtomicBool = AtomicBool::new(false);

static CORE: AtomicPtr<CoreTable> = AtomicPtr::new(ptr::null_mut());

/// Whether symbols are to be answered with the driver's own addresses.
pub(crate) fn is_disabled() -> bool {
    STATE.load(Ordering::Acquire) == DISABLED
}

/// Switches the library off for the life of the process.
pub(crate) fn disable() {
    STATE.store(DISABLED, Ordering::Release);
}

/// Whether the application, as opposed to prewarming, has called `cuInit`.
pub(crate) fn application_used_cuda() -> bool {
    APPLICATION_USED_CUDA.load(Ordering::Acquire)
}

/// The front's own answer to a hooked symbol, for those that it answers itself.
pub(crate) fn front_hook(hook: Hook) -> Option<*mut c_void> {
    match hook {
        Hook::cuInit => Some(cu_init as *mut c_void),
        Hook::cuGetProcAddress => Some(lookup::cu_get_proc_address as *mut c_void),
        Hook::cuGetProcAddress_v2 => Some(lookup::cu_get_proc_address_v2 as *mut c_void),
        _ => None,
    }
}

/// `cuInit`: the sign that this process really uses CUDA.
unsafe extern "C" fn cu_init(flags: c_uint) -> c_int {
    let Some(real) = driver::link() else {
        return driver::STUB_LIBRARY;
    };
    APPLICATION_USED_CUDA.store(true, Ordering::Release);
    // SAFETY: the driver's own cuInit.
    let init = unsafe {
        transmute::<*const c_void, unsafe extern "C" fn(c_uint) -> c_int>(
            real[Hook::cuInit as usize],
        )
    };
    let begun = nanoseconds();
    // SAFETY: passed on from the caller.
    let result = unsafe { init(flags) };
    if result == 0 {
        let took = nanoseconds().saturating_sub(begun);
        open_core();
        if let Some(initialised) = core().and_then(|core| core.initialised) {
            // SAFETY: the core's own function.
            unsafe { initialised(took) };
        }
    }
    result
}

fn nanoseconds() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: an out-pointer to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Opens the core and gives it its hooks. Other threads that come here
/// meanwhile wait, so that none uses CUDA past the hooks.
pub(crate) fn open_core() {
    match STATE.compare_exchange(INERT, OPENING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(OPENING) => return wait_for_core(),
        Err(_) => return,
    }
    let next = match core_table() {
        Some(core) => {
            if let Some(real) = driver::link() {
                slots::take(core, real);
            }
            ACTIVE
        }
        None => DISABLED,
    };
    fork::watch();
    STATE.store(next, Ordering::Release);
}

/// Opening takes some milliseconds. It needs the loader's lock, which the
/// waiting thread may hold if it is in a library's constructor: give up then.
fn wait_for_core() {
    const PAUSE: libc::timespec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 100_000,
    };
    for _ in 0..10_000 {
        if STATE.load(Ordering::Acquire) != OPENING {
            return;
        }
        // SAFETY: a valid time; what is left of it does not matter.
        unsafe { libc::nanosleep(&PAUSE, ptr::null_mut()) };
    }
}

/// The active core's table.
pub(crate) fn core() -> Option<&'static CoreTable> {
    // SAFETY: published complete and never freed.
    unsafe { CORE.load(Ordering::Acquire).as_ref() }
}

fn core_table() -> Option<&'static CoreTable> {
    let real = driver::link()?;
    let library = core_library()?;
    // SAFETY: the library lies beside this one and belongs to it.
    let entry = unsafe { symbols::real_dlsym()(library, CORE_ENTRY.as_ptr()) };
    if entry.is_null() {
        return None;
    }
    // SAFETY: the symbol's signature is part of the interface's version.
    let entry = unsafe { transmute::<*mut c_void, CoreEntry>(entry) };
    let front = leak(FrontTable {
        abi: ABI_VERSION,
        hooks: Hook::COUNT as u32,
        dlsym: symbols::real_dlsym(),
        driver: driver::handle(),
        real: *real,
        freezable: settings::freezable(),
        targets: &slots::TARGETS,
    })?;
    let core = leak(CoreTable::EMPTY)?;
    // SAFETY: both tables live for ever.
    if unsafe { entry(front, core) } != 0 {
        return None;
    }
    CORE.store(core, Ordering::Release);
    // SAFETY: never freed.
    Some(unsafe { &*core })
}

/// Puts a value on the heap for the rest of the process.
fn leak<T>(value: T) -> Option<*mut T> {
    // SAFETY: a plain allocation, checked below.
    let place = unsafe { libc::malloc(size_of::<T>()) }.cast::<T>();
    if place.is_null() {
        return None;
    }
    // SAFETY: fresh memory, large enough, aligned by malloc.
    unsafe { place.write(value) };
    Some(place)
}

/// Opens `librewarm_core.so` from this library's own folder.
fn core_library() -> Option<*mut c_void> {
    const NAME: &[u8] = b"librewarm_core.so\0";
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: the address of a function of this library.
    if unsafe { libc::dladdr(core_library as *const c_void, info.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: dladdr succeeded; the name is a string.
    let own = unsafe { core::ffi::CStr::from_ptr((*info.as_ptr()).dli_fname) }.to_bytes();
    let folder = own
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let mut path = [0u8; libc::PATH_MAX as usize];
    let end = folder + NAME.len();
    if end > path.len() {
        return None;
    }
    path[..folder].copy_from_slice(&own[..folder]);
    path[folder..end].copy_from_slice(NAME);
    // SAFETY: a path that ends in NUL.
    let library = unsafe { libc::dlopen(path.as_ptr().cast(), libc::RTLD_NOW) };
    if library.is_null() {
        // SAFETY: clears the message, which is not the application's.
        unsafe { libc::dlerror() };
        return None;
    }
    Some(library)
}

/// In a forked child: the core's threads are gone. What happens next depends
/// on who had initialised the driver.
pub(crate) fn after_fork(driver_can_be_put_back: bool) {
    let state = STATE.load(Ordering::Acquire);
    if state == DISABLED {
        return;
    }
    if let Some(core) = core()
        && let Some(forked) = core.forked
    {
        // SAFETY: called in the child, once.
        unsafe { forked() };
    }
    if driver_can_be_put_back {
        slots::clear();
        STATE.store(INERT, Ordering::Release);
    } else if state != INERT {
        STATE.store(ORPHAN, Ordering::Release);
    }
}
