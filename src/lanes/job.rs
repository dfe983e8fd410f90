//! One copy while lanes work on it.

use super::chunks::Chunks;
use super::fill::Fill;
use super::mapped_file::MappedFile;
use super::unload::Unload;
use super::{LaneError, waits};
use crate::driver::sys::CUdeviceptr;
use crate::pages::{Chunk, Reading};
use parking_lot::{Condvar, Mutex};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Host to device.
    ToDevice,
    /// Device to host.
    ToHost,
}

/// How long the caller looks before it sleeps. What is left is the last chunk
/// of each lane, and being woken costs about as much.
const SPIN: Duration = Duration::from_micros(500);

/// A copy that lanes take chunks of.
///
/// The caller of the copy stays in it until every chunk that was claimed is
/// finished, so the host memory outlives every access.
pub(super) struct Job {
    pub(super) work: Work,
    chunks: usize,
    unfinished: AtomicUsize,
    error: Mutex<Option<LaneError>>,
    done: Mutex<bool>,
    wake: Condvar,
}

/// What is copied.
pub(super) enum Work {
    /// Between host and device memory.
    Memory(Box<MemoryCopy>),
    /// From files to the device.
    Files(Box<FileCopy>),
    /// Within host memory.
    Fill(Box<Fill>),
    /// From device memory to whoever takes it.
    Unload(Box<Unload>),
}

/// Hands out the chunks of a copy, each once.
pub(super) struct Claims {
    cut: Chunks,
    chunks: usize,
    next: AtomicUsize,
}

impl Claims {
    pub(super) fn new(cut: Chunks) -> Claims {
        Claims {
            chunks: cut.count(),
            cut,
            next: AtomicUsize::new(0),
        }
    }

    fn is_exhausted(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.chunks
    }

    /// Takes the next chunk; the taker must [`finish`](Job::finish) it or
    /// [`fail`](Job::fail).
    pub(super) fn claim(&self) -> Option<Range<usize>> {
        if self.is_exhausted() {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < self.chunks).then(|| self.cut.range(index))
    }

    /// Has nobody claim another chunk; how many nobody had claimed.
    fn stop(&self) -> usize {
        let claimed = self.next.swap(self.chunks, Ordering::Relaxed);
        self.chunks - claimed.min(self.chunks)
    }
}

/// A copy between host and device memory.
pub(super) struct MemoryCopy {
    pub(super) direction: Direction,
    pub(super) device: CUdeviceptr,
    pub(super) host: *mut u8,
    /// The file that the source is mapped from, if it is.
    pub(super) file: Option<MappedFile>,
    pub(super) claims: Claims,
}

// SAFETY: `host` is only touched within claimed chunks, see the comment of `Job`.
unsafe impl Send for MemoryCopy {}
// SAFETY: as above; chunks do not overlap.
unsafe impl Sync for MemoryCopy {}

impl MemoryCopy {
    pub(super) fn new(
        direction: Direction,
        device: CUdeviceptr,
        host: *mut u8,
        file: Option<MappedFile>,
        cut: Chunks,
    ) -> MemoryCopy {
        MemoryCopy {
            direction,
            device,
            host,
            file,
            claims: Claims::new(cut),
        }
    }
}

/// A copy from files to the device.
pub(super) struct FileCopy {
    pub(super) reading: Reading,
    /// Where each range goes: the address of its file's first byte, if all of
    /// the file went there.
    pub(super) origins: Vec<CUdeviceptr>,
    /// Goes up by the bytes that are on their way to the device.
    pub(super) progress: Option<Arc<AtomicU64>>,
}

impl FileCopy {
    /// Where a chunk goes.
    pub(super) fn device(&self, chunk: &Chunk) -> CUdeviceptr {
        self.origins[chunk.range].wrapping_add(chunk.offset)
    }
}

impl Job {
    pub(super) fn new(work: Work) -> Job {
        let chunks = match &work {
            Work::Memory(copy) => copy.claims.chunks,
            Work::Files(copy) => copy.reading.chunks(),
            Work::Fill(fill) => fill.claims.chunks,
            Work::Unload(unload) => unload.parts(),
        };
        Job {
            work,
            chunks,
            unfinished: AtomicUsize::new(chunks),
            error: Mutex::new(None),
            done: Mutex::new(chunks == 0),
            wake: Condvar::new(),
        }
    }

    /// Number of chunks in all.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether no chunk is left to claim.
    pub(super) fn is_exhausted(&self) -> bool {
        match &self.work {
            Work::Memory(copy) => copy.claims.is_exhausted(),
            Work::Files(copy) => copy.reading.is_exhausted(),
            Work::Fill(fill) => fill.claims.is_exhausted(),
            Work::Unload(unload) => unload.is_exhausted(),
        }
    }

    /// Bytes read from a file that were to be copied from memory.
    pub(super) fn file_bytes(&self) -> u64 {
        match &self.work {
            Work::Memory(copy) => copy.file.as_ref().map_or(0, MappedFile::bytes),
            Work::Fill(fill) => fill.file.as_ref().map_or(0, MappedFile::bytes),
            Work::Files(_) | Work::Unload(_) => 0,
        }
    }

    /// A claimed chunk no longer needs the host memory, or the file.
    pub(super) fn finish(&self) {
        self.subtract(1);
    }

    /// A claimed chunk failed: nobody needs to begin another.
    pub(super) fn fail(&self, error: LaneError) {
        self.error.lock().get_or_insert(error);
        let unclaimed = match &self.work {
            Work::Memory(copy) => copy.claims.stop(),
            Work::Files(copy) => copy.reading.stop(),
            Work::Fill(fill) => fill.claims.stop(),
            Work::Unload(unload) => unload.stop(),
        };
        self.subtract(unclaimed + 1);
    }

    fn subtract(&self, chunks: usize) {
        // Release: what this thread read or wrote is seen by the caller.
        if self.unfinished.fetch_sub(chunks, Ordering::AcqRel) == chunks {
            *self.done.lock() = true;
            self.wake.notify_one();
        }
    }

    /// Waits until no claimed chunk is left: the **staged** wait.
    pub(super) fn wait(&self) -> Result<(), LaneError> {
        if waits::STAGED.is_kept() {
            let begun = Instant::now();
            while self.unfinished.load(Ordering::Acquire) != 0 && begun.elapsed() < SPIN {
                std::hint::spin_loop();
            }
            let mut done = self.done.lock();
            while !*done {
                self.wake.wait(&mut done);
            }
        }
        match self.error.lock().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}
