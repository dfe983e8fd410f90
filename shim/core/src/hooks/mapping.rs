//! The application's own physical memory.

use super::ledger;
use crate::ledger::Ledger;
use crate::real;
use rewarm::driver::sys::*;
use std::slice;

pub(super) unsafe extern "C" fn cuMemCreate(
    handle: *mut CUmemGenericAllocationHandle,
    bytes: usize,
    properties: *const CUmemAllocationProp,
    flags: u64,
) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuMemCreate(handle, bytes, properties, flags) };
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        // SAFETY: the driver has just read and written there.
        unsafe { *handle = ledger.created(*handle, bytes, *properties, flags) };
    }
    result
}

pub(super) unsafe extern "C" fn cuMemRelease(handle: CUmemGenericAllocationHandle) -> CUresult {
    // SAFETY: the application's own call.
    let plain = |handle| unsafe { real::cuMemRelease(handle) };
    match ledger() {
        Some(ledger) => ledger.release_handle(handle, plain),
        None => plain(handle),
    }
}

/// Makes a call with the driver's handle, and enters its success.
fn translated(
    handle: CUmemGenericAllocationHandle,
    call: impl FnOnce(CUmemGenericAllocationHandle) -> CUresult,
    enter: impl FnOnce(&Ledger),
) -> CUresult {
    let Some(ledger) = ledger() else {
        return call(handle);
    };
    let Some(real) = ledger.translate(handle) else {
        return CUresult::INVALID_VALUE;
    };
    let result = call(real);
    if result.is_ok() {
        enter(ledger);
    }
    result
}

pub(super) unsafe extern "C" fn cuMemMap(
    address: CUdeviceptr,
    bytes: usize,
    offset: usize,
    handle: CUmemGenericAllocationHandle,
    flags: u64,
) -> CUresult {
    translated(
        handle,
        // SAFETY: the application's own call.
        |handle| unsafe { real::cuMemMap(address, bytes, offset, handle, flags) },
        |ledger| ledger.mapped(address, bytes, offset, handle),
    )
}

pub(super) unsafe extern "C" fn cuMemUnmap(address: CUdeviceptr, bytes: usize) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuMemUnmap(address, bytes) };
    match ledger() {
        Some(ledger) => ledger.unmap(address, bytes, plain),
        None => plain(),
    }
}

pub(super) unsafe extern "C" fn cuMemSetAccess(
    address: CUdeviceptr,
    bytes: usize,
    accesses: *const CUmemAccessDesc,
    count: usize,
) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuMemSetAccess(address, bytes, accesses, count) };
    if result.is_ok()
        && !accesses.is_null()
        && let Some(ledger) = ledger()
    {
        // SAFETY: the driver has just read as many.
        ledger.access_set(address, bytes, unsafe {
            slice::from_raw_parts(accesses, count)
        });
    }
    result
}

pub(super) unsafe extern "C" fn cuMemRetainAllocationHandle(
    handle: *mut CUmemGenericAllocationHandle,
    address: *mut c_void,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuMemRetainAllocationHandle(handle, address) };
    let Some(ledger) = ledger().filter(|_| !handle.is_null()) else {
        return plain();
    };
    match ledger.retain_handle(address.addr() as CUdeviceptr) {
        Ok(Some(token)) => {
            // SAFETY: the caller's out-pointer.
            unsafe { *handle = token };
            CUresult::SUCCESS
        }
        Ok(None) => {
            let result = plain();
            if result.is_ok() {
                // SAFETY: the driver has just written there.
                ledger.retained_foreign(unsafe { *handle });
            }
            result
        }
        Err(error) => error.code,
    }
}

pub(super) unsafe extern "C" fn cuMemGetAllocationPropertiesFromHandle(
    properties: *mut CUmemAllocationProp,
    handle: CUmemGenericAllocationHandle,
) -> CUresult {
    translated(
        handle,
        // SAFETY: the application's own call.
        |handle| unsafe { real::cuMemGetAllocationPropertiesFromHandle(properties, handle) },
        |_| {},
    )
}

pub(super) unsafe extern "C" fn cuMemExportToShareableHandle(
    shared: *mut c_void,
    handle: CUmemGenericAllocationHandle,
    kind: c_int,
    flags: u64,
) -> CUresult {
    translated(
        handle,
        // SAFETY: the application's own call.
        |handle| unsafe { real::cuMemExportToShareableHandle(shared, handle, kind, flags) },
        |ledger| ledger.exported(handle),
    )
}

