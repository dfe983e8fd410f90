//! Contexts: primary ones, created ones, the stack, limits, peers.

use crate::capture;
use crate::codes::{
    Answer, ERROR_INVALID_CONTEXT, ERROR_INVALID_HANDLE, ERROR_INVALID_VALUE,
    ERROR_PEER_ACCESS_ALREADY_ENABLED, ERROR_PEER_ACCESS_NOT_ENABLED,
    ERROR_PEER_ACCESS_UNSUPPORTED, ERROR_UNSUPPORTED_LIMIT, fail, require,
};
use crate::context::Context;
use crate::entry::driver_calls;
use crate::ffi::{Handle, Out};
use crate::stream::Marker;
use crate::thread;
use crate::world::World;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Flags that `cuCtxCreate` and the primary context take.
const FLAGS: u32 = 0x1FF;

fn live(world: &World, handle: Handle) -> Answer<Arc<Context>> {
    world.contexts.find(handle).ok_or(ERROR_INVALID_CONTEXT)
}

/// The context of a handle, where 0 means the current one.
fn live_or_current(world: &'static World, handle: Handle) -> Answer<Arc<Context>> {
    if handle == 0 {
        thread::context(world)
    } else {
        live(world, handle)
    }
}

fn create(world: &'static World, place: Out<Handle>, flags: u32, device: i32) -> Answer {
    let device = world.device(device)?.ordinal;
    require(place.given() && flags & !FLAGS == 0, ERROR_INVALID_VALUE)?;
    let context = Context::create(world, world.new_handle(), device, flags, false);
    thread::push(world, context.handle)?;
    place.put(context.handle)
}

fn destroy(world: &'static World, handle: Handle) -> Answer {
    let context = live(world, handle)?;
    require(!context.is_primary, ERROR_INVALID_CONTEXT)?;
    if thread::top(world)? == Some(handle) {
        thread::pop(world)?;
    }
    context.destroy(world);
    Ok(())
}

fn pop(world: &'static World, place: Out<Handle>) -> Answer {
    let handle = thread::pop(world)?.ok_or(ERROR_INVALID_CONTEXT)?;
    place.put_if_given(handle);
    Ok(())
}

fn set_current(world: &'static World, handle: Handle) -> Answer {
    if handle != 0 {
        live(world, handle)?;
    }
    thread::set_current(world, handle)
}

fn retain_primary(world: &'static World, place: Out<Handle>, device: i32) -> Answer {
    let device = world.device(device)?;
    require(place.given(), ERROR_INVALID_VALUE)?;
    place.put(device.retain_primary(world))
}

fn primary_state(world: &World, device: i32, flags: Out<u32>, active: Out<i32>) -> Answer {
    let state = world.device(device)?.primary_state();
    flags.put(state.0)?;
    active.put(i32::from(state.1))
}

fn set_primary_flags(world: &World, device: i32, flags: u32) -> Answer {
    let device = world.device(device)?;
    require(flags & !FLAGS == 0, ERROR_INVALID_VALUE)?;
    device.set_primary_flags(flags);
    Ok(())
}

fn reset_primary(world: &'static World, device: i32) -> Answer {
    world.device(device)?.reset_primary(world);
    Ok(())
}

fn synchronize(world: &'static World, context: &Context) -> Answer {
    capture::guard_context(world, context.handle)?;
    capture::guard_unsafe(world)?;
    context.all_ends().iter().for_each(Marker::wait);
    context.check()
}

fn record_event(world: &'static World, context: Handle, event: Handle) -> Answer {
    let context = live_or_current(world, context)?;
    let event = world.events.get(event)?;
    require(event.context == context.handle, ERROR_INVALID_HANDLE)?;
    capture::record_context(world, &event, &context)
}

/// Stack, printf, heap, sync depth, pending launches, L2 fetch granularity, persisting L2.
const LIMITS: [usize; 7] = [1024, 7_995_392, 8_388_608, 2, 2048, 64, 0];

