//! Which parts of files were in the page cache before reading came near them.
//!
//! Read-ahead and hints put into the page cache what lies ahead, so by the time
//! that a chunk is read, looking for it says little about the storage: one cold
//! chunk that is read through the page cache would make the next look cached, and
//! so on to the end. So files are looked at in segments, each before anything
//! reads so near that the system could be bringing it already.

use super::residency::cached_spots;
use super::{Chunk, PageFile};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;

/// Parts of a segment that are looked at each alone.
const CELLS: u64 = 16;

/// A segment is at least so long, in bytes: more than systems read ahead.
const SEGMENT: u64 = 64 << 20;

/// What was found, of one reading's files.
pub(super) struct ColdParts {
    segment: u64,
    /// By file and number of segment, one bit for each cell that was not cached;
    /// `None` where the system does not tell.
    found: Mutex<HashMap<(*const PageFile, u64), Option<u16>>>,
}

// SAFETY: the pointers are names, and never followed.
unsafe impl Send for ColdParts {}
// SAFETY: as above.
unsafe impl Sync for ColdParts {}

impl ColdParts {
    /// For a reading that asks for bytes at most so far ahead.
    pub(super) fn new(ahead: u64) -> ColdParts {
        ColdParts {
            segment: SEGMENT.max(ahead.next_power_of_two()),
            found: Mutex::default(),
        }
    }

    /// Whether any byte of a chunk had to come from the storage; `bounds` is the
    /// part of the file that is worth looking at. `None` where the system does not
    /// tell cheaply.
    pub(super) fn is_cold(
        &self,
        file: &PageFile,
        chunk: &Chunk,
        bounds: &Range<u64>,
    ) -> Option<bool> {
        let cell = self.segment / CELLS;
        let mut cold = false;
        for number in chunk.offset / cell..chunk.end().div_ceil(cell) {
            let mask = self.segment_of(file, number / CELLS, bounds)?;
            cold |= mask & 1 << (number % CELLS) != 0;
        }
        Some(cold)
    }

    /// What was found in a segment. Sees to it that the one behind it has been
    /// looked at too.
    fn segment_of(&self, file: &PageFile, number: u64, bounds: &Range<u64>) -> Option<u16> {
        let mut found = self.found.lock();
        let mut look = |number| {
            *found
                .entry((file, number))
                .or_insert_with(|| self.look(file, number, bounds))
        };
        look(number + 1);
        look(number)
    }

    fn look(&self, file: &PageFile, number: u64, bounds: &Range<u64>) -> Option<u16> {
        let cell = self.segment / CELLS;
        let mut mask = 0;
        for bit in 0..CELLS {
            let begin = number * self.segment + bit * cell;
            let part = bounds.start.max(begin)..bounds.end.min(begin + cell);
            if part.start < part.end && !cached_spots(file, part.start, part.end - part.start)? {
                mask |= 1 << bit;
            }
        }
        Some(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::residency::{evict, tests::scratch};
    use super::*;

    /// What is brought into the page cache later still counts as cold, and what
    /// was there does not.
    #[test]
    fn parts_stay_what_they_were_when_they_were_looked_at() {
        const BYTES: u64 = 24 << 20;
        let path = scratch("cold-parts");
        std::fs::write(&path, vec![3; BYTES as usize]).unwrap();
        let file = PageFile::open(&path).unwrap();
        let chunk = |offset| Chunk {
            range: 0,
            offset,
            bytes: 4 << 20,
        };
        let cold = |parts: &ColdParts, offset| parts.is_cold(&file, &chunk(offset), &(0..BYTES));
        let read = |offset| file.read_exact_at(&mut vec![0; 4 << 20], offset).unwrap();

        evict(&file).unwrap();
        read(8 << 20);
        let parts = ColdParts::new(0);
        let before: Vec<_> = (0..6).map(|cell| cold(&parts, cell << 22)).collect();
        read(16 << 20);
        let after: Vec<_> = (0..6).map(|cell| cold(&parts, cell << 22)).collect();
        assert_eq!(before, after);
        match (file.store(), before[0]) {
            (Store::Local, Some(first)) => assert!(first, "evicted"),
            (_, first) => println!("{:?} files cannot be evicted: {first:?}", file.store()),
        }
        std::fs::remove_file(path).unwrap();
    }
}
