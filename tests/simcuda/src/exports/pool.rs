//! Stream-ordered allocation. A pool is only a name here: memory goes back to the device at once.

use crate::capture::submit;
use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED, fail, require};
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Handle, In, Out};
use crate::memory::{Kind, New};
use crate::stream::{DefaultStream, resolve};
use crate::work::Work;
use crate::world::World;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// Handles of the devices' default pools: this, plus the ordinal times 64.
const DEFAULT_POOLS: Handle = 0x5500_0000_0000_0000;

fn default_pool(device: usize) -> Handle {
    DEFAULT_POOLS + 64 * device as u64
}

/// The device of a pool.
fn device_of(world: &World, pool: Handle) -> Answer<usize> {
    let is_default = (0..world.devices.len()).find(|device| default_pool(*device) == pool);
    is_default
        .or_else(|| world.pools.lock().get(&pool).copied())
        .ok_or(ERROR_INVALID_VALUE)
}

/// The memory is there at once, which is earlier than the rules need.
fn allocate(
    world: &'static World,
    place: Out<DevicePtr>,
    bytes: usize,
    pool: Option<Handle>,
    stream: Handle,
    default: DefaultStream,
) -> Answer {
    let context = resolve(world, stream, default)?.context()?;
    require(place.given(), ERROR_INVALID_VALUE)?;
    let device = pool.map_or(Ok(context.device), |pool| device_of(world, pool))?;
    let pool = pool.unwrap_or_else(|| default_pool(device));
    let new = New {
        kind: Kind::Linear,
        context: context.handle,
        device,
        flags: 0,
        pool,
    };
    place.put(world.memory.allocate_device(world, bytes, new)?)
}

fn free(
    world: &'static World,
    address: DevicePtr,
    stream: Handle,
    default: DefaultStream,
) -> Answer {
    let stream = resolve(world, stream, default)?;
    if address == 0 {
        return Ok(());
    }
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    require(
        region.base == address && region.kind == Kind::Linear,
        ERROR_INVALID_VALUE,
    )?;
    submit(world, &stream, Work::Free(address)).map(drop)
}

/// The start of `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Properties {
    kind: u32,
    handle_types: u32,
    location_kind: u32,
    location: i32,
}

fn create(world: &World, place: Out<Handle>, properties: In<Properties>) -> Answer {
    let wanted = properties.get()?;
    require(
        place.given() && wanted.location_kind == 1,
        ERROR_INVALID_VALUE,
    )?;
    let device = world.device(wanted.location)?.ordinal;
    let pool = world.new_handle();
    world.pools.lock().insert(pool, device);
    place.put(pool)
}

fn destroy(world: &World, pool: Handle) -> Answer {
    world
        .pools
        .lock()
        .remove(&pool)
        .map(drop)
        .ok_or(ERROR_INVALID_VALUE)
}

/// The first three attributes are `int`, the others `cuuint64_t`.
fn attribute(world: &World, pool: Handle, number: u32, place: *mut c_void) -> Answer {
    let device = &world.devices[device_of(world, pool)?];
    match number {
        1..=3 => Out::from_raw(place.cast::<i32>()).put(1),
        4 => Out::from_raw(place.cast::<u64>()).put(0),
        5..=8 => Out::from_raw(place.cast::<u64>()).put(device.used.load(Ordering::Relaxed)),
        _ => fail(ERROR_INVALID_VALUE),
    }
}

fn pool_of_device(world: &World, place: Out<Handle>, device: i32) -> Answer {
    place.put(default_pool(world.device(device)?.ordinal))
}

fn pool_of_location(
    world: &World,
    place: Out<Handle>,
    location: In<(u32, i32)>,
    kind: u32,
) -> Answer {
    let (location_kind, device) = location.get()?;
    require(location_kind == 1 && kind == 1, ERROR_INVALID_VALUE)?;
    pool_of_device(world, place, device)
}

driver_calls! {
    /// Allocates in the order of a stream.
    fn cuMemAllocAsync / cuMemAllocAsync_ptsz (address: Out<DevicePtr>, bytes: usize, stream: Handle) = |world, default| allocate(world, address, bytes, None, stream, default);
    /// Allocates from a pool in the order of a stream.
    fn cuMemAllocFromPoolAsync / cuMemAllocFromPoolAsync_ptsz (address: Out<DevicePtr>, bytes: usize, pool: Handle, stream: Handle) = |world, default| allocate(world, address, bytes, Some(pool), stream, default);
    /// Frees in the order of a stream.
    fn cuMemFreeAsync / cuMemFreeAsync_ptsz (address: DevicePtr, stream: Handle) = |world, default| free(world, address, stream, default);
    /// A pool.
    fn cuMemPoolCreate(place: Out<Handle>, wanted: In<Properties>) = |world| create(world, place, wanted);
    /// Destroys a pool.
    fn cuMemPoolDestroy(pool: Handle) = |world| destroy(world, pool);
    /// Nothing is kept that could be trimmed.
    fn cuMemPoolTrimTo(pool: Handle, keep: usize) = |world| device_of(world, pool).map(drop);
    /// An attribute.
    fn cuMemPoolGetAttribute(pool: Handle, number: u32, place: *mut c_void) = |world| attribute(world, pool, number, place);
    /// Attributes have no effect.
    fn cuMemPoolSetAttribute(pool: Handle, number: u32, value: *mut c_void) = |world| device_of(world, pool).map(drop);
    /// Every device sees every pool.
    fn cuMemPoolSetAccess(pool: Handle, accesses: *const c_void, count: usize) = |world| device_of(world, pool).map(drop);
    /// Every device sees every pool.
    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle, location: *const c_void) = |world| { device_of(world, pool)?; flags.put(3) };
    /// The default pool of a device.
    fn cuDeviceGetDefaultMemPool(place: Out<Handle>, device: i32) = |world| pool_of_device(world, place, device);
    /// The current pool of a device: the default one.
    fn cuDeviceGetMemPool(place: Out<Handle>, device: i32) = |world| pool_of_device(world, place, device);
    /// The pool of a device stays the default one.
    fn cuDeviceSetMemPool(device: i32, pool: Handle) = |world| { world.device(device)?; device_of(world, pool).map(drop) };
    /// The default pool of a location.
    fn cuMemGetDefaultMemPool(place: Out<Handle>, location: In<(u32, i32)>, kind: u32) = |world| pool_of_location(world, place, location, kind);
    /// The current pool of a location.
    fn cuMemGetMemPool(place: Out<Handle>, location: In<(u32, i32)>, kind: u32) = |world| pool_of_location(world, place, location, kind);
    /// Graphs own no memory.
    fn cuDeviceGraphMemTrim(device: i32) = |world| world.device(device).map(drop);
    /// Sharing pools is not simulated.
    fn cuMemPoolExportToShareableHandle(place: *mut c_void, pool: Handle, kind: u32, flags: u64) = |world| { device_of(world, pool)?; fail(ERROR_NOT_SUPPORTED) };
}
