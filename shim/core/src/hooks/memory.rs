//! Allocations: of device memory, noted only while a context stands in for a created
//! one, and of pinned memory, which may be filled.

use super::context::STANDS_IN;
use crate::{process, real};
use rewarm::driver::sys::*;
use std::sync::atomic::Ordering;

/// Notes what a successful allocation has written to `address`.
unsafe fn noted(result: CUresult, address: *mut CUdeviceptr) -> CUresult {
    if result.is_ok()
        && STANDS_IN.load(Ordering::Acquire)
        && let Some(process) = process::current()
    {
        // SAFETY: the driver has just written there.
        let address = unsafe { *address };
        let context = process.current_context();
        process.contexts.lock().allocated(context, address);
    }
    result
}

pub(super) unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    // SAFETY: the application's own call.
    unsafe { noted(real::cuMemAlloc_v2(address, bytes), address) }
}

pub(super) unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> CUresult {
    // SAFETY: the application's own call.
    unsafe {
        noted(
            real::cuMemAllocPitch_v2(address, pitch, width, height, element),
            address,
        )
    }
}

pub(super) unsafe extern "C" fn cuMemAllocManaged(
    address: *mut CUdeviceptr,
    bytes: usize,
    flags: c_uint,
) -> CUresult {
    // SAFETY: the application's own call.
    unsafe { noted(real::cuMemAllocManaged(address, bytes, flags), address) }
}

pub(super) unsafe extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    if STANDS_IN.load(Ordering::Acquire)
        && let Some(process) = process::current()
    {
        process.contexts.lock().freed(address);
    }
    // SAFETY: the application's own call.
    unsafe { real::cuMemFree_v2(address) }
}

/// Notes the pinned memory that a successful allocation has written to `address`.
unsafe fn pinned(result: CUresult, address: *mut *mut c_void, bytes: usize) -> CUresult {
    if result.is_ok()
        && let Some(process) = process::current()
    {
        // SAFETY: the driver has just written there.
        process.pinned(unsafe { *address }.addr(), bytes);
    }
    result
}

pub(super) unsafe extern "C" fn cuMemAllocHost_v2(
    address: *mut *mut c_void,
    bytes: usize,
) -> CUresult {
    // SAFETY: the application's own call.
    unsafe { pinned(real::cuMemAllocHost_v2(address, bytes), address, bytes) }
}

pub(super) unsafe extern "C" fn cuMemHostAlloc(
    address: *mut *mut c_void,
    bytes: usize,
    flags: c_uint,
) -> CUresult {
    // SAFETY: the application's own call.
    unsafe { pinned(real::cuMemHostAlloc(address, bytes, flags), address, bytes) }
}

/// Forgotten before it is freed: another thread may be given the same address.
pub(super) unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> CUresult {
    if let Some(process) = process::current() {
        process.fills.freed(address.addr());
    }
    // SAFETY: the application's own call.
    unsafe { real::cuMemFreeHost(address) }
}