fn set_limit(world: &'static World, limit: u32, value: usize) -> Answer {
    let context = thread::context(world)?;
    require((limit as usize) < LIMITS.len(), ERROR_UNSUPPORTED_LIMIT)?;
    context.limits.lock().insert(limit, value);
    Ok(())
}

fn limit(world: &'static World, place: Out<usize>, limit: u32) -> Answer {
    let context = thread::context(world)?;
    let default = *LIMITS.get(limit as usize).ok_or(ERROR_UNSUPPORTED_LIMIT)?;
    let set = context.limits.lock().get(&limit).copied();
    place.put(set.unwrap_or(default))
}

fn enable_peer(world: &'static World, peer: Handle, flags: u32) -> Answer {
    let own = thread::context(world)?;
    let other = live(world, peer)?;
    require(flags == 0, ERROR_INVALID_VALUE)?;
    require(own.device != other.device, ERROR_PEER_ACCESS_UNSUPPORTED)?;
    let is_new = world.peers.lock().insert((own.handle, peer));
    require(is_new, ERROR_PEER_ACCESS_ALREADY_ENABLED)
}

fn disable_peer(world: &'static World, peer: Handle) -> Answer {
    let own = thread::context(world)?;
    live(world, peer)?;
    let was_there = world.peers.lock().remove(&(own.handle, peer));
    require(was_there, ERROR_PEER_ACCESS_NOT_ENABLED)
}

