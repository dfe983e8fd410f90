//! `cuGetProcAddress`: asks the driver and swaps by address.
//!
//! The driver returns addresses of its exported symbols (all 439 that
//! libcudart 13 asks for), so whatever version and flags were asked, a function
//! that is hooked is recognised by where it is, and no version rule is repeated
//! here.

use crate::{driver, slots, state};
use core::ffi::{c_char, c_int, c_void};
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
        swap(result, function, real);
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
        swap(result, function, real);
        result
    }
}

/// Replaces a hooked function's address by its stub's.
///
/// # Safety
/// `function` is what the driver has just written its answer to, or null.
unsafe fn swap(result: c_int, function: *mut *mut c_void, real: &[*const c_void; Hook::COUNT]) {
    if result != 0 || function.is_null() || state::is_disabled() {
        return;
    }
    // SAFETY: the driver succeeded in writing there.
    let found = unsafe { *function };
    if found.is_null() {
        return;
    }
    if let Some(hook) = Hook::ALL
        .into_iter()
        .find(|&hook| real[hook as usize] == found)
    {
        // SAFETY: as above.
        unsafe { *function = slots::stub(hook) };
    }
}
