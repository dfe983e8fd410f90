//! `cuGetProcAddress`: asks the driver and swaps by address.
//!
//! The driver returns addresses of its exported symbols (all 439 that
//! libcudart 13 asks for), so whatever version and flags were asked, a function
//! of the table is recognised by where it is, and no version rule is repeated
//! here. One that the table does not know gets a spare stub in a freezable
//! process.

use crate::{driver, settings, slots, spares, state};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use rewarm_abi::Hook;

type Lookup4 = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64) -> c_int;
type Lookup5 =
    unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, u64, *mut c_int) -> c_int;

/// The form of CUDA 11.3.
pub(crate) unsafe extern "C" fn cu_get_proc_address(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
) -> c_int {
    let Some(real) = driver::link() else {
        return driver::STUB_LIBRARY;
    };
    // SAFETY: the driver's function of this signature, with the caller's arguments.
    unsafe {
        let lookup = transmute::<*const c_void, Lookup4>(real[Hook::cuGetProcAddress as usize]);
        let result = lookup(symbol, function, version, flags);
        swap(result, symbol, function);
        result
    }
}

/// The form of CUDA 12, which also says why nothing was found.
pub(crate) unsafe extern "C" fn cu_get_proc_address_v2(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_int,
    flags: u64,
    status: *mut c_int,
) -> c_int {
    let Some(real) = driver::link() else {
        return driver::STUB_LIBRARY;
    };
    // SAFETY: the driver's function of this signature, with the caller's arguments.
    unsafe {
        let lookup = transmute::<*const c_void, Lookup5>(real[Hook::cuGetProcAddress_v2 as usize]);
        let result = lookup(symbol, function, version, flags, status);
        swap(result, symbol, function);
        result
    }
}

/// Replaces a function's address by that of the stub that stands for it.
///
/// # Safety
/// The driver has just looked `symbol` up; `function` is what it has written its
/// answer to, or null.
unsafe fn swap(result: c_int, symbol: *const c_char, function: *mut *mut c_void) {
    if result != 0 || function.is_null() || state::is_disabled() {
        return;
    }
    // SAFETY: the driver succeeded in writing there.
    let found = unsafe { *function };
    if found.is_null() {
        return;
    }
    let stub = match driver::symbol_at(found) {
        Some(hook) if hook.is_hooked() || settings::freezable() => slots::stub(hook),
        Some(_) => return,
        // SAFETY: the driver has read the name.
        None if spares::are_for(unsafe { CStr::from_ptr(symbol) }) => spares::stub_of(found),
        None => return,
    };
    // SAFETY: as above.
    unsafe { *function = stub };
}
