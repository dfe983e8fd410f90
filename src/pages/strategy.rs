//! Which way a chunk is read: asked for, or chosen by evidence.

use super::residency::cached_spots;
use super::{Chunk, PageFile, Store, ring};
use crate::config::Strategy;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Bytes of cold files that each way in question gets to show what it can do.
const TRIAL: u64 = 128 << 20;

/// The second way has to be this much faster than the first, which is the better
/// one on most machines: a trial is short, and storage has moods.
const CLEARLY: f64 = 1.3;

/// A worker that is slower than this, in bytes a nanosecond, reads from a disk.
const FROM_MEMORY: f64 = 1.0;

/// Older measurements count half once so many bytes came after them.
const MEMORY_OF: u64 = 512 << 20;

/// What was measured, kept from one reading to the next.
#[derive(Debug, Default)]
pub(crate) struct Experience {
    /// Reading what seemed to be in the page cache.
    cached: Tally,
    /// Reading what was not, by strategy.
    cold: [Tally; Strategy::ALL.len()],
    cold_bytes: AtomicU64,
}

/// Bytes, and the time that workers took for them.
#[derive(Debug, Default)]
struct Tally {
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Tally {
    fn add(&self, bytes: u64, took: Duration) {
        let nanoseconds = took.as_nanos() as u64;
        let sum = self.bytes.fetch_add(bytes, Relaxed) + bytes;
        let time = self.nanoseconds.fetch_add(nanoseconds, Relaxed) + nanoseconds;
        if sum > MEMORY_OF {
            self.bytes.store(sum / 2, Relaxed);
            self.nanoseconds.store(time / 2, Relaxed);
        }
    }

    /// Bytes a nanosecond, that is GB/s, of one worker.
    fn rate(&self) -> Option<f64> {
        let nanoseconds = self.nanoseconds.load(Relaxed);
        (nanoseconds > 0).then(|| self.bytes.load(Relaxed) as f64 / nanoseconds as f64)
    }
}

/// How one chunk is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Never [`Strategy::Auto`].
    pub(super) strategy: Strategy,
    /// Whether the bytes seem to have to come from the storage.
    pub(super) cold: bool,
}

impl Choice {
    /// The same by another strategy.
    pub(super) fn with(self, strategy: Strategy) -> Choice {
        Choice { strategy, ..self }
    }
}

/// Whether what a strategy reads is in the page cache afterwards.
fn fills_cache(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Pread | Strategy::ReadAhead)
}

/// Chooses for the chunks of one reading.
pub(super) struct Chooser {
    asked: Strategy,
    keep_cached: bool,
    /// The way past the page cache that works here.
    direct: Strategy,
    experience: Arc<Experience>,
}

impl Chooser {
    /// # Errors
    /// If io_uring was asked for and is not allowed here.
    pub(super) fn new(
        asked: Strategy,
        keep_cached: bool,
        experience: Arc<Experience>,
    ) -> io::Result<Chooser> {
        let may_ring = match asked {
            Strategy::Uring => ring::try_one().map(|()| true)?,
            Strategy::Auto if !keep_cached => ring::try_one().is_ok(),
            _ => false,
        };
        Ok(Chooser {
            asked,
            keep_cached,
            direct: if may_ring {
                Strategy::Uring
            } else {
                Strategy::Direct
            },
            experience,
        })
    }

    /// How to read a chunk.
    /// `ahead`: how far hints go, in bytes.
    pub(super) fn choose(&self, file: &PageFile, chunk: &Chunk, ahead: u64) -> Choice {
        if self.asked != Strategy::Auto {
            let possible = fills_cache(self.asked) || file.direct().is_some();
            return Choice {
                strategy: if possible {
                    self.asked
                } else {
                    Strategy::Pread
                },
                cold: true,
            };
        }
        let hinted = file.is_hinted(chunk.offset, ahead);
        let cold = file.store() != Store::Memory && (hinted || self.is_cold(file, chunk));
        Choice {
            strategy: if cold {
                self.choose_cold(file, chunk)
            } else {
                Strategy::Pread
            },
            cold,
        }
    }

    fn is_cold(&self, file: &PageFile, chunk: &Chunk) -> bool {
        match cached_spots(file, chunk.offset, chunk.bytes as u64) {
            Some(cached) => !cached,
            // The system does not tell: what reading was like does.
            None => self
                .experience
                .cached
                .rate()
                .is_some_and(|rate| rate < FROM_MEMORY),
        }
    }

    /// Both ways in question read some of the first bytes, then the faster one
    /// the rest.
    fn choose_cold(&self, file: &PageFile, chunk: &Chunk) -> Strategy {
        let ways = self.cold_ways(file);
        let experience = &self.experience;
        let read = experience.cold_bytes.fetch_add(chunk.bytes as u64, Relaxed);
        if read < TRIAL {
            return ways[0];
        }
        if read < 2 * TRIAL {
            return ways[1];
        }
        let rate = |strategy: Strategy| experience.cold[strategy as usize].rate();
        match (rate(ways[0]), rate(ways[1])) {
            (Some(first), Some(second)) if second > first * CLEARLY => ways[1],
            _ => ways[0],
        }
    }

    /// The ways in question, the one that is usually better first. What stays
    /// cached is read ahead, which is never worse than reading alone.
    fn cold_ways(&self, file: &PageFile) -> [Strategy; 2] {
        let past_cache = !self.keep_cached && file.direct().is_some();
        match (past_cache, file.store()) {
            (true, Store::Remote) => [Strategy::ReadAhead, Strategy::Direct],
            (true, _) => [self.direct, Strategy::ReadAhead],
            (false, _) => [Strategy::ReadAhead; 2],
        }
    }

    /// A worker read so many bytes as chosen, in this time.
    pub(super) fn measured(&self, choice: Choice, bytes: u64, took: Duration) {
        let tally = if choice.cold {
            &self.experience.cold[choice.strategy as usize]
        } else {
            &self.experience.cached
        };
        tally.add(bytes, took);
    }
}
