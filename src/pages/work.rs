//! A reading, and what a worker thread does for it.

use super::Strategy;
use super::cut::Cut;
use super::pace::Pace;
use super::strategy::{Choice, Chooser, Experience};
use super::{Chunk, FileRange, PageError, PageFile, Reason, ring};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// Chunks are a multiple of this, and so of every alignment that is used.
pub(crate) const GRAIN: usize = 64 << 10;

/// The kernel takes a hint for at most about so many bytes at once.
const HINT: u64 = 1 << 20;

/// What is read, and how far claiming it has got. Shared by all workers.
pub(crate) struct Reading {
    ranges: Vec<FileRange>,
    /// Each file once.
    files: Vec<Arc<PageFile>>,
    /// The place of each range's file among them.
    numbers: Vec<usize>,
    cut: Cut,
    chunk_bytes: usize,
    chunks: usize,
    next: AtomicUsize,
    workers: usize,
    chooser: Chooser,
    pace: Option<Pace>,
    read_by: [AtomicU64; Strategy::ALL.len()],
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
        let chooser = Chooser::new(manner.strategy, manner.keep_cached, experience.clone())
            .map_err(|error| {
                let path = ranges
                    .first()
                    .map_or("".as_ref(), |range| range.file.path());
                PageError::new(path, Reason::NoRing(error))
            })?;
        let (files, numbers) = distinct(&ranges);
        let cut = Cut::new(
            ranges.iter().map(|range| (range.offset, range.bytes)),
            manner.chunk_bytes,
        );
        Ok(Reading {
            chunks: cut.count(),
            cut,
            chunk_bytes: manner.chunk_bytes,
            ranges,
            files,
            numbers,
            next: AtomicUsize::new(0),
            workers: manner.workers.max(1),
            chooser,
            pace: manner.bytes_per_second.map(Pace::new),
            read_by: Default::default(),
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
        Strategy::ALL
            .into_iter()
            .map(|strategy| (strategy, self.read_by[strategy as usize].load(Relaxed)))
            .filter(|(_, bytes)| *bytes > 0)
            .collect()
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
        Some((chunk, self.chooser.choose(self.file_of(&chunk), &chunk)))
    }

    pub(super) fn files(&self) -> &[Arc<PageFile>] {
        &self.files
    }

    pub(super) fn file_number(&self, chunk: &Chunk) -> usize {
        self.numbers[chunk.range]
    }

    pub(super) fn file_of(&self, chunk: &Chunk) -> &PageFile {
        &self.ranges[chunk.range].file
    }

    /// Counts what was read as chosen since `begun`.
    pub(super) fn account(&self, choice: Choice, bytes: u64, begun: Instant) {
        self.chooser.measured(choice, bytes, begun.elapsed());
        self.read_by[choice.strategy as usize].fetch_add(bytes, Relaxed);
    }

    /// Asks the system for the chunk that this worker will probably read next.
    fn hint(&self, chunk: &Chunk) {
        let range = &self.ranges[chunk.range];
        let ahead = (self.workers * self.chunk_bytes) as u64;
        let end = (range.offset + range.bytes).min(chunk.end() + ahead);
        let mut at = chunk.offset + ahead;
        while at < end {
            let bytes = HINT.min(end - at);
            // SAFETY: an open descriptor; a hint that is not taken costs nothing.
            unsafe {
                libc::posix_fadvise(
                    range.file.file().as_raw_fd(),
                    at as libc::off_t,
                    bytes as libc::off_t,
                    libc::POSIX_FADV_WILLNEED,
                )
            };
            at += bytes;
        }
    }
}

/// Each file once, and which of them is each range's.
fn distinct(ranges: &[FileRange]) -> (Vec<Arc<PageFile>>, Vec<usize>) {
    let mut places = std::collections::HashMap::new();
    let mut files = Vec::new();
    let numbers = ranges.iter().map(|range| {
        *places.entry(Arc::as_ptr(&range.file)).or_insert_with(|| {
            files.push(range.file.clone());
            files.len() - 1
        })
    });
    let numbers = numbers.collect();
    (files, numbers)
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
    let begun = Instant::now();
    let file = reading.file_of(chunk);
    let read = match choice.strategy {
        Strategy::Direct => read_direct(file, chunk, slot),
        strategy => {
            if strategy == Strategy::ReadAhead {
                reading.hint(chunk);
            }
            complete(file, chunk, slot, 0, 0).map(|()| 0)
        }
    };
    match read {
        Ok(before) => {
            reading.account(choice, chunk.bytes as u64, begun);
            worker.filled(slot, before, chunk);
        }
        Err(error) => worker.failed(Some(slot), error.into()),
    }
}

/// Reads a chunk past the page cache; returns how far behind the slot's
/// beginning it lies.
fn read_direct(file: &PageFile, chunk: &Chunk, slot: Slot) -> Result<usize, PageError> {
    let Some(direct) = file.direct() else {
        return complete(file, chunk, slot, 0, 0).map(|()| 0);
    };
    let offset = chunk.offset / direct.alignment * direct.alignment;
    let bytes = chunk.end().next_multiple_of(direct.alignment) - offset;
    let before = (chunk.offset - offset) as usize;
    // SAFETY: the slot is this worker's, and holds a chunk and its alignment.
    let to = unsafe { std::slice::from_raw_parts_mut(slot.memory, bytes as usize) };
    let got = arrived(file, chunk, direct.file.read_at(to, offset))?;
    complete(file, chunk, slot, before, got.saturating_sub(before))?;
    Ok(before)
}

/// How much a read past the page cache brought. What such reads may refuse, the
/// page cache can still give.
pub(super) fn arrived(
    file: &PageFile,
    chunk: &Chunk,
    read: io::Result<usize>,
) -> Result<usize, PageError> {
    const REFUSED: [i32; 5] = [
        libc::EINVAL,
        libc::EOPNOTSUPP,
        libc::EAGAIN,
        libc::EINTR,
        libc::ENOMEM,
    ];
    match read {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|code| REFUSED.contains(&code)) =>
        {
            Ok(0)
        }
        Err(error) => Err(file.failed(chunk.offset, error)),
        Ok(got) => Ok(got),
    }
}

/// Reads what is missing of a chunk, of which the first `got` bytes have arrived,
/// through the page cache.
pub(super) fn complete(
    file: &PageFile,
    chunk: &Chunk,
    slot: Slot,
    before: usize,
    got: usize,
) -> Result<(), PageError> {
    if got >= chunk.bytes {
        return Ok(());
    }
    debug_assert!(before + chunk.bytes <= slot.bytes);
    let rest =
        ptr::slice_from_raw_parts_mut(slot.memory.wrapping_add(before + got), chunk.bytes - got);
    // SAFETY: within the slot, which is this worker's.
    file.read_exact_at(unsafe { &mut *rest }, chunk.offset + got as u64)
}
