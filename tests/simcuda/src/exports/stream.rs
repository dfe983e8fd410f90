//! Streams.

use crate::access::Intent;
use crate::capture::{self, submit};
use crate::codes::{Answer, ERROR_INVALID_HANDLE, ERROR_INVALID_VALUE, ERROR_NOT_READY, require};
use crate::copy::wait_for;
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Foreign, Handle, Out};
use crate::memory::Side;
use crate::stream::{DefaultStream, Marker, NON_BLOCKING, Stream, resolve};
use crate::thread;
use crate::work::{HostFunction, StreamCallback, Work};
use crate::world::World;
use std::ffi::c_void;

fn create(world: &'static World, place: Out<Handle>, flags: u32, priority: i32) -> Answer {
    let context = thread::context(world)?;
    require(
        place.given() && flags & !NON_BLOCKING == 0,
        ERROR_INVALID_VALUE,
    )?;
    let priority = priority.clamp(-5, 0);
    place.put(context.create_stream(world, flags, priority).handle)
}

fn destroy(world: &'static World, handle: Handle) -> Answer {
    let stream = world.streams.get(handle)?;
    stream.context()?.destroy_stream(world, &stream)
}

fn synchronize(world: &'static World, handle: Handle, default: DefaultStream) -> Answer {
    let stream = resolve(world, handle, default)?;
    capture::guard_wait(world, &stream)?;
    capture::guard_unsafe(world)?;
    wait_for(&stream)
}

fn query(world: &'static World, handle: Handle, default: DefaultStream) -> Answer {
    let stream = resolve(world, handle, default)?;
    capture::guard_wait(world, &stream)?;
    capture::guard_unsafe(world)?;
    let ends = stream.context()?.ends_of(&stream);
    require(ends.iter().all(Marker::is_done), ERROR_NOT_READY)
}

fn wait_event(
    world: &'static World,
    stream: Handle,
    event: Handle,
    flags: u32,
    default: DefaultStream,
) -> Answer {
    require(flags & !1 == 0, ERROR_INVALID_VALUE)?;
    let stream = resolve(world, stream, default)?;
    let event = world.events.get(event)?;
    capture::wait_event(world, &stream, &event)
}

/// Appends work that calls the application.
fn ask(world: &'static World, stream: Handle, default: DefaultStream, work: Work) -> Answer {
    let stream = resolve(world, stream, default)?;
    submit(world, &stream, work).map(drop)
}

fn known(
    world: &World,
    stream: &Stream,
    address: DevicePtr,
    size: usize,
    intent: Intent,
) -> Answer {
    require(address.is_multiple_of(size as u64), ERROR_INVALID_VALUE)?;
    let device = stream.context()?.device;
    require(
        world.memory.side(address, size, device, intent)? != Side::Pageable,
        ERROR_INVALID_VALUE,
    )
}

fn write_value(
    world: &'static World,
    stream: Handle,
    default: DefaultStream,
    address: DevicePtr,
    value: u64,
    size: usize,
) -> Answer {
    let stream = resolve(world, stream, default)?;
    known(world, &stream, address, size, Intent::Write)?;
    submit(world, &stream, Work::WriteValue(address, value, size)).map(drop)
}

/// What a wait looks at: address, value, bytes, comparison.
type Awaited = (DevicePtr, u64, usize, u32);

fn await_value(
    world: &'static World,
    stream: Handle,
    default: DefaultStream,
    awaited: Awaited,
) -> Answer {
    let (address, value, size, comparison) = awaited;
    let stream = resolve(world, stream, default)?;
    known(world, &stream, address, size, Intent::Read)?;
    let work = Work::AwaitValue(address, value, size, comparison);
    submit(world, &stream, work).map(drop)
}

/// C may pass NULL for a function.
fn given<T>(function: Option<T>) -> Answer<T> {
    function.ok_or(ERROR_INVALID_VALUE)
}

