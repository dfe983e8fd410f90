//! Questions about memory.

use super::ledger;
use crate::ledger::NOWHERE;
use crate::ledger::attributes::{OwnMemory, is_answered_by_driver};
use crate::real;
use rewarm::driver::sys::*;
use std::slice;

#[inline(always)]
fn own_memory(address: CUdeviceptr) -> Option<OwnMemory> {
    ledger()?.own_memory(address)
}

#[inline(always)]
fn is_inside_last(address: CUdeviceptr) -> bool {
    ledger().is_some_and(|ledger| ledger.is_inside_last(address))
}

pub(super) unsafe extern "C" fn cuPointerGetAttribute(
    value: *mut c_void,
    attribute: c_int,
    address: CUdeviceptr,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuPointerGetAttribute(value, attribute, address) };
    if is_answered_by_driver(attribute) && is_inside_last(address) {
        return plain();
    }
    let Some(own) = own_memory(address).filter(|_| !value.is_null()) else {
        return plain();
    };
    if !own.is_inside {
        return CUresult::INVALID_VALUE;
    }
    let result = plain();
    let Some(answer) = own.answer(attribute) else {
        return result;
    };
    // SAFETY: the caller's own place for this attribute.
    unsafe { answer.put(value) };
    CUresult::SUCCESS
}

pub(super) unsafe extern "C" fn cuPointerGetAttributes(
    count: c_uint,
    attributes: *mut c_int,
    values: *mut *mut c_void,
    address: CUdeviceptr,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain =
        |address| unsafe { real::cuPointerGetAttributes(count, attributes, values, address) };
    if is_inside_last(address) && !attributes.is_null() {
        // SAFETY: as many as the application says.
        let mut asked = unsafe { slice::from_raw_parts(attributes, count as usize) }.iter();
        if asked.all(|attribute| is_answered_by_driver(*attribute)) {
            return plain(address);
        }
    }
    let Some(own) = own_memory(address) else {
        return plain(address);
    };
    if !own.is_inside {
        return plain(NOWHERE);
    }
    let result = plain(address);
    if !result.is_ok() {
        return result;
    }
    // SAFETY: the driver has read and written as many.
    let pairs = unsafe {
        let attributes = slice::from_raw_parts(attributes, count as usize);
        attributes
            .iter()
            .zip(slice::from_raw_parts(values, count as usize))
    };
    for (attribute, value) in pairs {
        if let Some(answer) = own.answer(*attribute) {
            // SAFETY: the caller's own place for this attribute.
            unsafe { answer.put(*value) };
        }
    }
    result
}

pub(super) unsafe extern "C" fn cuPointerSetAttribute(
    value: *const c_void,
    attribute: c_int,
    address: CUdeviceptr,
) -> CUresult {
    if attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
        && !value.is_null()
        && let Some(ledger) = ledger()
        && let Some(own) = ledger.own_memory(address).filter(|own| own.is_inside)
    {
        // SAFETY: the caller's own value, a boolean in an integer.
        let value = unsafe { value.cast::<u8>().read() } != 0;
        ledger.set_sync_memops(own.base, value);
        return CUresult::SUCCESS;
    }
    // SAFETY: the application's own call.
    unsafe { real::cuPointerSetAttribute(value, attribute, address) }
}

pub(super) unsafe extern "C" fn cuMemGetAddressRange_v2(
    base: *mut CUdeviceptr,
    bytes: *mut usize,
    address: CUdeviceptr,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain = |base, bytes| unsafe { real::cuMemGetAddressRange_v2(base, bytes, address) };
    let Some(own) = own_memory(address) else {
        return plain(base, bytes);
    };
    if !own.is_inside {
        return CUresult::NOT_FOUND;
    }
    let result = plain(base, bytes);
    if result.is_ok() && !bytes.is_null() {
        // SAFETY: the driver has just written there.
        unsafe { *bytes = own.bytes };
    }
    result
}