driver_calls! {
    /// Retains the primary context.
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) = |world| retain_primary(world, context, device);
    /// Releases it.
    fn cuDevicePrimaryCtxRelease(device: i32) = |world| world.device(device)?.release_primary(world);
    /// Releases it.
    fn cuDevicePrimaryCtxRelease_v2(device: i32) = |world| world.device(device)?.release_primary(world);
    /// Destroys what is in it.
    fn cuDevicePrimaryCtxReset(device: i32) = |world| reset_primary(world, device);
    /// Destroys what is in it.
    fn cuDevicePrimaryCtxReset_v2(device: i32) = |world| reset_primary(world, device);
    /// Flags and whether it is active.
    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) = |world| primary_state(world, device, flags, active);
    /// Sets flags.
    fn cuDevicePrimaryCtxSetFlags(device: i32, flags: u32) = |world| set_primary_flags(world, device, flags);
    /// Sets flags.
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) = |world| set_primary_flags(world, device, flags);

    /// Creates a context and pushes it.
    fn cuCtxCreate(context: Out<Handle>, flags: u32, device: i32) = |world| create(world, context, flags, device);
    /// Creates a context and pushes it.
    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) = |world| create(world, context, flags, device);
    /// Creates a context and pushes it; affinity is ignored.
    fn cuCtxCreate_v3(context: Out<Handle>, parameters: *mut c_void, count: i32, flags: u32, device: i32) = |world| create(world, context, flags, device);
    /// Creates a context and pushes it; parameters are ignored.
    fn cuCtxCreate_v4(context: Out<Handle>, parameters: *mut c_void, flags: u32, device: i32) = |world| create(world, context, flags, device);
    /// Destroys a context.
    fn cuCtxDestroy(context: Handle) = |world| destroy(world, context);
    /// Destroys a context.
    fn cuCtxDestroy_v2(context: Handle) = |world| destroy(world, context);
    /// Pushes a context.
    fn cuCtxPushCurrent(context: Handle) = |world| { live(world, context)?; thread::push(world, context) };
    /// Pushes a context.
    fn cuCtxPushCurrent_v2(context: Handle) = |world| { live(world, context)?; thread::push(world, context) };
    /// Pops a context.
    fn cuCtxPopCurrent(context: Out<Handle>) = |world| pop(world, context);
    /// Pops a context.
    fn cuCtxPopCurrent_v2(context: Out<Handle>) = |world| pop(world, context);
    /// Replaces the current context.
    fn cuCtxSetCurrent(context: Handle) = |world| set_current(world, context);
    /// The current context, NULL for none.
    fn cuCtxGetCurrent(context: Out<Handle>) = |world| context.put(thread::top(world)?.unwrap_or(0));
    /// The device of the current context.
    fn cuCtxGetDevice(device: Out<i32>) = |world| device.put(thread::context(world)?.device as i32);
    /// The device of a context.
    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) = |world| device.put(live_or_current(world, context)?.device as i32);
    /// The flags of the current context.
    fn cuCtxGetFlags(flags: Out<u32>) = |world| flags.put(thread::context(world)?.flags.load(Ordering::Relaxed));
    /// Sets the flags of the current context.
    fn cuCtxSetFlags(flags: u32) = |world| {
        thread::context(world)?.flags.store(flags, Ordering::Relaxed);
        Ok(())
    };
    /// A number for a context.
    fn cuCtxGetId(context: Handle, id: Out<u64>) = |world| id.put(live_or_current(world, context)?.id);
    /// Waits for everything in the current context.
    fn cuCtxSynchronize() = |world| { let context = thread::context(world)?; synchronize(world, &context) };
    /// Waits for everything in a context.
    fn cuCtxSynchronize_v2(context: Handle) = |world| { let context = live_or_current(world, context)?; synchronize(world, &context) };
    /// Records everything in a context.
    fn cuCtxRecordEvent(context: Handle, event: Handle) = |world| record_event(world, context, event);
    /// Makes all later work in a context wait.
    fn cuCtxWaitEvent(context: Handle, event: Handle) = |world| {
        let context = live_or_current(world, context)?;
        capture::wait_event_in_context(world, &context, &*world.events.get(event)?)
    };
    /// Sets a limit.
    fn cuCtxSetLimit(kind: u32, value: usize) = |world| set_limit(world, kind, value);
    /// A limit.
    fn cuCtxGetLimit(value: Out<usize>, kind: u32) = |world| limit(world, value, kind);
    /// The cache configuration.
    fn cuCtxGetCacheConfig(config: Out<u32>) = |world| config.put(thread::context(world)?.cache_config.load(Ordering::Relaxed));
    /// Sets the cache configuration.
    fn cuCtxSetCacheConfig(config: u32) = |world| {
        thread::context(world)?.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    };
    /// The shared memory configuration: the default.
    fn cuCtxGetSharedMemConfig(config: Out<u32>) = |world| { thread::context(world)?; config.put(0) };
    /// Has no effect, as on current hardware.
    fn cuCtxSetSharedMemConfig(config: u32) = |world| { let _ = config; thread::context(world).map(drop) };
    /// The version of the API that made a context.
    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) = |world| { live_or_current(world, context)?; version.put(3020) };
    /// Stream priorities: 0 to -5.
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) = |world| {
        thread::context(world)?;
        least.put_if_given(0);
        greatest.put_if_given(-5);
        Ok(())
    };
    /// Has no effect.
    fn cuCtxResetPersistingL2Cache() = |world| thread::context(world).map(drop);
    /// Affinity: not supported by this device.
    fn cuCtxGetExecAffinity(place: *mut c_void, kind: u32) = |world| { let _ = thread::context(world)?; fail(crate::codes::ERROR_NOT_SUPPORTED) };
    /// Deprecated: one more user of the current context.
    fn cuCtxAttach(context: Out<Handle>, flags: u32) = |world| { require(flags == 0, ERROR_INVALID_VALUE)?; context.put(thread::context(world)?.handle) };
    /// Deprecated: one user less.
    fn cuCtxDetach(context: Handle) = |world| live(world, context).map(drop);
    /// Peer access from the current context.
    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) = |world| enable_peer(world, peer, flags);
    /// No peer access any more.
    fn cuCtxDisablePeerAccess(peer: Handle) = |world| disable_peer(world, peer);
    /// Writes of other devices are always visible.
    fn cuFlushGPUDirectRDMAWrites(target: u32, scope: u32) = |world| { let _ = (target, scope); thread::context(world).map(drop) };
}
