//! Pages of zeros, and pages that are the same as another, counted in bounded memory.

use super::report::{Pages, Shares};
use crate::criu::images::PAGE;
use xxhash_rust::xxh3::xxh3_64;

/// Length of a page, in bytes.
pub(super) const PAGE_BYTES: usize = PAGE as usize;

static ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Counts pages.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// All of them.
    pub(super) pages: u64,
    /// Those of zeros.
    pub(super) zero: u64,
    /// Contents of the others.
    pub(super) contents: Distinct,
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Zero,
    /// Anything else, by its hash.
    Some(u64),
}

impl Content {
    pub(super) fn of(page: &[u8]) -> Content {
        match page == &ZEROS[..page.len()] {
            true => Content::Zero,
            false => Content::Some(xxh3_64(page)),
        }
    }
}

impl Counts {
    pub(super) fn add(&mut self, content: Content) {
        self.pages += 1;
        match content {
            Content::Zero => self.zero += 1,
            Content::Some(hash) => self.contents.add(hash),
        }
    }

    /// Pages that are neither zeros nor the first with their content.
    pub(super) fn duplicate(&self) -> u64 {
        (self.pages - self.zero).saturating_sub(self.contents.number())
    }
}

/// How many different hashes there are: exact up to a bound; above it, only those
/// with so many zero bits at the end are kept, and stand for the rest (Gibbons,
/// "Distinct sampling", 2001). The error is then below 0.3 %.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    /// A table with open addresses; 0 is free.
    slots: Vec<u64>,
    kept: usize,
    level: u32,
}

impl Distinct {
    /// First and largest table: 8 KiB and 16 MiB.
    const FIRST: usize = 1 << 10;
    const MOST: usize = 1 << 21;

    pub(super) fn add(&mut self, hash: u64) {
        // 0 is a hash like any other, but for the table.
        let hash = hash | u64::from(hash == 0) << 63;
        if hash.trailing_zeros() < self.level || !self.put(hash) {
            return;
        }
        if self.kept >= self.slots.len() / 4 * 3 {
            self.make_room();
        }
    }

    /// Whether all of them were counted.
    pub(super) fn is_exact(&self) -> bool {
        self.level == 0
    }

    /// How many different ones were added.
    pub(super) fn number(&self) -> u64 {
        (self.kept as u64) << self.level
    }

    /// Returns whether it was not there.
    fn put(&mut self, hash: u64) -> bool {
        if self.slots.is_empty() {
            self.slots = vec![0; Distinct::FIRST];
        }
        let mask = self.slots.len() - 1;
        // The low bits choose who is kept, the high ones the slot.
        let mut at = (hash >> 32) as usize & mask;
        loop {
            match self.slots[at] {
                0 => break,
                there if there == hash => return false,
                _ => at = (at + 1) & mask,
            }
        }
        self.slots[at] = hash;
        self.kept += 1;
        true
    }

    fn make_room(&mut self) {
        let length = (self.slots.len() * 2).min(Distinct::MOST);
        if length == self.slots.len() {
            self.level += 1;
        }
        let is_kept = |hash: &u64| *hash != 0 && hash.trailing_zeros() >= self.level;
        let mut kept = std::mem::take(&mut self.slots);
        kept.retain(is_kept);
        // Two tables at once would be the most memory that is taken here.
        kept.shrink_to_fit();
        self.slots = vec![0; length];
        self.kept = 0;
        for hash in kept {
            self.put(hash);
        }
    }
}

/// Shares out of the pages that were read of so many.
pub(super) fn pages_of(counts: &Counts, total: u64) -> Pages {
    let read = counts.pages;
    if read == 0 {
        return Pages {
            total,
            ..Pages::default()
        };
    }
    let share = |part: u64| part as f64 / read as f64;
    let is_all = read >= total;
    Pages {
        shares: match (is_all, counts.contents.is_exact()) {
            (true, true) => Shares::All,
            (true, false) => Shares::Estimated,
            (false, _) => Shares::Sample,
        },
        read,
        total,
        zero_share: share(counts.zero),
        zero_plus_minus: if is_all {
            0.0
        } else {
            plus_minus(share(counts.zero), read)
        },
        duplicate_share: share(counts.duplicate()),
    }
}

/// How far a share of a sample may be off, at 95 % confidence: by the normal
/// distribution, and by the rule of three where there is none or nothing else.
fn plus_minus(share: f64, sampled: u64) -> f64 {
    let sampled = sampled as f64;
    let normal = 1.96 * (share * (1.0 - share) / sampled).sqrt();
    normal.max(3.0 / sampled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_and_the_first_of_each_content_are_no_duplicates() {
        let mut bytes = vec![0; 10 * PAGE_BYTES];
        for (page, value) in [(1, 1), (2, 2), (5, 1), (6, 1), (9, 3)] {
            bytes[page * PAGE_BYTES + 7] = value;
        }
        let mut counts = Counts::default();
        for page in bytes.chunks(PAGE_BYTES) {
            counts.add(Content::of(page));
        }
        assert_eq!((counts.pages, counts.zero, counts.duplicate()), (10, 5, 2));
    }

    #[test]
    fn many_different_pages_are_estimated_in_bounded_memory() {
        let mut distinct = Distinct::default();
        for number in 0..7_000_000u64 {
            distinct.add(xxh3_64(&(number / 2).to_le_bytes()));
        }
        assert!(!distinct.is_exact() && distinct.slots.len() == Distinct::MOST);
        let error = distinct.number() as f64 / 3.5e6 - 1.0;
        assert!(error.abs() < 0.01, "{error}");
    }
}
