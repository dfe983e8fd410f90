//! How a copy is cut.

use std::ops::Range;

/// Chunks are a multiple of this, so that no chunk is a few bytes long.
const GRAIN: usize = 64 << 10;

/// What a transfer costs beside its bytes, in bytes that one thread stages
/// meanwhile: 7 µs of driver calls at 9.4 GB/s.
const TRANSFER_COST: usize = 64 << 10;

/// The best chunk for a copy of `bytes` with slots of `slot_bytes`, in bytes.
///
/// A copy of n bytes in chunks of c takes, beside its time on the link, the
/// staging of a chunk, which grows with c, and a cost for each of the n / c
/// transfers. Their sum is least at c = √(n × cost): 512 KiB for a copy of 4 MiB,
/// 2 MiB for 64 MiB, 4 MiB for 256 MiB. (Beginning with smaller chunks gains
/// nothing that could be measured.)
pub(super) fn chunk_bytes(bytes: usize, slot_bytes: usize) -> usize {
    let best = (bytes as f64 * TRANSFER_COST as f64).sqrt() as usize;
    best.next_multiple_of(GRAIN).clamp(GRAIN, slot_bytes)
}

/// The chunks of one copy, by number.
pub(super) struct Chunks {
    bytes: usize,
    chunk: usize,
}

impl Chunks {
    /// Cuts a copy of `bytes` for slots that hold `slot_bytes`.
    pub(super) fn new(bytes: usize, slot_bytes: usize) -> Chunks {
        Chunks {
            bytes,
            chunk: chunk_bytes(bytes, slot_bytes),
        }
    }

    /// Number of chunks.
    pub(super) fn count(&self) -> usize {
        self.bytes.div_ceil(self.chunk)
    }

    /// The bytes of chunk `number`, which is less than [`Chunks::count`].
    pub(super) fn range(&self, number: usize) -> Range<usize> {
        let start = number * self.chunk;
        start..(start + self.chunk).min(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn chunks_grow_with_the_copy() {
        assert_eq!(Chunks::new(4 * MIB, 4 * MIB).chunk, 512 << 10);
        assert_eq!(Chunks::new(64 * MIB, 4 * MIB).chunk, 2 * MIB);
        assert_eq!(Chunks::new(8 << 30, 4 * MIB).chunk, 4 * MIB);
    }

    #[test]
    fn chunks_cover_the_copy_exactly_and_fit_their_slots() {
        for bytes in [0, 1, GRAIN, MIB, 3 * MIB + 1, 100 * MIB + 1, 8 << 30] {
            for slot in [128 << 10, MIB, 8 * MIB] {
                let chunks = Chunks::new(bytes, slot);
                let mut covered = 0;
                for range in (0..chunks.count()).map(|number| chunks.range(number)) {
                    assert_eq!(range.start, covered, "{bytes} {slot}");
                    assert!(!range.is_empty() && range.len() <= slot);
                    covered = range.end;
                }
                assert_eq!(covered, bytes, "{bytes} {slot}");
            }
        }
    }
}