pub(super) unsafe extern "C" fn cuMemImportFromShareableHandle(
    handle: *mut CUmemGenericAllocationHandle,
    shared: *mut c_void,
    kind: c_int,
) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuMemImportFromShareableHandle(handle, shared, kind) };
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        // SAFETY: the driver has just written there.
        ledger.imported_handle(unsafe { *handle });
    }
    result
}

pub(super) unsafe extern "C" fn cuMemGetHandleForAddressRange(
    shared: *mut c_void,
    address: CUdeviceptr,
    bytes: usize,
    kind: c_int,
    flags: u64,
) -> CUresult {
    // SAFETY: the application's own call.
    let result =
        unsafe { real::cuMemGetHandleForAddressRange(shared, address, bytes, kind, flags) };
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        ledger.range_exported(address, bytes);
    }
    result
}

/// Translates the handles of a list, in a copy of it.
unsafe fn map_array(
    parts: *mut CUarrayMapInfo,
    count: c_uint,
    call: impl FnOnce(*mut CUarrayMapInfo) -> CUresult,
) -> CUresult {
    let Some(ledger) = ledger().filter(|_| !parts.is_null()) else {
        return call(parts);
    };
    // SAFETY: the caller's own list.
    let mut copy = unsafe { slice::from_raw_parts(parts, count as usize) }.to_vec();
    let handles: Vec<_> = copy.iter().map(|part| part.handle).collect();
    for part in &mut copy {
        match ledger.translate(part.handle) {
            Some(real) => part.handle = real,
            None => return CUresult::INVALID_VALUE,
        }
    }
    let result = call(copy.as_mut_ptr());
    if result.is_ok() {
        handles.iter().for_each(|handle| ledger.bound(*handle));
    }
    result
}

macro_rules! array_mappings {
    ($($name:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            parts: *mut CUarrayMapInfo,
            count: c_uint,
            stream: CUstream,
        ) -> CUresult {
            // SAFETY: the application's own call.
            unsafe { map_array(parts, count, |parts| real::$name(parts, count, stream)) }
        }
    )*};
}

array_mappings! {
    cuMemMapArrayAsync;
    cuMemMapArrayAsync_ptsz;
}

pub(super) unsafe extern "C" fn cuMulticastBindMem(
    multicast: CUmemGenericAllocationHandle,
    multicast_offset: usize,
    handle: CUmemGenericAllocationHandle,
    offset: usize,
    bytes: usize,
    flags: u64,
) -> CUresult {
    translated(
        handle,
        // SAFETY: the application's own call.
        |handle| unsafe {
            real::cuMulticastBindMem(multicast, multicast_offset, handle, offset, bytes, flags)
        },
        |ledger| ledger.bound(handle),
    )
}

macro_rules! bindings_of_handles {
    ($($name:ident ( $object:ident : $kind:ty, $number:ty );)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            $object: $kind,
            device: CUdevice,
            place: $number,
            handle: CUmemGenericAllocationHandle,
            offset: $number,
            bytes: $number,
            flags: u64,
        ) -> CUresult {
            translated(
                handle,
                // SAFETY: the application's own call.
                |handle| unsafe { real::$name($object, device, place, handle, offset, bytes, flags) },
                |ledger| ledger.bound(handle),
            )
        }
    )*};
}

bindings_of_handles! {
    cuMulticastBindMem_v2(multicast: CUmemGenericAllocationHandle, usize);
    cuLogicalEndpointBindMem(endpoint: u32, u64);
}

macro_rules! bindings_of_addresses {
    ($($name:ident ( $($before:ident : $ty:ty),*; $number:ty );)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            $($before: $ty,)*
            address: CUdeviceptr,
            bytes: $number,
            flags: u64,
        ) -> CUresult {
            // SAFETY: the application's own call.
            let result = unsafe { real::$name($($before,)* address, bytes, flags) };
            if result.is_ok()
                && let Some(ledger) = ledger()
            {
                ledger.range_bound(address, bytes as usize);
            }
            result
        }
    )*};
}

bindings_of_addresses! {
    cuMulticastBindAddr(multicast: CUmemGenericAllocationHandle, place: usize; usize);
    cuMulticastBindAddr_v2(
        multicast: CUmemGenericAllocationHandle, device: CUdevice, place: usize; usize
    );
    cuLogicalEndpointBindAddr(endpoint: u32, device: CUdevice, place: u64; u64);
}
