//! Memory that stays where it is: pools, arrays, and what is shared with other
//! processes.

use super::ledger;
use crate::ledger::{Kind, Ledger};
use crate::real;
use rewarm::driver::sys::*;

/// Enters what a successful call has written to `place`.
unsafe fn entered<T: Copy>(
    result: CUresult,
    place: *mut T,
    enter: impl FnOnce(&Ledger, T),
) -> CUresult {
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        // SAFETY: the driver has just written there.
        enter(ledger, unsafe { *place });
    }
    result
}

macro_rules! pool_allocations {
    ($($name:ident ( $($pool:ident : $ty:ty)? );)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            address: *mut CUdeviceptr,
            bytes: usize,
            $($pool: $ty,)?
            stream: CUstream,
        ) -> CUresult {
            // SAFETY: the application's own call.
            unsafe {
                let result = real::$name(address, bytes, $($pool,)? stream);
                entered(result, address, |ledger, made| ledger.note(made, bytes, Kind::Pool))
            }
        }
    )*};
}

pool_allocations! {
    cuMemAllocAsync();
    cuMemAllocAsync_ptsz();
    cuMemAllocFromPoolAsync(pool: CUmemoryPool);
    cuMemAllocFromPoolAsync_ptsz(pool: CUmemoryPool);
}

/// The stream that a `_ptsz` function means.
pub(super) fn of_thread(stream: CUstream) -> CUstream {
    match stream.is_null() {
        true => CU_STREAM_PER_THREAD,
        false => stream,
    }
}

fn free_after(
    address: CUdeviceptr,
    stream: CUstream,
    plain: impl FnOnce() -> CUresult,
) -> CUresult {
    match ledger() {
        Some(ledger) => ledger
            .free_after(address, stream)
            .unwrap_or_else(|| ledger.forget(address, plain)),
        None => plain(),
    }
}

pub(super) unsafe extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    // SAFETY: the application's own call.
    free_after(address, stream, || unsafe {
        real::cuMemFreeAsync(address, stream)
    })
}

pub(super) unsafe extern "C" fn cuMemFreeAsync_ptsz(
    address: CUdeviceptr,
    stream: CUstream,
) -> CUresult {
    // SAFETY: the application's own call.
    free_after(address, of_thread(stream), || unsafe {
        real::cuMemFreeAsync_ptsz(address, stream)
    })
}

pub(super) unsafe extern "C" fn cuMemPoolImportPointer(
    address: *mut CUdeviceptr,
    pool: CUmemoryPool,
    shared: *mut c_void,
) -> CUresult {
    // SAFETY: the application's own call.
    unsafe {
        let result = real::cuMemPoolImportPointer(address, pool, shared);
        entered(result, address, |ledger, made| ledger.note_imported(made))
    }
}

pub(super) unsafe extern "C" fn cuIpcGetMemHandle(
    shared: *mut CUipcMemHandle,
    address: CUdeviceptr,
) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuIpcGetMemHandle(shared, address) };
    if let Some(ledger) = ledger() {
        ledger.shared(address, result);
    }
    result
}

macro_rules! ipc_openings {
    ($($name:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            address: *mut CUdeviceptr,
            shared: CUipcMemHandle,
            flags: c_uint,
        ) -> CUresult {
            // SAFETY: the application's own call.
            unsafe {
                let result = real::$name(address, shared, flags);
                entered(result, address, |ledger, made| ledger.note_imported(made))
            }
        }
    )*};
}

ipc_openings! {
    cuIpcOpenMemHandle;
    cuIpcOpenMemHandle_v2;
}

pub(super) unsafe extern "C" fn cuIpcCloseMemHandle(address: CUdeviceptr) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuIpcCloseMemHandle(address) };
    match ledger() {
        Some(ledger) => ledger.forget(address, plain),
        None => plain(),
    }
}

/// Counts an array that came or went.
fn counted(result: CUresult, change: i64) -> CUresult {
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        ledger.arrays(change);
    }
    result
}

macro_rules! arrays {
    ($change:literal: $($name:ident ( $($arg:ident : $ty:ty),* );)*) => {$(
        pub(super) unsafe extern "C" fn $name($($arg: $ty),*) -> CUresult {
            // SAFETY: the application's own call.
            counted(unsafe { real::$name($($arg),*) }, $change)
        }
    )*};
}

arrays! { 1:
    cuArrayCreate_v2(array: *mut CUarray, description: *const c_void);
    cuArray3DCreate_v2(array: *mut CUarray, description: *const c_void);
    cuMipmappedArrayCreate(array: *mut CUmipmappedArray, description: *const c_void, levels: c_uint);
}

arrays! { -1:
    cuArrayDestroy(array: CUarray);
    cuMipmappedArrayDestroy(array: CUmipmappedArray);
}
