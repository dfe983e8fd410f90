//! Which way a chunk is read: asked for, or chosen by evidence.
//!
//! What is in the page cache is copied from there. For what is not, there are two
//! ways in question, and the better one is found while reading ([`Trial`]). Which
//! of them begins is what measurements say of the storage:
//!
//! - A local disk is read past the page cache if nothing has to stay there: that
//!   is the disk's own speed, and costs no CPU for pages. Only a file system that
//!   does it badly is slower, so the other way has to wait for long.
//! - Through the page cache, hints keep the disk busy while workers copy, but
//!   bring small pages, which takes a CPU for a GB/s or two. With few workers the
//!   system's own read-ahead, in large pages, is faster.
//! - What is far away answers late, so hints come first: they are the most
//!   requests at once. Past the page cache is the other way, where that is
//!   allowed.

use super::cold::ColdParts;
use super::trial::{Lengths, Tally, Trial, Turn};
use super::{Chunk, PageFile, Store, ring};
use crate::config::Strategy;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A worker that is slower than this, in bytes a nanosecond, reads from a disk.
const FROM_MEMORY: f64 = 1.0;

/// Older measurements of the page cache count half after so many bytes.
const MEMORY_OF: u64 = 512 << 20;

/// With fewer workers there is no CPU to spare for hints.
const WORKERS_FOR_HINTS: usize = 4;

/// Turns of a contest are at least so long, in bytes.
const WINDOW: u64 = 64 << 20;

/// What was measured, kept from one reading to the next.
#[derive(Debug, Default)]
pub(crate) struct Experience {
    /// Reading what seemed to be in the page cache.
    cached: Mutex<Tally>,
    /// Reading what was not.
    trials: Mutex<HashMap<Question, Trial>>,
}

/// What a contest is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    store: Store,
    /// The one that is usually better first.
    ways: [Strategy; 2],
}

impl Question {
    /// How long it is contested where workers together have `ahead` bytes under
    /// way.
    fn lengths(&self, ahead: u64) -> Lengths {
        let window = WINDOW.max(4 * ahead);
        Lengths {
            // Of disks it is known who should win; of servers it is not.
            lead: match self.store {
                Store::Remote => window,
                _ => 8 * window,
            },
            window,
            warm_up: ahead,
        }
    }
}

/// How one chunk is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Never [`Strategy::Auto`].
    pub(super) strategy: Strategy,
    /// Whether the bytes seem to have to come from the storage.
    pub(super) cold: bool,
    /// The contest that it is a turn of.
    turn: Option<(Question, Turn)>,
}

impl Choice {
    /// The same by another strategy.
    pub(super) fn with(self, strategy: Strategy) -> Choice {
        Choice { strategy, ..self }
    }
}

/// Chooses for the chunks of one reading.
pub(super) struct Chooser {
    asked: Strategy,
    keep_cached: bool,
    workers: usize,
    /// Bytes that workers together have under way, hints included.
    ahead: u64,
    /// The way past the page cache that works here.
    direct: Strategy,
    experience: Arc<Experience>,
    cold_parts: ColdParts,
}

impl Chooser {
    /// # Errors
    /// If io_uring was asked for and is not allowed here.
    pub(super) fn new(
        asked: Strategy,
        keep_cached: bool,
        workers: usize,
        ahead: u64,
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
            workers,
            ahead,
            direct: if may_ring {
                Strategy::Uring
            } else {
                Strategy::Direct
            },
            experience,
            cold_parts: ColdParts::new(ahead),
        })
    }

    /// How to read a chunk. `bounds` is the part of the file that may be looked at
    /// for what is cached.
    pub(super) fn choose(&self, file: &PageFile, chunk: &Chunk, bounds: &Range<u64>) -> Choice {
        if self.asked != Strategy::Auto {
            return Choice {
                strategy: possible(self.asked, file),
                cold: true,
                turn: None,
            };
        }
        if file.store() != Store::Memory && self.is_cold(file, chunk, bounds) {
            return self.choose_cold(file, chunk);
        }
        Choice {
            strategy: Strategy::Pread,
            cold: false,
            turn: None,
        }
    }

    fn is_cold(&self, file: &PageFile, chunk: &Chunk, bounds: &Range<u64>) -> bool {
        match self.cold_parts.is_cold(file, chunk, bounds) {
            Some(cold) => cold,
            // The system does not tell: what reading was like does.
            None => {
                let rate = self.experience.cached.lock().rate();
                rate.is_some_and(|rate| rate < FROM_MEMORY)
            }
        }
    }

    fn choose_cold(&self, file: &PageFile, chunk: &Chunk) -> Choice {
        let question = Question {
            store: file.store(),
            ways: self.ways_in_question(file.store()),
        };
        let turn = self
            .experience
            .trials
            .lock()
            .entry(question)
            .or_insert_with(|| Trial::new(question.lengths(self.ahead)))
            .next(chunk.bytes as u64);
        Choice {
            strategy: possible(question.ways[turn.way], file),
            cold: true,
            turn: Some((question, turn)),
        }
    }

    fn ways_in_question(&self, store: Store) -> [Strategy; 2] {
        let cached = match store {
            Store::Local if self.workers < WORKERS_FOR_HINTS => {
                [Strategy::Pread, Strategy::ReadAhead]
            }
            _ => [Strategy::ReadAhead, Strategy::Pread],
        };
        match store {
            _ if self.keep_cached => cached,
            Store::Remote => [cached[0], Strategy::Direct],
            _ => [self.direct, cached[0]],
        }
    }

    /// A worker waited so long for bytes that were read as chosen.
    pub(super) fn measured(&self, choice: Choice, bytes: u64, waited: Duration) {
        if !choice.cold {
            let mut cached = self.experience.cached.lock();
            cached.add(bytes, waited, MEMORY_OF);
        } else if let Some((question, turn)) = choice.turn
            && let Some(trial) = self.experience.trials.lock().get_mut(&question)
        {
            trial.measured(turn, bytes, waited);
        }
    }
}

/// A strategy, or what serves instead for a file that cannot be read so.
fn possible(strategy: Strategy, file: &PageFile) -> Strategy {
    match strategy {
        Strategy::Direct | Strategy::Uring if file.direct().is_none() => Strategy::ReadAhead,
        _ => strategy,
    }
}
