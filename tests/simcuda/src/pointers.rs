//! What `cuPointerGetAttribute(s)` says about an address.

use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED, fail};
use crate::ffi::{DevicePtr, Out};
use crate::memory::{Kind, Region};
use crate::world::World;
use std::ffi::c_void;

/// `CU_MEMORYTYPE_HOST`.
const TYPE_HOST: u32 = 1;
/// `CU_MEMORYTYPE_DEVICE`.
const TYPE_DEVICE: u32 = 2;
/// `CU_DEVICE_INVALID`.
const NO_DEVICE: i32 = -2;

/// A value by its C type.
pub enum Value {
    /// `int`, `unsigned int` and enums.
    Int(i32),
    /// `bool`.
    Bool(bool),
    /// Pointers, sizes, handles.
    Wide(u64),
}

impl Value {
    /// Writes it where the caller wants it.
    pub fn put(&self, place: *mut c_void) -> Answer {
        match *self {
            Value::Int(value) => Out::from_raw(place.cast::<i32>()).put(value),
            Value::Bool(value) => Out::from_raw(place.cast::<u8>()).put(u8::from(value)),
            Value::Wide(value) => Out::from_raw(place.cast::<u64>()).put(value),
        }
    }
}

/// An attribute of a known address.
pub fn of_region(
    world: &World,
    region: &Region,
    address: DevicePtr,
    attribute: u32,
) -> Answer<Value> {
    let is_host = matches!(region.kind, Kind::Pinned | Kind::Registered);
    let is_managed = region.kind == Kind::Managed;
    let is_mapped = matches!(region.kind, Kind::Mapped { .. });
    Ok(match attribute {
        1 => Value::Wide(region.context),
        2 => Value::Int(if is_host { TYPE_HOST } else { TYPE_DEVICE } as i32),
        3 => Value::Wide(address),
        4 if is_host || is_managed => Value::Wide(address),
        4 => return fail(ERROR_INVALID_VALUE),
        5 => return fail(ERROR_NOT_SUPPORTED),
        6 => Value::Bool(region.sync_memops),
        7 => Value::Wide(region.id),
        8 => Value::Bool(is_managed),
        9 => Value::Int(region.device as i32),
        10 => Value::Bool(region.kind == Kind::Linear && region.pool == 0),
        11 => Value::Wide(region.base),
        12 => Value::Wide(region.size),
        13 => Value::Bool(true),
        14 => Value::Wide(u64::from(is_mapped && world.vmm.is_exportable(region))),
        15 => Value::Bool(!is_host && !is_managed),
        // Read and write.
        16 => Value::Int(3),
        17 => Value::Wide(region.pool),
        18 => Value::Wide(region.size),
        19 => Value::Wide(region.base),
        20 => Value::Wide(region.id),
        21 => Value::Bool(false),
        _ => return fail(ERROR_INVALID_VALUE),
    })
}

/// An attribute of an address that is not known (or has no such attribute), as
/// `cuPointerGetAttributes` writes it.
pub fn of_nothing(attribute: u32) -> Value {
    match attribute {
        2 | 16 => Value::Int(0),
        6 | 8 | 10 | 13 | 15 | 21 => Value::Bool(false),
        9 => Value::Int(NO_DEVICE),
        _ => Value::Wide(0),
    }
}
