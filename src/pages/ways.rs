//! Reading one chunk on this thread, in the way chosen.

use super::strategy::{Choice, Chooser, Experience};
use super::{Chunk, PageError, PageFile, Slot, Strategy};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Hints are at least so far ahead of what is read, in bytes: few workers alone
/// would not keep a disk busy.
const LEAST_AHEAD: u64 = 32 << 20;

/// How the chunks of one reading or copy are read, and how many were in which way.
pub(crate) struct Ways {
    chooser: Chooser,
    /// How far ahead of a chunk hints are, in bytes: what it asks for has to be
    /// there when a worker comes to it.
    ahead: u64,
    read_by: [AtomicU64; Strategy::ALL.len()],
}

impl Ways {
    /// For so many threads that read chunks of so many bytes.
    ///
    /// # Errors
    /// If io_uring was asked for and is not allowed here.
    pub(crate) fn new(
        strategy: Strategy,
        keep_cached: bool,
        workers: usize,
        chunk_bytes: usize,
        experience: &Arc<Experience>,
    ) -> io::Result<Ways> {
        let ahead = LEAST_AHEAD.max((workers * chunk_bytes) as u64);
        Ok(Ways {
            chooser: Chooser::new(strategy, keep_cached, workers, ahead, experience.clone())?,
            ahead,
            read_by: Default::default(),
        })
    }

    /// Bytes read by each strategy that read any.
    pub(super) fn read_by(&self) -> Vec<(Strategy, u64)> {
        Strategy::ALL
            .into_iter()
            .map(|strategy| (strategy, self.read_by[strategy as usize].load(Relaxed)))
            .filter(|(_, bytes)| *bytes > 0)
            .collect()
    }

    pub(super) fn choose(&self, file: &PageFile, chunk: &Chunk, bounds: &Range<u64>) -> Choice {
        self.chooser.choose(file, chunk, bounds)
    }

    /// Counts what was read as chosen, and how long the worker waited for it.
    pub(super) fn account(&self, choice: Choice, bytes: u64, waited: Duration) {
        self.chooser.measured(choice, bytes, waited);
        self.read_by[choice.strategy as usize].fetch_add(bytes, Relaxed);
    }

    /// Chooses and reads. Returns how far behind the slot's beginning the chunk
    /// lies. `range` is where in the file all that is read lies.
    ///
    /// # Errors
    /// As [`PageFile::read_exact_at`].
    pub(crate) fn read(
        &self,
        file: &PageFile,
        chunk: &Chunk,
        range: Range<u64>,
        slot: Slot,
    ) -> Result<usize, PageError> {
        self.read_as(self.choose(file, chunk, &range), file, chunk, range, slot)
    }

    /// As [`Ways::read`], as chosen before; a ring is more than one chunk's.
    pub(super) fn read_as(
        &self,
        choice: Choice,
        file: &PageFile,
        chunk: &Chunk,
        range: Range<u64>,
        slot: Slot,
    ) -> Result<usize, PageError> {
        let begun = Instant::now();
        let before = match choice.strategy {
            Strategy::Direct | Strategy::Uring => read_direct(file, chunk, slot)?,
            Strategy::ReadAhead => {
                self.hint(file, chunk, range);
                complete(file, chunk, slot, 0, 0)?
            }
            Strategy::Mapped => read_mapped(file, chunk, slot)?,
            Strategy::Auto | Strategy::Pread => complete(file, chunk, slot, 0, 0)?,
        };
        self.account(choice, chunk.bytes as u64, begun.elapsed());
        Ok(before)
    }

    /// Asks the system for what will be read next; with a range's first chunk, for
    /// all that lies so far ahead.
    fn hint(&self, file: &PageFile, chunk: &Chunk, range: Range<u64>) {
        let begin = match chunk.offset == range.start {
            true => chunk.offset,
            false => chunk.offset + self.ahead,
        };
        let end = range.end.min(chunk.end() + self.ahead);
        let step = file.hint_bytes();
        let mut at = begin;
        while at < end {
            let bytes = step.min(end - at);
            // SAFETY: an open descriptor; a hint that is not taken costs nothing.
            unsafe {
                libc::posix_fadvise(
                    file.file().as_raw_fd(),
                    at as libc::off_t,
                    bytes as libc::off_t,
                    libc::POSIX_FADV_WILLNEED,
                )
            };
            at += bytes;
        }
    }
}

/// Copies a chunk from a mapping, as far as that goes, and reads the rest.
fn read_mapped(file: &PageFile, chunk: &Chunk, slot: Slot) -> Result<usize, PageError> {
    let copied = match file.view() {
        // SAFETY: the slot is this worker's, and holds a chunk.
        Some(view) => unsafe { view.copy(chunk.offset, slot.memory, chunk.bytes) },
        None => Ok(0),
    };
    complete(file, chunk, slot, 0, copied.unwrap_or(0))
}

/// Reads a chunk past the page cache; returns how far behind the slot's
/// beginning it lies.
fn read_direct(file: &PageFile, chunk: &Chunk, slot: Slot) -> Result<usize, PageError> {
    let Some(direct) = file.direct() else {
        return complete(file, chunk, slot, 0, 0);
    };
    let offset = chunk.offset / direct.alignment * direct.alignment;
    let bytes = chunk.end().next_multiple_of(direct.alignment) - offset;
    let before = (chunk.offset - offset) as usize;
    // SAFETY: the slot is this worker's, and holds a chunk and its alignment.
    let to = unsafe { std::slice::from_raw_parts_mut(slot.memory, bytes as usize) };
    let got = arrived(file, chunk, direct.file.read_at(to, offset))?;
    complete(file, chunk, slot, before, got.saturating_sub(before))
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

/// Reads what is missing of a chunk, of which the first `got` bytes have arrived
/// `before` bytes behind the slot's beginning, through the page cache. Returns
/// `before`.
pub(super) fn complete(
    file: &PageFile,
    chunk: &Chunk,
    slot: Slot,
    before: usize,
    got: usize,
) -> Result<usize, PageError> {
    if got >= chunk.bytes {
        return Ok(before);
    }
    debug_assert!(before + chunk.bytes <= slot.bytes);
    let rest =
        ptr::slice_from_raw_parts_mut(slot.memory.wrapping_add(before + got), chunk.bytes - got);
    // SAFETY: within the slot, which is this worker's.
    file.read_exact_at(unsafe { &mut *rest }, chunk.offset + got as u64)?;
    Ok(before)
}
