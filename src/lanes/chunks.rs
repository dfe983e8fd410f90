//! How a copy is cut.

use crate::pages::GRAIN;
use std::ops::Range;

/// What a transfer costs beside its bytes, in bytes that one thread stages
/// meanwhile: 7 µs of driver calls at 9.4 GB/s.
const TRANSFER_COST: usize = 64 << 10;

/// The first chunk of each lane is no larger than this, in bytes: the link idles
/// until one of them is staged.
const FIRST: usize = 512 << 10;

/// The best chunk for a copy of `bytes` with slots of `slot_bytes`, in bytes.
///
/// A copy of n bytes in chunks of c takes, beside its time on the link, the
/// staging of a chunk, which grows with c, and a cost for each of the n / c
/// transfers. Their sum is least at c = √(n × cost): 512 KiB for a copy of 4 MiB,
/// 2 MiB for 64 MiB, 4 MiB for 256 MiB.
pub(super) fn chunk_bytes(bytes: usize, slot_bytes: usize) -> usize {
    let best = (bytes as f64 * TRANSFER_COST as f64).sqrt() as usize;
    best.next_multiple_of(GRAIN).clamp(GRAIN, slot_bytes)
}

/// The chunks of one copy, by number.
///
/// The first ones, one for each lane, are small, the next ones twice as large,
/// and so on up to the best size: while the link carries a round, the lanes stage
/// the next.
pub(super) struct Chunks {
    bytes: usize,
    steps: Vec<Step>,
}

/// From a chunk on, all are of one size, until the next step.
#[derive(Clone, Copy)]
struct Step {
    number: usize,
    start: usize,
    size: usize,
}

impl Chunks {
    /// Cuts a copy of `bytes` for so many lanes, with slots of `slot_bytes`.
    pub(super) fn new(bytes: usize, slot_bytes: usize, lanes: usize) -> Chunks {
        let best = chunk_bytes(bytes, slot_bytes);
        let mut steps = Vec::with_capacity(4);
        let mut step = Step {
            number: 0,
            start: 0,
            size: best.min(FIRST),
        };
        while step.size < best && step.start < bytes {
            steps.push(step);
            step = Step {
                number: step.number + lanes,
                start: step.start + lanes * step.size,
                size: best.min(2 * step.size),
            };
        }
        steps.push(step);
        Chunks { bytes, steps }
    }

    /// Number of chunks.
    pub(super) fn count(&self) -> usize {
        let last = self.last(|step| step.start < self.bytes);
        last.number + (self.bytes - last.start).div_ceil(last.size)
    }

    /// The bytes of chunk `number`, which is less than [`Chunks::count`].
    pub(super) fn range(&self, number: usize) -> Range<usize> {
        let step = self.last(|step| step.number <= number);
        let start = step.start + (number - step.number) * step.size;
        start..(start + step.size).min(self.bytes)
    }

    /// The last step that something is true of, as it is of all before it; the
    /// first if it is true of none.
    fn last(&self, is_true: impl Fn(&Step) -> bool) -> Step {
        let count = self.steps.partition_point(is_true);
        self.steps[count.max(1) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn chunks_grow_with_the_copy() {
        assert_eq!(chunk_bytes(4 * MIB, 4 * MIB), 512 << 10);
        assert_eq!(chunk_bytes(64 * MIB, 4 * MIB), 2 * MIB);
        assert_eq!(chunk_bytes(8 << 30, 4 * MIB), 4 * MIB);
    }

    #[test]
    fn chunks_grow_within_a_copy_one_round_of_the_lanes_after_the_other() {
        let chunks = Chunks::new(64 * MIB, 4 * MIB, 8);
        let sizes: Vec<_> = (0..chunks.count()).map(|n| chunks.range(n).len()).collect();
        assert_eq!(sizes[..8], [MIB / 2; 8]);
        assert_eq!(sizes[8..16], [MIB; 8]);
        assert!(sizes[16..].iter().all(|size| *size == 2 * MIB), "{sizes:?}");
    }

    #[test]
    fn chunks_cover_the_copy_exactly_and_fit_their_slots() {
        for bytes in [
            0,
            1,
            GRAIN,
            MIB,
            3 * MIB + 1,
            9 * MIB,
            100 * MIB + 1,
            8 << 30,
        ] {
            for slot in [128 << 10, MIB, 8 * MIB] {
                for lanes in [1, 2, 8, 64] {
                    let chunks = Chunks::new(bytes, slot, lanes);
                    let mut covered = 0;
                    for range in (0..chunks.count()).map(|number| chunks.range(number)) {
                        assert_eq!(range.start, covered, "{bytes} {slot} {lanes}");
                        assert!(!range.is_empty() && range.len() <= slot);
                        covered = range.end;
                    }
                    assert_eq!(covered, bytes, "{bytes} {slot} {lanes}");
                }
            }
        }
    }
}
