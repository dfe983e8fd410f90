//! Which memory looks like weights: its bytes are nearly random, as those of
//! floating-point numbers, and those of text, pointers and tables are not.

use super::pages::PAGE_BYTES;
use std::ops::Range;

/// One page in so many is looked at, to begin with, where all are read.
pub(super) const EVERY: u64 = 64;

/// Pages that are kept (16 bytes each).
const MOST: usize = 1 << 18;

/// From so many bits of information in every second byte on it looks like weights:
/// the low bytes of floating-point numbers have nearly 8, programs have up to 6.3,
/// text and tables 3 to 5.
const BITS: f64 = 6.5;

/// What pages that were looked at are like.
#[derive(Debug)]
pub(super) struct Density {
    every: u64,
    /// Number of the file, the page in it, and whether it looks like weights.
    pages: Vec<(u32, u32, bool)>,
}

impl Density {
    /// Looks at one page in so many.
    pub(super) fn every(every: u64) -> Density {
        let pages = Vec::new();
        Density { every, pages }
    }

    /// Takes a page by its file and its number in it, if it is one of those.
    pub(super) fn add(&mut self, file: u32, number: u64, page: &[u8]) {
        let Ok(short) = u32::try_from(number) else {
            return;
        };
        if !number.is_multiple_of(self.every) {
            return;
        }
        if self.pages.len() == MOST {
            self.every *= 2;
            let every = self.every;
            self.pages
                .retain(|page| u64::from(page.1).is_multiple_of(every));
        }
        self.pages.push((file, short, is_dense(page)));
    }

    /// Takes what another one has seen.
    pub(super) fn merge(&mut self, other: Density) {
        let room = MOST.saturating_sub(self.pages.len());
        self.pages.extend(other.pages.into_iter().take(room));
    }

    /// Has them in order, for [`Density::share`].
    pub(super) fn sort(&mut self) {
        self.pages.sort_unstable();
    }

    /// The share of a range of a file, in bytes, that looks like weights; 0 if no page
    /// of it was seen.
    pub(super) fn share(&self, file: u32, bytes: Range<u64>) -> f64 {
        let page = |at: u64| u32::try_from(at / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        let (begin, end) = ((file, page(bytes.start)), (file, page(bytes.end)));
        let below = |bound| self.pages.partition_point(|page| (page.0, page.1) < bound);
        let seen = &self.pages[below(begin)..below(end)];
        let dense = seen.iter().filter(|page| page.2).count();
        dense as f64 / seen.len().max(1) as f64
    }
}

/// Whether every second byte of a page has much information (Shannon's entropy):
/// the others may be signs and exponents.
fn is_dense(page: &[u8]) -> bool {
    let low = || page.iter().step_by(2);
    let mut counts = [0u32; 256];
    low().for_each(|byte| counts[usize::from(*byte)] += 1);
    let all = low().len() as f64;
    let bits = |count: &u32| f64::from(*count) / all * (all / f64::from(*count)).log2();
    let seen = counts.iter().filter(|count| **count > 0);
    seen.map(bits).sum::<f64>() >= BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as weights are: around 0, most of them small.
    fn weights(random: &mut fastrand::Rng) -> Vec<f32> {
        let one = |_| (0..12).map(|_| random.f32() - 0.5).sum::<f32>() * 0.02;
        (0..PAGE_BYTES / 2).map(one).collect()
    }

    #[test]
    fn weights_are_told_from_text_and_tables() {
        let mut random = fastrand::Rng::with_seed(1);
        let numbers = weights(&mut random);
        let wide: Vec<u8> = numbers.iter().flat_map(|one| one.to_le_bytes()).collect();
        let brain = numbers.iter().flat_map(|one| {
            let bytes = one.to_le_bytes();
            [bytes[2], bytes[3]]
        });
        let brain: Vec<u8> = brain.collect();
        for (name, page) in [("float", &wide[..PAGE_BYTES]), ("bfloat16", &brain)] {
            assert!(is_dense(page), "{name}");
        }
        let text = include_bytes!("density.rs");
        let pointers: Vec<u8> = (0..PAGE_BYTES as u64 / 8)
            .flat_map(|_| (0x7f00_1234_0000 + random.u64(..1 << 16) * 16).to_le_bytes())
            .collect();
        for (name, page) in [("text", &text[..PAGE_BYTES - 512]), ("pointers", &pointers)] {
            assert!(!is_dense(page), "{name}");
        }
    }

    #[test]
    fn ranges_have_the_share_of_their_own_pages() {
        let dense: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 167) as u8).collect();
        let mut density = Density::every(2);
        for file in [1, 0] {
            for page in 0..1000 {
                let is_dense = file == 1 && page >= 500;
                let zeros = [0; PAGE_BYTES];
                density.add(file, page, if is_dense { &dense } else { &zeros });
            }
        }
        density.sort();
        let share =
            |file, pages: Range<u64>| density.share(file, pages.start << 12..pages.end << 12);
        assert_eq!((share(0, 0..1000), share(1, 0..1000)), (0.0, 0.5));
        assert_eq!((share(1, 0..500), share(1, 500..600)), (0.0, 1.0));
        assert_eq!((share(2, 0..500), share(1, 2000..3000)), (0.0, 0.0));
        for page in 0..4 * MOST as u64 {
            density.add(3, page, &[0, 0]);
        }
        assert!(density.pages.len() <= MOST);
    }
}
