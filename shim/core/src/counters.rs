//! Counters: always on, cheap enough for the smallest copy.

use rewarm::control::{Bypass, DirectionReport, FillReport};
use rewarm::lanes::{Direction, Filled, Outcome};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Devices that are told apart; the driver has no machine with more.
pub(crate) const DEVICES: usize = 32;

/// Copies of one device in one direction.
#[derive(Default)]
pub(crate) struct Copies {
    bytes: AtomicU64,
    copies: AtomicU64,
    in_place: AtomicU64,
    from_file: AtomicU64,
    nanoseconds: AtomicU64,
    bypassed: [AtomicU64; Bypass::ALL.len()],
}

impl Copies {
    /// A copy that the lanes carried.
    pub(crate) fn fanned_out(&self, bytes: usize, outcome: Outcome, took: Duration) {
        self.copies.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.nanoseconds.fetch_add(took.as_nanos() as u64, Relaxed);
        match outcome {
            Outcome::InPlace => self.in_place.fetch_add(bytes as u64, Relaxed),
            Outcome::Staged { from_file } => self.from_file.fetch_add(from_file, Relaxed),
            Outcome::StreamBusy => 0,
        };
    }

    /// A copy that was left to the driver.
    pub(crate) fn bypassed(&self, reason: Bypass) {
        self.bypassed[reason as usize].fetch_add(1, Relaxed);
    }

    /// The reported form; `small` copies were counted elsewhere.
    pub(crate) fn report(&self, small: u64) -> DirectionReport {
        let bytes = self.bytes.load(Relaxed);
        let seconds = self.nanoseconds.load(Relaxed) as f64 / 1e9;
        let count = |reason: Bypass| {
            let counted = self.bypassed[reason as usize].load(Relaxed);
            counted
                + if reason == Bypass::BelowThreshold {
                    small
                } else {
                    0
                }
        };
        DirectionReport {
            fanned_out_bytes: bytes,
            fanned_out_copies: self.copies.load(Relaxed),
            in_place_bytes: self.in_place.load(Relaxed),
            file_bytes: self.from_file.load(Relaxed),
            fanned_out_seconds: seconds,
            gb_per_s: if seconds > 0.0 {
                bytes as f64 / seconds / 1e9
            } else {
                0.0
            },
            bypassed: Bypass::ALL
                .into_iter()
                .map(|reason| (reason.name().to_owned(), count(reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        }
    }
}

/// Copies into pinned memory of one device's context.
#[derive(Default)]
pub(crate) struct Fills {
    bytes: AtomicU64,
    copies: AtomicU64,
    from_file: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Fills {
    /// A copy that the lanes made.
    pub(crate) fn filled(&self, bytes: usize, filled: Filled, took: Duration) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.copies.fetch_add(1, Relaxed);
        self.from_file.fetch_add(filled.from_file, Relaxed);
        self.nanoseconds.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    /// The reported form.
    pub(crate) fn report(&self) -> FillReport {
        FillReport {
            bytes: self.bytes.load(Relaxed),
            copies: self.copies.load(Relaxed),
            file_bytes: self.from_file.load(Relaxed),
            seconds: self.nanoseconds.load(Relaxed) as f64 / 1e9,
        }
    }
}

/// Threads are spread over this many shards, so that they do not fight for one
/// cache line.
const SHARDS: usize = 64;

/// Copies below the threshold, which are many and must not be slowed down.
#[repr(align(64))]
struct Shard([[AtomicU64; 2]; DEVICES]);

static SMALL: [Shard; SHARDS] =
    [const { Shard([const { [const { AtomicU64::new(0) }; 2] }; DEVICES]) }; SHARDS];

/// Counts a copy below the threshold.
#[inline(always)]
pub(crate) fn small(device: usize, direction: Direction) {
    // SAFETY: has no requirements. Thread descriptors lie a stack apart.
    let thread = unsafe { libc::pthread_self() } as usize;
    let shard = (thread >> 12).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - 6);
    SMALL[shard].0[device % DEVICES][direction as usize].fetch_add(1, Relaxed);
}

/// Copies below the threshold so far.
pub(crate) fn small_total(device: usize, direction: Direction) -> u64 {
    SMALL
        .iter()
        .map(|shard| shard.0[device][direction as usize].load(Relaxed))
        .sum()
}

/// In a forked child, which starts at zero.
pub(crate) fn clear_small() {
    for count in SMALL.iter().flat_map(|shard| shard.0.iter().flatten()) {
        count.store(0, Relaxed);
    }
}
