//! Answers to `dlsym` for hooked symbols.
//!
//! No lock is held and nothing blocks here: libraries ask for driver symbols
//! from their constructors, under the loader's lock.

use crate::{driver, slots, state};
use core::ffi::{CStr, c_char, c_void};
use core::hint;
use core::mem::transmute;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use rewarm_abi::{DlsymFn, Hook};

/// The C library's `dlsym`, null until first needed.
pub(crate) static REAL_DLSYM: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Finds the C library's `dlsym` through `dlvsym`, under the two versions that
/// it has had on x86-64 (aarch64 has one more).
pub(crate) extern "C" fn find_real_dlsym() -> *mut c_void {
    for version in [c"GLIBC_2.34", c"GLIBC_2.2.5", c"GLIBC_2.17"] {
        // SAFETY: plain lookup of a symbol that exists since the C library does.
        let address = unsafe { libc::dlvsym(libc::RTLD_NEXT, c"dlsym".as_ptr(), version.as_ptr()) };
        if !address.is_null() {
            REAL_DLSYM.store(address, Ordering::Release);
            return address;
        }
    }
    // SAFETY: without `dlsym` nothing in this process can go on.
    unsafe { libc::abort() }
}

/// The C library's `dlsym`.
pub(crate) fn real_dlsym() -> DlsymFn {
    let mut address = REAL_DLSYM.load(Ordering::Acquire);
    if address.is_null() {
        address = find_real_dlsym();
    }
    // SAFETY: the address is that of `dlsym`.
    unsafe { transmute::<*mut c_void, DlsymFn>(address) }
}

fn hook_of(name: &CStr) -> Option<Hook> {
    Hook::ALL.into_iter().find(|hook| hook.name() == name)
}

/// Whether [`answer`] decides this question. `RTLD_NEXT` is left alone: who
/// asks for the next definition wants the one behind its own.
pub(crate) unsafe extern "C" fn is_ours(handle: *mut c_void, name: *const c_char) -> bool {
    // SAFETY: the caller of `dlsym` passes a string.
    handle != libc::RTLD_NEXT && hook_of(unsafe { CStr::from_ptr(name) }).is_some()
}

/// `dlsym` for a hooked name: the stub, if the answer is the driver's function.
pub(crate) unsafe extern "C" fn answer(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    let dlsym = real_dlsym();
    // SAFETY: the caller of `dlsym` passes a string and one of its handles.
    let (found, hook) = unsafe { (dlsym(handle, name), hook_of(CStr::from_ptr(name))) };
    let Some(hook) = hook else { return found };
    if found.is_null() {
        return found;
    }
    let Some(real) = driver::link() else {
        if found == slots::stub(hook) {
            // The program probes for CUDA and found our export; no driver is
            // loaded, so it must find nothing, with `dlerror` set. The question
            // has to come from this library, hence not as a tail call.
            // SAFETY: as above.
            return hint::black_box(unsafe { dlsym(libc::RTLD_NEXT, name) });
        }
        return found;
    };
    let address = real[hook as usize].cast_mut();
    let is_driver = found == address || found == slots::stub(hook);
    match (is_driver, state::is_disabled()) {
        (false, _) => found,
        (true, true) => address,
        (true, false) => slots::stub(hook),
    }
}
