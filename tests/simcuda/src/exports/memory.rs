//! Allocation: device, pinned, registered, managed; and questions about pointers.

use crate::capture::guard_unsafe;
use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_NOT_FOUND, fail, require};
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Handle, In, Out};
use crate::memory::{Kind, New};
use crate::pointers::{Value, of_nothing, of_region};
use crate::stream::Marker;
use crate::thread;
use crate::world::World;
use std::ffi::c_void;

fn new_here(world: &'static World, kind: Kind, flags: u32) -> Answer<New> {
    let context = thread::context(world)?;
    Ok(New {
        kind,
        context: context.handle,
        device: context.device,
        flags,
        pool: 0,
    })
}

fn allocate(world: &'static World, place: Out<DevicePtr>, bytes: usize) -> Answer {
    let new = new_here(world, Kind::Linear, 0)?;
    guard_unsafe(world)?;
    require(place.given(), ERROR_INVALID_VALUE)?;
    place.put(world.memory.allocate_device(world, bytes, new)?)
}

fn allocate_pitch(
    world: &'static World,
    place: Out<DevicePtr>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    element: u32,
) -> Answer {
    require(
        matches!(element, 4 | 8 | 16) && width > 0 && height > 0,
        ERROR_INVALID_VALUE,
    )?;
    let row = width
        .checked_next_multiple_of(512)
        .ok_or(ERROR_INVALID_VALUE)?;
    require(pitch.given(), ERROR_INVALID_VALUE)?;
    allocate(
        world,
        place,
        row.checked_mul(height).ok_or(ERROR_INVALID_VALUE)?,
    )?;
    pitch.put(row)
}

fn allocate_managed(
    world: &'static World,
    place: Out<DevicePtr>,
    bytes: usize,
    flags: u32,
) -> Answer {
    let new = new_here(world, Kind::Managed, flags)?;
    guard_unsafe(world)?;
    require(place.given() && matches!(flags, 1 | 2), ERROR_INVALID_VALUE)?;
    place.put(world.memory.allocate_host(bytes, new)?)
}

/// Waits for the whole context, as the real driver does, so that no work loses its memory.
fn free(world: &'static World, address: DevicePtr) -> Answer {
    let context = thread::context(world)?;
    guard_unsafe(world)?;
    if address == 0 {
        return Ok(());
    }
    let region = world
        .memory
        .find(address)
        .filter(|region| region.base == address)
        .ok_or(ERROR_INVALID_VALUE)?;
    let owner = world.contexts.find(region.context).unwrap_or(context);
    owner.all_ends().iter().for_each(Marker::wait);
    world.memory.free_device(world, address)
}

fn address_range(
    world: &'static World,
    base: Out<DevicePtr>,
    size: Out<usize>,
    address: DevicePtr,
) -> Answer {
    thread::context(world)?;
    let region = world.memory.find(address).ok_or(ERROR_NOT_FOUND)?;
    base.put_if_given(region.base);
    size.put_if_given(region.size as usize);
    Ok(())
}

fn allocate_host(world: &'static World, place: Out<u64>, bytes: usize, flags: u32) -> Answer {
    let new = new_here(world, Kind::Pinned, flags)?;
    guard_unsafe(world)?;
    require(place.given() && flags & !7 == 0, ERROR_INVALID_VALUE)?;
    place.put(world.memory.allocate_host(bytes, new)?)
}

fn wait_for_context(world: &'static World) -> Answer {
    thread::context(world)?
        .all_ends()
        .iter()
        .for_each(Marker::wait);
    Ok(())
}

fn free_host(world: &'static World, address: u64) -> Answer {
    thread::context(world)?;
    guard_unsafe(world)?;
    if address == 0 {
        return Ok(());
    }
    wait_for_context(world)?;
    world.memory.free_host(address)
}

/// Portable, mapped, I/O memory, read-only.
const REGISTER_FLAGS: u32 = 0xF;

fn register(world: &'static World, address: u64, bytes: usize, flags: u32) -> Answer {
    let new = new_here(world, Kind::Registered, flags)?;
    guard_unsafe(world)?;
    require(flags & !REGISTER_FLAGS == 0, ERROR_INVALID_VALUE)?;
    world.memory.register(address, bytes, new)
}

fn unregister(world: &'static World, address: u64) -> Answer {
    thread::context(world)?;
    guard_unsafe(world)?;
    require(address != 0, ERROR_INVALID_VALUE)?;
    wait_for_context(world)?;
    world.memory.unregister(address)
}

fn device_pointer(
    world: &'static World,
    place: Out<DevicePtr>,
    address: u64,
    flags: u32,
) -> Answer {
    thread::context(world)?;
    require(flags == 0, ERROR_INVALID_VALUE)?;
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    require(
        matches!(region.kind, Kind::Pinned | Kind::Registered),
        ERROR_INVALID_VALUE,
    )?;
    place.put(address)
}

fn host_flags(world: &'static World, place: Out<u32>, address: u64) -> Answer {
    /// Mapped: the driver sets it for all host memory, as addressing is unified.
    const MAPPED: u32 = 2;
    thread::context(world)?;
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    require(region.kind == Kind::Pinned, ERROR_INVALID_VALUE)?;
    place.put(region.flags | MAPPED)
}

fn attribute(world: &World, place: *mut c_void, number: u32, address: DevicePtr) -> Answer {
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    of_region(world, &region, address, number)?.put(place)
}

