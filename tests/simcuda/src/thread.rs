//! What the driver keeps per thread of the application.

use crate::codes::{
    Answer, ERROR_CONTEXT_IS_DESTROYED, ERROR_DEINITIALIZED, ERROR_INVALID_CONTEXT,
};
use crate::context::Context;
use crate::ffi::Handle;
use crate::world::World;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Modes of `cuThreadExchangeStreamCaptureMode`.
pub const MODE_GLOBAL: i32 = 0;
/// Nothing is prohibited. (Between them lies 1, thread-local.)
pub const MODE_RELAXED: i32 = 2;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Default)]
struct State {
    /// The world that the rest belongs to: a thread that came through `fork` has its parent's.
    epoch: usize,
    id: u64,
    mode: i32,
    stack: Vec<Handle>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(world: &'static World, use_it: impl FnOnce(&mut State) -> T) -> Answer<T> {
    let epoch = std::ptr::from_ref(world) as usize;
    let use_valid = |cell: &RefCell<State>| {
        let mut state = cell.borrow_mut();
        if state.epoch != epoch {
            let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
            *state = State {
                epoch,
                id,
                ..State::default()
            };
        }
        use_it(&mut state)
    };
    STATE.try_with(use_valid).map_err(|_| ERROR_DEINITIALIZED)
}

/// A number that no other thread has.
pub fn id(world: &'static World) -> Answer<u64> {
    with(world, |state| state.id)
}

/// The capture mode of this thread.
pub fn mode(world: &'static World) -> Answer<i32> {
    with(world, |state| state.mode)
}

/// Sets the capture mode and returns the one before.
pub fn exchange_mode(world: &'static World, mode: i32) -> Answer<i32> {
    with(world, |state| std::mem::replace(&mut state.mode, mode))
}

/// The handle on top of the stack, live or not.
pub fn top(world: &'static World) -> Answer<Option<Handle>> {
    with(world, |state| state.stack.last().copied())
}

/// The current context: 201 if there is none, 709 if it was destroyed, its own code if work in it
/// has failed.
pub fn context(world: &'static World) -> Answer<Arc<Context>> {
    let handle = top(world)?.ok_or(ERROR_INVALID_CONTEXT)?;
    let context = world
        .contexts
        .find(handle)
        .ok_or(ERROR_CONTEXT_IS_DESTROYED)?;
    context.check()?;
    Ok(context)
}

/// Pushes a context.
pub fn push(world: &'static World, handle: Handle) -> Answer {
    with(world, |state| state.stack.push(handle))
}

/// Pops the top, if there is one.
pub fn pop(world: &'static World) -> Answer<Option<Handle>> {
    with(world, |state| state.stack.pop())
}

/// Replaces the top; 0 pops it.
pub fn set_current(world: &'static World, handle: Handle) -> Answer {
    with(world, |state| {
        state.stack.pop();
        if handle != 0 {
            state.stack.push(handle);
        }
    })
}