driver_calls! {
    /// Creates a stream.
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) = |world| create(world, stream, flags, 0);
    /// Creates a stream with a priority.
    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) = |world| create(world, stream, flags, priority);
    /// Destroys a stream; its work is still done.
    fn cuStreamDestroy(stream: Handle) = |world| destroy(world, stream);
    /// Destroys a stream; its work is still done.
    fn cuStreamDestroy_v2(stream: Handle) = |world| destroy(world, stream);
    /// Waits for a stream.
    fn cuStreamSynchronize / cuStreamSynchronize_ptsz (stream: Handle) = |world, default| synchronize(world, stream, default);
    /// Whether a stream is done.
    fn cuStreamQuery / cuStreamQuery_ptsz (stream: Handle) = |world, default| query(world, stream, default);
    /// Makes a stream wait for an event.
    fn cuStreamWaitEvent / cuStreamWaitEvent_ptsz (stream: Handle, event: Handle, flags: u32) = |world, default| wait_event(world, stream, event, flags, default);
    /// Flags of a stream.
    fn cuStreamGetFlags / cuStreamGetFlags_ptsz (stream: Handle, flags: Out<u32>) = |world, default| flags.put(resolve(world, stream, default)?.flags);
    /// Priority of a stream.
    fn cuStreamGetPriority / cuStreamGetPriority_ptsz (stream: Handle, priority: Out<i32>) = |world, default| priority.put(resolve(world, stream, default)?.priority);
    /// A number for a stream.
    fn cuStreamGetId / cuStreamGetId_ptsz (stream: Handle, id: Out<u64>) = |world, default| id.put(resolve(world, stream, default)?.handle >> 6 & 0xFFFF_FFFF);
    /// Context of a stream.
    fn cuStreamGetCtx / cuStreamGetCtx_ptsz (stream: Handle, context: Out<Handle>) = |world, default| context.put(resolve(world, stream, default)?.context()?.handle);
    /// Context of a stream; green contexts do not exist here.
    fn cuStreamGetCtx_v2 / cuStreamGetCtx_v2_ptsz (stream: Handle, context: Out<Handle>, green: Out<Handle>) = |world, default| {
        green.put_if_given(0);
        context.put(resolve(world, stream, default)?.context()?.handle)
    };
    /// Device of a stream.
    fn cuStreamGetDevice / cuStreamGetDevice_ptsz (stream: Handle, device: Out<i32>) = |world, default| device.put(resolve(world, stream, default)?.context()?.device as i32);
    /// Attributes have no effect.
    fn cuStreamCopyAttributes / cuStreamCopyAttributes_ptsz (dst: Handle, src: Handle) = |world, default| {
        resolve(world, src, default)?;
        resolve(world, dst, default).map(drop)
    };
    /// Attributes have no effect.
    fn cuStreamSetAttribute / cuStreamSetAttribute_ptsz (stream: Handle, kind: u32, value: *mut c_void) = |world, default| resolve(world, stream, default).map(drop);
    /// Attributes are all zero.
    fn cuStreamGetAttribute / cuStreamGetAttribute_ptsz (stream: Handle, kind: u32, value: Out<[u8; 64]>) = |world, default| {
        resolve(world, stream, default)?;
        value.put([0; 64])
    };
    /// Managed memory belongs to all streams.
    fn cuStreamAttachMemAsync / cuStreamAttachMemAsync_ptsz (stream: Handle, address: DevicePtr, length: usize, flags: u32) = |world, default| {
        resolve(world, stream, default)?;
        require(world.memory.find(address).is_some(), ERROR_INVALID_HANDLE)
    };
    /// Calls the application from a stream.
    fn cuLaunchHostFunc / cuLaunchHostFunc_ptsz (stream: Handle, function: Option<HostFunction>, data: *mut c_void) = |world, default| ask(world, stream, default, Work::Host(given(function)?, Foreign(data)));
    /// Calls the application from a stream, the older way.
    fn cuStreamAddCallback / cuStreamAddCallback_ptsz (stream: Handle, function: Option<StreamCallback>, data: *mut c_void, flags: u32) = |world, default| ask(world, stream, default, Work::Callback(given(function)?, stream, Foreign(data)));
    /// Waits for a value in memory.
    fn cuStreamWaitValue32 / cuStreamWaitValue32_ptsz (stream: Handle, address: DevicePtr, value: u32, flags: u32) = |world, default| await_value(world, stream, default, (address, value.into(), 4, flags));
    /// Waits for a value in memory.
    fn cuStreamWaitValue32_v2 / cuStreamWaitValue32_v2_ptsz (stream: Handle, address: DevicePtr, value: u32, flags: u32) = |world, default| await_value(world, stream, default, (address, value.into(), 4, flags));
    /// Waits for a value in memory.
    fn cuStreamWaitValue64 / cuStreamWaitValue64_ptsz (stream: Handle, address: DevicePtr, value: u64, flags: u32) = |world, default| await_value(world, stream, default, (address, value, 8, flags));
    /// Waits for a value in memory.
    fn cuStreamWaitValue64_v2 / cuStreamWaitValue64_v2_ptsz (stream: Handle, address: DevicePtr, value: u64, flags: u32) = |world, default| await_value(world, stream, default, (address, value, 8, flags));
    /// Writes a value.
    fn cuStreamWriteValue32 / cuStreamWriteValue32_ptsz (stream: Handle, address: DevicePtr, value: u32, flags: u32) = |world, default| write_value(world, stream, default, address, value.into(), 4);
    /// Writes a value.
    fn cuStreamWriteValue32_v2 / cuStreamWriteValue32_v2_ptsz (stream: Handle, address: DevicePtr, value: u32, flags: u32) = |world, default| write_value(world, stream, default, address, value.into(), 4);
    /// Writes a value.
    fn cuStreamWriteValue64 / cuStreamWriteValue64_ptsz (stream: Handle, address: DevicePtr, value: u64, flags: u32) = |world, default| write_value(world, stream, default, address, value, 8);
    /// Writes a value.
    fn cuStreamWriteValue64_v2 / cuStreamWriteValue64_v2_ptsz (stream: Handle, address: DevicePtr, value: u64, flags: u32) = |world, default| write_value(world, stream, default, address, value, 8);
}