fn attributes(
    world: &World,
    count: u32,
    numbers: In<u32>,
    places: In<*mut c_void>,
    address: DevicePtr,
) -> Answer {
    let region = world.memory.find(address);
    for index in 0..count as usize {
        let number = numbers.at(index)?;
        let known = region.and_then(|region| of_region(world, &region, address, number).ok());
        known
            .unwrap_or_else(|| of_nothing(number))
            .put(places.at(index)?)?;
    }
    Ok(())
}

fn set_attribute(world: &World, value: In<u8>, number: u32, address: DevicePtr) -> Answer {
    /// `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`, the only one that can be set.
    const SYNC_MEMOPS: u32 = 6;
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    require(
        number == SYNC_MEMOPS && region.kind == Kind::Linear,
        ERROR_INVALID_VALUE,
    )?;
    let value = value.get()? != 0;
    world
        .memory
        .change(region.base, |region| region.sync_memops = value);
    Ok(())
}

/// `CU_MEM_RANGE_ATTRIBUTE_*` of managed memory: nothing was ever advised.
fn range_attribute(
    world: &World,
    place: *mut c_void,
    size: usize,
    number: u32,
    address: DevicePtr,
) -> Answer {
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    require(
        region.kind == Kind::Managed && size == 4,
        ERROR_INVALID_VALUE,
    )?;
    match number {
        1 => Value::Int(0).put(place),
        2 | 4 => Value::Int(-2).put(place),
        _ => fail(ERROR_INVALID_VALUE),
    }
}

fn managed(world: &'static World, address: DevicePtr, bytes: usize) -> Answer {
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    let is_inside = bytes as u64 <= region.end() - address;
    require(
        region.kind == Kind::Managed && is_inside,
        ERROR_INVALID_VALUE,
    )
}

driver_calls! {
    /// Allocates device memory.
    fn cuMemAlloc_v2(address: Out<DevicePtr>, bytes: usize) = |world| allocate(world, address, bytes);
    /// Allocates rows.
    fn cuMemAllocPitch_v2(address: Out<DevicePtr>, pitch: Out<usize>, width: usize, height: usize, element: u32) = |world| allocate_pitch(world, address, pitch, width, height, element);
    /// Allocates managed memory.
    fn cuMemAllocManaged(address: Out<DevicePtr>, bytes: usize, flags: u32) = |world| allocate_managed(world, address, bytes, flags);
    /// Frees device or managed memory.
    fn cuMemFree_v2(address: DevicePtr) = |world| free(world, address);
    /// The allocation around an address.
    fn cuMemGetAddressRange_v2(base: Out<DevicePtr>, size: Out<usize>, address: DevicePtr) = |world| address_range(world, base, size, address);
    /// Allocates pinned memory.
    fn cuMemAllocHost_v2(address: Out<u64>, bytes: usize) = |world| allocate_host(world, address, bytes, 0);
    /// Allocates pinned memory.
    fn cuMemHostAlloc(address: Out<u64>, bytes: usize, flags: u32) = |world| allocate_host(world, address, bytes, flags);
    /// Frees pinned memory.
    fn cuMemFreeHost(address: u64) = |world| free_host(world, address);
    /// Pins memory of the application.
    fn cuMemHostRegister(address: u64, bytes: usize, flags: u32) = |world| register(world, address, bytes, flags);
    /// Pins memory of the application.
    fn cuMemHostRegister_v2(address: u64, bytes: usize, flags: u32) = |world| register(world, address, bytes, flags);
    /// Unpins it.
    fn cuMemHostUnregister(address: u64) = |world| unregister(world, address);
    /// The device's address of pinned memory: the same.
    fn cuMemHostGetDevicePointer_v2(place: Out<DevicePtr>, address: u64, flags: u32) = |world| device_pointer(world, place, address, flags);
    /// The flags of an allocation.
    fn cuMemHostGetFlags(flags: Out<u32>, address: u64) = |world| host_flags(world, flags, address);
    /// One attribute of an address.
    fn cuPointerGetAttribute(place: *mut c_void, number: u32, address: DevicePtr) = |world| attribute(world, place, number, address);
    /// Several attributes of an address.
    fn cuPointerGetAttributes(count: u32, numbers: In<u32>, places: In<*mut c_void>, address: DevicePtr) = |world| attributes(world, count, numbers, places, address);
    /// Sets an attribute.
    fn cuPointerSetAttribute(value: In<u8>, number: u32, address: DevicePtr) = |world| set_attribute(world, value, number, address);
    /// Advice has no effect.
    fn cuMemAdvise(address: DevicePtr, bytes: usize, advice: u32, device: i32) = |world| managed(world, address, bytes);
    /// Advice has no effect.
    fn cuMemAdvise_v2(address: DevicePtr, bytes: usize, advice: u32, location: u64) = |world| managed(world, address, bytes);
    /// Managed memory is everywhere already.
    fn cuMemPrefetchAsync / cuMemPrefetchAsync_ptsz (address: DevicePtr, bytes: usize, device: i32, stream: Handle) = |world, default| {
        let _ = crate::stream::resolve(world, stream, default)?;
        managed(world, address, bytes)
    };
    /// Managed memory is everywhere already.
    fn cuMemPrefetchAsync_v2 / cuMemPrefetchAsync_v2_ptsz (address: DevicePtr, bytes: usize, location: u64, flags: u32, stream: Handle) = |world, default| {
        let _ = crate::stream::resolve(world, stream, default)?;
        managed(world, address, bytes)
    };
    /// An attribute of managed memory.
    fn cuMemRangeGetAttribute(place: *mut c_void, size: usize, number: u32, address: DevicePtr, bytes: usize) = |world| range_attribute(world, place, size, number, address);
}
