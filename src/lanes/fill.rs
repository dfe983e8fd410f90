//! Copies within host memory, by all lanes together.
//!
//! Some libraries stage by themselves: they copy what is to go to the device into
//! pinned memory of their own, on one thread, and out of a mapping, a fault every
//! few pages. With eight threads that read the file it is eight times as fast.
//! No slot, no stream and no driver call has a part in it.

use super::chunks::Chunks;
use super::job::{Claims, Job, Work};
use super::mapped_file::MappedFile;
use super::set::LaneSet;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;

/// Largest chunk in bytes.
const CHUNK: usize = 1 << 20;

/// What a fill came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Bytes that came from the file that the source is mapped from.
    pub from_file: u64,
}

/// A copy from host memory to host memory.
pub(super) struct Fill {
    to: *mut u8,
    from: *const u8,
    /// The file that the source is mapped from, if it is.
    pub(super) file: Option<MappedFile>,
    pub(super) claims: Claims,
}

// SAFETY: both sides are only touched within claimed chunks, and the caller stays
// in the copy until all of those are finished.
unsafe impl Send for Fill {}
// SAFETY: as above; chunks do not overlap.
unsafe impl Sync for Fill {}

impl Fill {
    /// Copies up to `most` chunks.
    pub(super) fn run(&self, job: &Job, most: usize) {
        for chunk in std::iter::from_fn(|| self.claims.claim()).take(most) {
            if !self.read(&chunk) {
                // SAFETY: the chunk lies within both sides, which outlive the
                // claim and do not overlap.
                unsafe {
                    let (from, to) = (self.from.add(chunk.start), self.to.add(chunk.start));
                    ptr::copy_nonoverlapping(from, to, chunk.len());
                }
            }
            job.finish();
        }
    }

    /// Whether the chunk is there, read from the file.
    fn read(&self, chunk: &Range<usize>) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let to = ptr::slice_from_raw_parts_mut(self.to.wrapping_add(chunk.start), chunk.len());
        // SAFETY: the chunk of the destination is this thread's until it is finished.
        match file.read_to(chunk, unsafe { &mut *to }) {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(%error, "filled from memory");
                false
            }
        }
    }
}

impl LaneSet {
    /// Copies within host memory. Returns when every byte is there. The set's
    /// context need not be current, and nothing can fail.
    ///
    /// # Safety
    /// As [`ptr::copy_nonoverlapping`]; what a plain copy would fault at, a lane
    /// may.
    pub unsafe fn fill(&self, to: *mut u8, from: *const u8, bytes: usize) -> Filled {
        let shared = self.shared();
        let source = from.addr()..from.addr().saturating_add(bytes);
        let fill = Fill {
            to,
            from,
            file: shared.files.find(source),
            claims: Claims::new(Chunks::new(bytes, CHUNK, self.lanes())),
        };
        let job = Arc::new(Job::new(Work::Fill(Box::new(fill))));
        shared.offer(&job);
        let Work::Fill(fill) = &job.work else {
            unreachable!("the job is what was given")
        };
        fill.run(&job, usize::MAX);
        // No chunk fails.
        let _ = job.wait();
        Filled {
            from_file: job.file_bytes(),
        }
    }
}
