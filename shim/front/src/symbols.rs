//! Answers to `dlsym` for symbols of the driver.
//!
//! No lock is held and nothing blocks here: libraries ask for driver symbols
//! from their constructors, under the loader's lock.

use crate::{driver, settings, slots, spares, state};
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

/// Whether [`answer`] decides this question. `RTLD_NEXT` is left alone: who
/// asks for the next definition wants the one behind its own.
pub(crate) unsafe extern "C" fn is_ours(handle: *mut c_void, name: *const c_char) -> bool {
    // SAFETY: the caller of `dlsym` passes a string.
    let name = unsafe { CStr::from_ptr(name) };
    handle != libc::RTLD_NEXT && (Hook::find(name).is_some() || spares::function(name).is_some())
}

/// `dlsym` for one of our names: the stub, if the answer is the driver's function.
pub(crate) unsafe extern "C" fn answer(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: the caller of `dlsym` passes a string and one of its handles.
    let (found, text) = unsafe { (real_dlsym()(handle, name), CStr::from_ptr(name)) };
    if found.is_null() {
        return found;
    }
    let Some(hook) = Hook::find(text) else {
        return match spares::function(text) {
            Some(function) if function == found => spares::stub_of(found),
            _ => found,
        };
    };
    let is_stub = found == slots::stub(hook);
    let address = match driver::link() {
        Some(real) => real[hook as usize].cast_mut(),
        None => ptr::null_mut(),
    };
    if address.is_null() && is_stub {
        // The program probes for CUDA, or for this function, and found our export;
        // no driver is loaded, or it is older. So it must find nothing, with
        // `dlerror` set. The question has to come from this library, hence not as
        // a tail call.
        // SAFETY: as above.
        return hint::black_box(unsafe { real_dlsym()(libc::RTLD_NEXT, name) });
    }
    if found != address && !is_stub {
        return found;
    }
    let wanted = hook.is_hooked() || settings::freezable();
    if wanted && !state::is_disabled() {
        slots::stub(hook)
    } else {
        address
    }
}
