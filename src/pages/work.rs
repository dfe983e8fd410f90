//! A reading, and what a worker thread does for it.

use super::cut::Cut;
use super::pace::Pace;
use super::strategy::{Choice, Experience};
use super::{Chunk, FileRange, PageError, PageFile, Reason, Strategy, Ways, ring};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Chunks are a multiple of this, so that none is a few bytes long, and so of every
/// alignment that is used.
pub(crate) const GRAIN: usize = 64 << 10;

/// What is read, and how far claiming it has got. Shared by all workers.
pub(crate) struct Reading {
    ranges: Vec<FileRange>,
    cut: Cut,
    chunks: usize,
    next: AtomicUsize,
    ways: Ways,
    pace: Option<Pace>,
}

/// What a reading is told beside its ranges.
pub(crate) struct Manner {
    /// How to read.
    pub(crate) strategy: Strategy,
    /// Whether what is read shall be in the page cache afterwards.
    pub(crate) keep_cached: bool,
    /// Largest chunk in bytes; a slot holds that much.
    pub(crate) chunk_bytes: usize,
    /// Threads that will work.
    pub(crate) workers: usize,
    /// Most bytes a second.
    pub(crate) bytes_per_second: Option<u64>,
}

/// A piece of a worker's own memory. What it is good for is the worker's
/// business; a strategy fills it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Its number among the worker's slots.
    pub(crate) number: usize,
    /// Page-aligned.
    pub(crate) memory: *mut u8,
    /// Length in bytes.
    pub(crate) bytes: usize,
}

/// A thread's part in a reading: whose slots are filled, and what becomes of them.
pub(crate) trait Worker {
    /// What can go wrong with slots, or with reading.
    type Error: From<PageError>;

    /// All slots, with their memory present.
    fn slots(&mut self) -> Result<Vec<Slot>, Self::Error>;

    /// A slot that may be written to; waits until there is one. It is the
    /// strategy's until it is handed back by one of the other methods.
    fn slot(&mut self) -> Result<Slot, Self::Error>;

    /// The chunk is in the slot, `before` bytes behind its beginning.
    fn filled(&mut self, slot: Slot, before: usize, chunk: &Chunk);

    /// A chunk could not be read, or there was no slot for it.
    fn failed(&mut self, slot: Option<Slot>, error: Self::Error);
}

impl Reading {
    /// Begins a reading.
    ///
    /// # Errors
    /// A range beyond its file's end; io_uring asked for where it is forbidden.
    pub(crate) fn new(
        ranges: Vec<FileRange>,
        manner: &Manner,
        experience: &Arc<Experience>,
    ) -> Result<Reading, PageError> {
        for range in &ranges {
            range.check()?;
        }
        let ways = Ways::new(
            manner.strategy,
            manner.keep_cached,
            manner.workers,
            manner.chunk_bytes,
            experience,
        );
        let ways = ways.map_err(|error| {
            let path = ranges
                .first()
                .map_or("".as_ref(), |range| range.file.path());
            PageError::new(path, Reason::NoRing(error))
        })?;
        let cut = Cut::new(
            ranges.iter().map(|range| (range.offset, range.bytes)),
            manner.chunk_bytes,
        );
        Ok(Reading {
            chunks: cut.count(),
            cut,
            ranges,
            next: AtomicUsize::new(0),
            ways,
            pace: manner.bytes_per_second.map(Pace::new),
        })
    }

    /// Number of chunks in all.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether no chunk is left to claim.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.next.load(Relaxed) >= self.chunks
    }

    /// Has nobody begin another chunk; how many nobody had claimed.
    pub(crate) fn stop(&self) -> usize {
        self.chunks - self.next.swap(self.chunks, Relaxed).min(self.chunks)
    }

    /// Bytes read by each strategy that read any.
    pub(crate) fn read_by(&self) -> Vec<(Strategy, u64)> {
        self.ways.read_by()
    }

    pub(super) fn claim(&self) -> Option<(Chunk, Choice)> {
        if self.is_exhausted() {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        if number >= self.chunks {
            return None;
        }
        let chunk = self.cut.chunk(number);
        if let Some(pace) = &self.pace {
            pace.wait(chunk.bytes);
        }
        let file = self.file_of(&chunk);
        let choice = self.ways.choose(file, &chunk, &(0..file.bytes()));
        Some((chunk, choice))
    }

    pub(super) fn file_of(&self, chunk: &Chunk) -> &PageFile {
        &self.ranges[chunk.range].file
    }

    /// Counts what was read as chosen, and how long the worker waited for it.
    pub(super) fn account(&self, choice: Choice, bytes: u64, waited: Duration) {
        self.ways.account(choice, bytes, waited);
    }

    fn read(&self, chunk: &Chunk, choice: Choice, slot: Slot) -> Result<usize, PageError> {
        let range = &self.ranges[chunk.range];
        let all = range.offset..range.offset + range.bytes;
        self.ways.read_as(choice, &range.file, chunk, all, slot)
    }
}

/// Works on up to `most` chunks, or a series of chunks that belong together.
pub(crate) fn work<W: Worker>(reading: &Reading, worker: &mut W, most: usize) {
    let mut left = None;
    let mut begun = 0;
    while left.is_some() || begun < most {
        let Some((chunk, choice)) = left.take().or_else(|| reading.claim()) else {
            return;
        };
        begun += 1;
        if choice.strategy == Strategy::Uring {
            left = ring::run(reading, worker, (chunk, choice));
        } else {
            read_one(reading, worker, &chunk, choice);
        }
    }
}

/// Reads one chunk on this thread.
pub(super) fn read_one<W: Worker>(
    reading: &Reading,
    worker: &mut W,
    chunk: &Chunk,
    choice: Choice,
) {
    let slot = match worker.slot() {
        Ok(slot) => slot,
        Err(error) => return worker.failed(None, error),
    };
    match reading.read(chunk, choice, slot) {
        Ok(before) => worker.filled(slot, before, chunk),
        Err(error) => worker.failed(Some(slot), error.into()),
    }
}
