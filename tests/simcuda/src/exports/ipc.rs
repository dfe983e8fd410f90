//! Legacy IPC. A handle names the device's file in the exporting process, which the importing one
//! opens through `/proc`; that is the same right that `ptrace` needs.

use crate::codes::{
    Answer, ERROR_INVALID_CONTEXT, ERROR_INVALID_HANDLE, ERROR_INVALID_VALUE, ERROR_MAP_FAILED,
    ERROR_NOT_SUPPORTED, fail, require,
};
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Handle, Out};
use crate::memory::{Kind, New};
use crate::thread;
use crate::world::World;
use std::fs::File;
use std::os::fd::AsRawFd;

/// What marks a handle as ours.
const MAGIC: u64 = 0x6164_7563_6d69_7331;

/// `CUipcMemHandle`: 64 bytes, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IpcHandle {
    magic: u64,
    process: i32,
    file: i32,
    offset: u64,
    size: u64,
    device: u64,
    reserved: [u64; 3],
}

fn export(world: &'static World, place: Out<IpcHandle>, address: DevicePtr) -> Answer {
    thread::context(world)?;
    let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
    require(
        region.kind == Kind::Linear && region.pool == 0,
        ERROR_INVALID_VALUE,
    )?;
    let device = &world.devices[region.device];
    place.put(IpcHandle {
        magic: MAGIC,
        process: std::process::id() as i32,
        file: device.file,
        offset: region.base - device.base,
        size: region.size,
        device: region.device as u64,
        reserved: [0; 3],
    })
}

fn open(world: &'static World, place: Out<DevicePtr>, handle: IpcHandle, flags: u32) -> Answer {
    /// `CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS`.
    const LAZY: u32 = 1;
    let context = thread::context(world)?;
    require(place.given() && flags & !LAZY == 0, ERROR_INVALID_VALUE)?;
    require(handle.magic == MAGIC, ERROR_INVALID_HANDLE)?;
    // The exporting process itself may not open it.
    require(
        handle.process != std::process::id() as i32,
        ERROR_INVALID_CONTEXT,
    )?;
    let device = world
        .device(handle.device as i32)
        .map_err(|_| ERROR_MAP_FAILED)?
        .ordinal;
    let path = format!("/proc/{}/fd/{}", handle.process, handle.file);
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|_| ERROR_MAP_FAILED)?;
    // The file can only be mapped by pages; the allocation may begin within one.
    let before = handle.offset % 4096;
    let bytes = (handle.size + before) as usize;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let from = (handle.offset - before) as i64;
    // SAFETY: a fresh mapping of an open file, checked below.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            access,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            from,
        )
    };
    require(base != libc::MAP_FAILED, ERROR_MAP_FAILED)?;
    let address = base as u64 + before;
    let new = New {
        kind: Kind::Imported,
        context: context.handle,
        device,
        flags,
        pool: 0,
    };
    world.memory.add(address, handle.size, new);
    place.put(address)
}

fn close(world: &'static World, address: DevicePtr) -> Answer {
    thread::context(world)?;
    let is_imported = |region: &crate::memory::Region| region.kind == Kind::Imported;
    let region = world
        .memory
        .remove(address, is_imported)
        .ok_or(ERROR_INVALID_VALUE)?;
    crate::memory::unmap_imported(&region);
    Ok(())
}

driver_calls! {
    /// A handle for other processes.
    fn cuIpcGetMemHandle(place: Out<IpcHandle>, address: DevicePtr) = |world| export(world, place, address);
    /// Opens memory of another process.
    fn cuIpcOpenMemHandle(place: Out<DevicePtr>, handle: IpcHandle, flags: u32) = |world| open(world, place, handle, flags);
    /// Opens memory of another process.
    fn cuIpcOpenMemHandle_v2(place: Out<DevicePtr>, handle: IpcHandle, flags: u32) = |world| open(world, place, handle, flags);
    /// Closes it.
    fn cuIpcCloseMemHandle(address: DevicePtr) = |world| close(world, address);
    /// Events of other processes are not simulated.
    fn cuIpcGetEventHandle(place: Out<[u8; 64]>, event: Handle) = |world| { world.events.get(event)?; fail(ERROR_NOT_SUPPORTED) };
    /// Events of other processes are not simulated.
    fn cuIpcOpenEventHandle(place: Out<Handle>, handle: IpcHandle) = |_world| fail(ERROR_NOT_SUPPORTED);
}
