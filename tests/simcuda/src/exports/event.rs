//! Events.

use crate::capture;
use crate::codes::{Answer, ERROR_INVALID_HANDLE, ERROR_INVALID_VALUE, ERROR_NOT_READY, require};
use crate::entry::driver_calls;
use crate::event::{DISABLE_TIMING, Event};
use crate::ffi::{Handle, Out};
use crate::stream::{DefaultStream, resolve};
use crate::thread;
use crate::world::World;
use parking_lot::Mutex;
use std::sync::Arc;

fn create(world: &'static World, place: Out<Handle>, flags: u32) -> Answer {
    /// For other processes, which needs `DISABLE_TIMING`.
    const INTERPROCESS: u32 = 4;
    let context = thread::context(world)?;
    require(place.given() && flags & !7 == 0, ERROR_INVALID_VALUE)?;
    require(
        flags & INTERPROCESS == 0 || flags & DISABLE_TIMING != 0,
        ERROR_INVALID_VALUE,
    )?;
    let handle = world.new_handle();
    let event = Event {
        context: context.handle,
        flags,
        recorded: Mutex::default(),
    };
    world.events.add(handle, Arc::new(event));
    place.put(handle)
}

fn record(world: &'static World, event: Handle, stream: Handle, default: DefaultStream) -> Answer {
    let event = world.events.get(event)?;
    let stream = resolve(world, stream, default)?;
    require(
        stream.context()?.handle == event.context,
        ERROR_INVALID_HANDLE,
    )?;
    capture::record(world, &event, &stream)
}

fn query(world: &'static World, event: Handle) -> Answer {
    let event = world.events.get(event)?;
    let marker = event.host_marker()?;
    capture::guard_unsafe(world)?;
    require(
        marker.is_none_or(|marker| marker.is_done()),
        ERROR_NOT_READY,
    )?;
    event.check(world)
}

fn synchronize(world: &'static World, event: Handle) -> Answer {
    let event = world.events.get(event)?;
    let marker = event.host_marker()?;
    capture::guard_unsafe(world)?;
    if let Some(marker) = marker {
        marker.wait();
    }
    event.check(world)
}

fn elapsed(world: &'static World, place: Out<f32>, start: Handle, end: Handle) -> Answer {
    let start = world.events.get(start)?.time()?;
    let end = world.events.get(end)?.time()?;
    let forwards = end.saturating_duration_since(start).as_secs_f32();
    let backwards = start.saturating_duration_since(end).as_secs_f32();
    place.put((forwards - backwards) * 1000.0)
}

driver_calls! {
    /// Creates an event.
    fn cuEventCreate(event: Out<Handle>, flags: u32) = |world| create(world, event, flags);
    /// Destroys an event.
    fn cuEventDestroy(event: Handle) = |world| world.events.remove(event).map(drop);
    /// Destroys an event.
    fn cuEventDestroy_v2(event: Handle) = |world| world.events.remove(event).map(drop);
    /// Records an event.
    fn cuEventRecord / cuEventRecord_ptsz (event: Handle, stream: Handle) = |world, default| record(world, event, stream, default);
    /// Records an event.
    fn cuEventRecordWithFlags / cuEventRecordWithFlags_ptsz (event: Handle, stream: Handle, flags: u32) = |world, default| {
        require(flags & !1 == 0, ERROR_INVALID_VALUE)?;
        record(world, event, stream, default)
    };
    /// Whether it was passed.
    fn cuEventQuery(event: Handle) = |world| query(world, event);
    /// Waits until it was passed.
    fn cuEventSynchronize(event: Handle) = |world| synchronize(world, event);
    /// Milliseconds between two events.
    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) = |world| elapsed(world, milliseconds, start, end);
    /// Milliseconds between two events.
    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) = |world| elapsed(world, milliseconds, start, end);
}
