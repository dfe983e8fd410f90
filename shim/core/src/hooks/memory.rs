//! Allocations: of device memory, noted while a context stands in for a created one
//! and made by the ledger in a freezable process, and of pinned memory, which may be
//! filled.

use super::context::STANDS_IN;
use super::ledger;
use crate::ledger::{Kind, Ledger};
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

/// The same, and enters it in the ledger.
unsafe fn entered(
    result: CUresult,
    address: *mut CUdeviceptr,
    enter: impl FnOnce(&Ledger, CUdeviceptr),
) -> CUresult {
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        // SAFETY: the driver has just written there.
        enter(ledger, unsafe { *address });
    }
    // SAFETY: passed on.
    unsafe { noted(result, address) }
}

pub(super) unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    if let Some(ledger) = ledger()
        && !address.is_null()
        && let Some(made) = ledger.allocate(bytes)
    {
        // SAFETY: the caller's out-pointer.
        unsafe {
            *address = made;
            return noted(CUresult::SUCCESS, address);
        }
    }
    // SAFETY: the application's own call.
    unsafe {
        entered(
            real::cuMemAlloc_v2(address, bytes),
            address,
            |ledger, made| ledger.note_plain(made, bytes),
        )
    }
}

pub(super) unsafe extern "C" fn cuMemAllocPitch_v2(
    address: *mut CUdeviceptr,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: c_uint,
) -> CUresult {
    if let Some(ledger) = ledger()
        && !address.is_null()
        && !pitch.is_null()
        && let Some((made, bytes)) = ledger.allocate_rows(width, height, element)
    {
        // SAFETY: the caller's out-pointers.
        unsafe {
            *address = made;
            *pitch = bytes;
            return noted(CUresult::SUCCESS, address);
        }
    }
    // SAFETY: the application's own call; on success the driver has written the pitch.
    unsafe {
        entered(
            real::cuMemAllocPitch_v2(address, pitch, width, height, element),
            address,
            |ledger, made| ledger.note_plain(made, (*pitch).saturating_mul(height)),
        )
    }
}

pub(super) unsafe extern "C" fn cuMemAllocManaged(
    address: *mut CUdeviceptr,
    bytes: usize,
    flags: c_uint,
) -> CUresult {
    // SAFETY: the application's own call.
    unsafe {
        entered(
            real::cuMemAllocManaged(address, bytes, flags),
            address,
            |ledger, made| ledger.note(made, bytes, Kind::Managed),
        )
    }
}

pub(super) unsafe extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    if STANDS_IN.load(Ordering::Acquire)
        && let Some(process) = process::current()
    {
        process.contexts.lock().freed(address);
    }
    free(address)
}

/// Frees device memory, whoever made it.
pub(super) fn free(address: CUdeviceptr) -> CUresult {
    // SAFETY: the driver checks the address.
    let plain = || unsafe { real::cuMemFree_v2(address) };
    match ledger() {
        Some(ledger) => ledger
            .free(address)
            .unwrap_or_else(|| ledger.forget(address, plain)),
        None => plain(),
    }
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
