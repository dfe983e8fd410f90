//! The virtual memory calls.

use crate::access::is_valid;
use crate::capture::guard_unsafe;
use crate::codes::{Answer, ERROR_INVALID_DEVICE, ERROR_INVALID_VALUE, fail, require};
use crate::device::PAGE;
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Handle, In, Out};
use crate::memory::Kind;
use crate::vmm::Physical;
use crate::world::World;
use std::ffi::c_void;

/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: u32 = 1;
/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const FILE_DESCRIPTOR: u32 = 1;
/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: u32 = 1;

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location_kind: u32,
    location: i32,
    windows: u64,
    compression: u8,
    rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Access {
    location_kind: u32,
    location: i32,
    flags: u32,
}

fn create(
    world: &'static World,
    place: Out<Handle>,
    size: usize,
    properties: In<Properties>,
    flags: u64,
) -> Answer {
    guard_unsafe(world)?;
    let wanted = properties.get()?;
    require(place.given() && flags == 0, ERROR_INVALID_VALUE)?;
    require(
        wanted.kind == PINNED && wanted.location_kind == ON_DEVICE,
        ERROR_INVALID_VALUE,
    )?;
    let device = world
        .device(wanted.location)
        .map_err(|_| ERROR_INVALID_DEVICE)?;
    let handle = world
        .vmm
        .create(world, size, device, wanted.handle_types, wanted.rdma)?;
    place.put(handle)
}

fn granularity(
    world: &World,
    place: Out<usize>,
    properties: In<Properties>,
    option: u32,
) -> Answer {
    let wanted = properties.get()?;
    require(
        wanted.location_kind == ON_DEVICE && option <= 1,
        ERROR_INVALID_VALUE,
    )?;
    world.device(wanted.location)?;
    place.put(PAGE as usize)
}

fn set_access(
    world: &'static World,
    base: DevicePtr,
    size: usize,
    accesses: In<Access>,
    count: usize,
) -> Answer {
    require(count > 0, ERROR_INVALID_VALUE)?;
    let wanted = |index| {
        let access = accesses.at(index)?;
        require(
            access.location_kind == ON_DEVICE && is_valid(access.flags),
            ERROR_INVALID_VALUE,
        )?;
        Ok((world.device(access.location)?.ordinal, access.flags))
    };
    let wanted = (0..count).map(wanted).collect::<Answer<Vec<_>>>()?;
    world.vmm.set_access(world, base, size, &wanted)
}

fn access(world: &World, place: Out<u64>, location: In<(u32, i32)>, address: DevicePtr) -> Answer {
    let (kind, device) = location.get()?;
    require(kind == ON_DEVICE, ERROR_INVALID_VALUE)?;
    let device = world.device(device)?.ordinal;
    match world.memory.find(address).map(|region| region.kind) {
        Some(Kind::Mapped { rights, .. }) => place.put(rights.of(device).into()),
        _ => fail(ERROR_INVALID_VALUE),
    }
}

fn unmap(world: &'static World, base: DevicePtr, size: usize) -> Answer {
    guard_unsafe(world)?;
    // Work in flight may still use the memory: the real driver waits for it, too.
    for context in world.contexts.all() {
        context
            .all_ends()
            .iter()
            .for_each(crate::stream::Marker::wait);
    }
    world.vmm.unmap(world, base, size)
}

fn properties(world: &World, place: Out<Properties>, handle: Handle) -> Answer {
    let Physical {
        device,
        handle_types,
        rdma,
        ..
    } = world.vmm.get(handle)?;
    place.put(Properties {
        kind: PINNED,
        handle_types,
        location_kind: ON_DEVICE,
        location: device as i32,
        windows: 0,
        compression: 0,
        rdma,
        usage: 0,
        reserved: [0; 4],
    })
}

driver_calls! {
    /// Reserves addresses.
    fn cuMemAddressReserve(place: Out<DevicePtr>, size: usize, alignment: usize, wish: DevicePtr, flags: u64) = |world| {
        require(place.given() && flags == 0, ERROR_INVALID_VALUE)?;
        place.put(world.vmm.reserve(size, alignment)?)
    };
    /// Gives addresses back.
    fn cuMemAddressFree(base: DevicePtr, size: usize) = |world| world.vmm.free(world, base, size);
    /// Allocates physical memory.
    fn cuMemCreate(place: Out<Handle>, size: usize, wanted: In<Properties>, flags: u64) = |world| create(world, place, size, wanted, flags);
    /// Gives up a reference to physical memory.
    fn cuMemRelease(handle: Handle) = |world| world.vmm.release(world, handle);
    /// Maps physical memory.
    fn cuMemMap(base: DevicePtr, size: usize, offset: usize, handle: Handle, flags: u64) = |world| {
        require(flags == 0, ERROR_INVALID_VALUE)?;
        world.vmm.map(world, base, size, offset, handle)
    };
    /// Unmaps whole mappings.
    fn cuMemUnmap(base: DevicePtr, size: usize) = |world| unmap(world, base, size);
    /// Makes mappings accessible.
    fn cuMemSetAccess(base: DevicePtr, size: usize, accesses: In<Access>, count: usize) = |world| set_access(world, base, size, accesses, count);
    /// How a mapping is accessible.
    fn cuMemGetAccess(flags: Out<u64>, location: In<(u32, i32)>, address: DevicePtr) = |world| access(world, flags, location, address);
    /// Granularity: 2 MiB.
    fn cuMemGetAllocationGranularity(place: Out<usize>, wanted: In<Properties>, option: u32) = |world| granularity(world, place, wanted, option);
    /// What was asked for.
    fn cuMemGetAllocationPropertiesFromHandle(place: Out<Properties>, handle: Handle) = |world| properties(world, place, handle);
    /// The physical memory at an address.
    fn cuMemRetainAllocationHandle(place: Out<Handle>, address: DevicePtr) = |world| place.put(world.vmm.retain(world, address)?);
    /// A file descriptor for physical memory.
    fn cuMemExportToShareableHandle(place: Out<i32>, handle: Handle, kind: u32, flags: u64) = |world| {
        require(place.given() && kind == FILE_DESCRIPTOR && flags == 0, ERROR_INVALID_VALUE)?;
        place.put(world.vmm.export(handle)?)
    };
    /// Physical memory of a file descriptor, which is passed as a pointer and stays the caller's.
    fn cuMemImportFromShareableHandle(place: Out<Handle>, shared: *mut c_void, kind: u32) = |world| {
        require(place.given() && kind == FILE_DESCRIPTOR, ERROR_INVALID_VALUE)?;
        place.put(world.vmm.import(world, shared as usize as i32)?)
    };
}
