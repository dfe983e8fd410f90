//! Who is inside: a count a group of threads, and how deep each thread is.

use super::trampoline;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// Threads are spread over this many counts, so that they do not fight for one
/// cache line.
const SHARDS: usize = 64;

/// Index of calls that are rewarm's own.
pub(super) const NO_FUNCTION: usize = u32::MAX as usize;

/// The calls of some threads.
#[repr(align(64))]
pub(super) struct Shard {
    calls: AtomicU32,
    /// Index of the stub that was called last.
    last: AtomicU32,
}

static INSIDE: [Shard; SHARDS] = [const {
    Shard {
        calls: AtomicU32::new(0),
        last: AtomicU32::new(NO_FUNCTION as u32),
    }
}; SHARDS];

thread_local! {
    /// Calls that the thread is in, one in the other.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

#[inline(always)]
pub(super) fn depth() -> u32 {
    DEPTH.with(Cell::get)
}

#[inline(always)]
pub(super) fn set_depth(depth: u32) {
    DEPTH.with(|own| own.set(depth));
}

impl Shard {
    #[inline(always)]
    pub(super) fn of_this_thread() -> &'static Shard {
        // SAFETY: has no requirements. Thread descriptors lie a stack apart.
        let thread = unsafe { libc::pthread_self() } as usize;
        &INSIDE[(thread >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - 6)]
    }

    /// A call of the stub `index` begins.
    #[inline(always)]
    pub(super) fn enter(&self, index: usize) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.last.store(index as u32, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(super) fn leave(&self) {
        self.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Calls inside. 0 is certain while the gate is closed; more may be calls that are
/// just finding that out.
pub(super) fn count() -> usize {
    INSIDE
        .iter()
        .map(|shard| shard.calls.load(Ordering::SeqCst) as usize)
        .sum()
}

/// Name of a function that is likely to be one of those inside.
pub(super) fn example() -> String {
    INSIDE
        .iter()
        .find(|shard| shard.calls.load(Ordering::SeqCst) > 0)
        .map_or("none any more".into(), |shard| {
            trampoline::name(shard.last.load(Ordering::Relaxed) as usize)
        })
}

/// In a forked child: only the calling thread is there.
pub(super) fn forked() {
    for shard in &INSIDE {
        shard.calls.store(0, Ordering::SeqCst);
    }
    let own = u32::from(depth() > 0);
    Shard::of_this_thread().calls.store(own, Ordering::SeqCst);
}
