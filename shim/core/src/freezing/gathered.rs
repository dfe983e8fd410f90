//! A chunk that is put together from its parts.

use rewarm::pages::Region;
use rewarm::snapshot::CHUNK_BYTES;
use std::{io, ptr, slice};

/// Room for one chunk. Not on the heap: a thread's part of that keeps what was freed,
/// and all of it would be in the image of a checkpoint.
pub(super) struct Gathered {
    memory: Region,
    bytes: usize,
}

impl Gathered {
    /// Takes no memory yet.
    pub(super) fn new() -> io::Result<Gathered> {
        Ok(Gathered {
            memory: Region::reserve(CHUNK_BYTES as usize)?,
            bytes: 0,
        })
    }

    /// Adds the next part.
    pub(super) fn add(&mut self, part: &[u8]) {
        assert!(part.len() <= CHUNK_BYTES as usize - self.bytes);
        // SAFETY: there is room, as just seen, and nobody else knows of it.
        unsafe {
            let end = self.memory.base().add(self.bytes);
            ptr::copy_nonoverlapping(part.as_ptr(), end, part.len());
        }
        self.bytes += part.len();
    }

    /// All parts so far.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: within the region, and written by `add`.
        unsafe { slice::from_raw_parts(self.memory.base(), self.bytes) }
    }

    /// Begins the next chunk.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
    }
}
