//! The driver library of this process: found by the front, and loaded by it only
//! to prewarm.

use crate::{fork, slots, symbols};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use rewarm_abi::Hook;

/// `CUDA_ERROR_STUB_LIBRARY`: what NVIDIA's own link-time stub answers where no
/// driver is installed.
pub(crate) const STUB_LIBRARY: c_int = 34;
/// `CUDA_ERROR_NOT_FOUND`: the driver has no such function.
pub(crate) const NOT_FOUND: c_int = 500;

const LIBRARY: &core::ffi::CStr = c"libcuda.so.1";

type Addresses = [*const c_void; Hook::COUNT];

static HANDLE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static LINKED: AtomicBool = AtomicBool::new(false);

struct Real(UnsafeCell<Addresses>);
// SAFETY: written by the one thread that published HANDLE, before LINKED.
unsafe impl Sync for Real {}
static REAL: Real = Real(UnsafeCell::new([ptr::null(); Hook::COUNT]));

/// Handle of the driver library; null before [`link`] found it.
pub(crate) fn handle() -> *mut c_void {
    HANDLE.load(Ordering::Acquire)
}

/// The driver's own address of each hooked symbol, if a driver is loaded.
///
/// The first success keeps the library loaded for good: from then on addresses
/// into it are being handed out.
pub(crate) fn link() -> Option<&'static Addresses> {
    if !LINKED.load(Ordering::Acquire) && !find() {
        return None;
    }
    // SAFETY: no more writes once LINKED is set.
    let real = unsafe { &*REAL.0.get() };
    if !slots::are_filled() {
        fork::refresh_driver();
        slots::fill(real);
    }
    Some(real)
}

/// Looks for a loaded driver. Two threads may come here at once; the one that
/// publishes the handle fills the table, and the other waits for it.
fn find() -> bool {
    // SAFETY: RTLD_NOLOAD only asks whether the library is there.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        // Leave no message for the program's next dlerror.
        // SAFETY: reads and clears the calling thread's message.
        unsafe { libc::dlerror() };
        return false;
    }
    if let Err(_other) =
        HANDLE.compare_exchange(ptr::null_mut(), handle, Ordering::AcqRel, Ordering::Acquire)
    {
        // SAFETY: gives back the reference taken above.
        unsafe { libc::dlclose(handle) };
        return wait_for_table();
    }
    let dlsym = symbols::real_dlsym();
    // SAFETY: this thread alone won the exchange; nobody reads before LINKED.
    let real = unsafe { &mut *REAL.0.get() };
    for hook in Hook::ALL {
        // SAFETY: a valid handle and a string.
        real[hook as usize] = unsafe { dlsym(handle, hook.name().as_ptr()) };
    }
    // SAFETY: clears what a missing symbol left behind.
    unsafe { libc::dlerror() };
    LINKED.store(true, Ordering::Release);
    true
}

/// The winner needs some microseconds and no lock that we could be holding,
/// except the loader's: give up after a while rather than wait for ever.
fn wait_for_table() -> bool {
    for _ in 0..10_000 {
        if LINKED.load(Ordering::Acquire) {
            return true;
        }
        // SAFETY: gives the processor away.
        unsafe { libc::sched_yield() };
    }
    false
}

/// Loads the driver, for prewarming only.
pub(crate) fn load() -> bool {
    // SAFETY: what the application would do itself a little later.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
    !handle.is_null() && link().is_some()
}
