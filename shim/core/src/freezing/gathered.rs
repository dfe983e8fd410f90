//! A chunk that is put together from its parts.

use rewarm::pages::Region;
use rewarm::snapshot::CHUNK_BYTES;
use std::{io, ptr, slice};

/// Room for one chunk. Not on the heap: a thread's part of that keeps what was freed,
/// and all of it would be in the image of a checkpoint.
pub(super) struct Gathered {
    memory: Region,
    /// Which chunk, and how many of its bytes are here.
    number: usize,
    bytes: usize,
}

impl Gathered {
    /// Takes no memory yet.
    pub(super) fn new() -> io::Result<Gathered> {
        Ok(Gathered {
            memory: Region::reserve(CHUNK_BYTES as usize)?,
            number: 0,
            bytes: 0,
        })
    }

    /// Adds a part of a chunk, given where in it the part begins. What was there of
    /// another chunk, of which the rest failed to come, is dropped. Tells whether all
    /// before it is here, too; otherwise it is not added.
    pub(super) fn add(&mut self, number: usize, offset: usize, part: &[u8]) -> bool {
        if offset == 0 {
            (self.number, self.bytes) = (number, 0);
        }
        let follows = (self.number, self.bytes) == (number, offset);
        if !follows || part.len() > CHUNK_BYTES as usize - self.bytes {
            return false;
        }
        // SAFETY: there is room, as just seen, and nobody else knows of it.
        unsafe {
            let end = self.memory.base().add(self.bytes);
            ptr::copy_nonoverlapping(part.as_ptr(), end, part.len());
        }
        self.bytes += part.len();
        true
    }

    /// All parts so far.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: within the region, and written by `add`.
        unsafe { slice::from_raw_parts(self.memory.base(), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_different_chunks_are_never_put_together() {
        let mut gathered = Gathered::new().unwrap();
        let half = vec![1; CHUNK_BYTES as usize / 2];
        assert!(gathered.add(0, 0, &half));
        // The rest of chunk 0 failed to come.
        assert!(gathered.add(1, 0, &half[..2]));
        assert!(!gathered.add(0, half.len(), &half));
        assert!(!gathered.add(1, 3, &half[..1]));
        assert!(gathered.add(1, 2, &[5]));
        assert_eq!(gathered.bytes(), [1, 1, 5]);
        assert!(!gathered.add(1, 3, &[0; CHUNK_BYTES as usize]));
    }
}
