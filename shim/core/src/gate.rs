//! The gate: every call of the application's into the driver passes it, and while
//! it is closed no call does.
//!
//! In a freezable process each stub of the front leads to [`trampoline::pass`],
//! which counts the call in, calls what the stub stands for (a hook of the core, or
//! the driver's function), and counts it out. [`close`] stops new calls and waits
//! until none is inside; a call that finds the gate closed sleeps until it opens. It
//! does not fail, except when the process is ending.
//!
//! A thread that is inside already (a callback of the driver's that calls CUDA)
//! passes: to stop it would keep the call around it inside for ever. A callback that
//! leaves by `longjmp` or an exception stays counted, and then the gate does not
//! close any more; nothing worse happens.
//!
//! rewarm's own calls, through `Driver` and `real`, do not come here.

mod futex;
mod inside;
#[cfg(test)]
mod tests;
mod trampoline;
mod words;

use inside::Shard;
use rewarm_abi::{FrontTable, Targets};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Whether calls wait, and whether the process is ending: [`CLOSED`], [`EXITING`].
/// Threads that wait sleep on it.
static STATE: AtomicU32 = AtomicU32::new(0);
const CLOSED: u32 = 1;
const EXITING: u32 = 2;

static TARGETS: AtomicPtr<Targets> = AtomicPtr::new(ptr::null_mut());

/// Why the gate was not closed. It is open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GateError {
    /// It is closed already.
    #[error("the process is being frozen already, or is frozen")]
    Already,
    /// Calls did not return in time.
    #[error("{calls} calls of the CUDA driver did not return in {limit:?}, {example} for one")]
    Busy {
        /// Calls inside.
        calls: usize,
        /// The driver function that one of them is in.
        example: String,
        /// The time that they had.
        limit: Duration,
    },
    /// The program has functions that do not pass the gate.
    #[error(
        "the program uses more functions that rewarm does not know than can be stopped: {0} too many; use a newer rewarm"
    )]
    Ungated(usize),
    /// The process is in `exit`.
    #[error("the process is ending")]
    Exiting,
}

/// Makes the gate of this process, open, and gives its address for the slots.
pub(crate) fn open(front: &FrontTable) -> *const c_void {
    TARGETS.store(ptr::from_ref(front.targets).cast_mut(), Ordering::Release);
    trampoline::pass as *const c_void
}

/// Stops new calls and waits until none is inside, at most for `limit`. If the gate
/// cannot be closed it is opened again, and nothing has changed.
pub(crate) fn close(limit: Duration) -> Result<Closed, GateError> {
    let deadline = Instant::now() + limit;
    let before = STATE.fetch_or(CLOSED, Ordering::SeqCst);
    if before & CLOSED != 0 {
        return Err(GateError::Already);
    }
    let closed = Closed(());
    if before & EXITING != 0 {
        return Err(GateError::Exiting);
    }
    // SAFETY: the front's table lives as long as the process.
    if let Some(targets) = unsafe { TARGETS.load(Ordering::Acquire).as_ref() }
        && let count @ 1.. = targets.ungated.load(Ordering::SeqCst)
    {
        return Err(GateError::Ungated(count));
    }
    let mut pause = Duration::from_micros(20);
    loop {
        let calls = inside::count();
        if calls == 0 {
            return Ok(closed);
        }
        if is_exiting() {
            return Err(GateError::Exiting);
        }
        if Instant::now() >= deadline {
            return Err(GateError::Busy {
                calls,
                example: inside::example(),
                limit,
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
}

/// Keeps the gate closed; opens it when dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Closed(());

impl Drop for Closed {
    fn drop(&mut self) {
        STATE.fetch_and(!CLOSED, Ordering::SeqCst);
        futex::wake_all(&STATE);
    }
}

/// A call of rewarm's own that counts as one of the application's, on whose behalf
/// it is made.
pub(crate) struct Inside(PhantomData<*const ()>);

impl Drop for Inside {
    fn drop(&mut self) {
        leave();
    }
}

/// Passes the gate with driver calls that rewarm makes on the application's behalf
/// (prewarming). `None` while it is closed: a fork and the end of the process wait for
/// prewarming, so that must not wait itself.
pub(crate) fn enter() -> Option<Inside> {
    let shard = Shard::of_this_thread();
    shard.enter(inside::NO_FUNCTION);
    if STATE.load(Ordering::SeqCst) & CLOSED != 0 {
        shard.leave();
        return None;
    }
    inside::set_depth(1);
    Some(Inside(PhantomData))
}

/// The process is in `exit`: calls wait no longer. While the gate is closed they
/// return what the driver itself returns when it is shutting down.
pub(crate) fn exiting() {
    STATE.fetch_or(EXITING, Ordering::SeqCst);
    futex::wake_all(&STATE);
}

/// Whether the process is in `exit`.
pub(crate) fn is_exiting() -> bool {
    STATE.load(Ordering::SeqCst) & EXITING != 0
}

/// In a forked child, where only the calling thread exists: open, and nothing
/// inside but what this thread is in itself.
pub(crate) fn forked() {
    STATE.store(0, Ordering::SeqCst);
    inside::forked();
}

/// Counts a call of the calling thread in, once the gate is open. `false`: the call
/// must not be made.
#[inline(always)]
fn pass_in(index: usize) -> bool {
    let depth = inside::depth();
    if depth == 0 {
        let shard = Shard::of_this_thread();
        // This, then the look at the state; `close` does it the other way round. So
        // one of the two sees the other.
        shard.enter(index);
        if STATE.load(Ordering::SeqCst) & CLOSED != 0 && !wait(shard, index) {
            return false;
        }
    }
    inside::set_depth(depth + 1);
    true
}

/// Counts a call of the calling thread out.
#[inline(always)]
fn leave() {
    let depth = inside::depth() - 1;
    // In this order, so that a signal handler which calls CUDA is counted.
    inside::set_depth(depth);
    if depth == 0 {
        Shard::of_this_thread().leave();
    }
}

/// Sleeps until the gate is open and counts the call in. `false` when the process is
/// ending.
#[cold]
fn wait(shard: &Shard, index: usize) -> bool {
    let _errno = futex::KeptErrno::new();
    loop {
        shard.leave();
        loop {
            match STATE.load(Ordering::SeqCst) {
                state if state & CLOSED == 0 => break,
                state if state & EXITING != 0 => return false,
                state => futex::wait(&STATE, state),
            }
        }
        shard.enter(index);
        if STATE.load(Ordering::SeqCst) & CLOSED == 0 {
            return true;
        }
    }
}
