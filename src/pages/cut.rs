//! How ranges are cut into chunks.

/// A part of a range that one worker reads into one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Which range.
    pub(crate) range: usize,
    /// Where in the file, in bytes.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) bytes: usize,
}

impl Chunk {
    /// Behind its last byte in the file.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.bytes as u64
    }
}

/// The chunks of a list of ranges, by number.
///
/// Chunks end where the file's offset is a multiple of the chunk size, so that
/// only the first and the last of a range are unaligned, and a chunk with the
/// alignment around it never takes more than a slot.
pub(super) struct Cut {
    chunk: u64,
    ranges: Vec<Part>,
}

struct Part {
    offset: u64,
    end: u64,
    /// Chunks of this range and all before it.
    chunks_until: usize,
}

impl Cut {
    /// Cuts ranges, given as offset and length in bytes, into chunks of at most
    /// `chunk` bytes, which is a multiple of every alignment.
    pub(super) fn new(ranges: impl Iterator<Item = (u64, u64)>, chunk: usize) -> Cut {
        let chunk = chunk as u64;
        let mut until = 0;
        let ranges = ranges.map(|(offset, bytes)| {
            let end = offset + bytes;
            if bytes > 0 {
                until += (end.div_ceil(chunk) - offset / chunk) as usize;
            }
            Part {
                offset,
                end,
                chunks_until: until,
            }
        });
        Cut {
            ranges: ranges.collect(),
            chunk,
        }
    }

    /// Number of chunks.
    pub(super) fn count(&self) -> usize {
        self.ranges.last().map_or(0, |last| last.chunks_until)
    }

    /// Chunk `number`, which is less than [`Cut::count`].
    pub(super) fn chunk(&self, number: usize) -> Chunk {
        let range = self
            .ranges
            .partition_point(|part| part.chunks_until <= number);
        let part = &self.ranges[range];
        let before = range
            .checked_sub(1)
            .map_or(0, |before| self.ranges[before].chunks_until);
        let cell = part.offset / self.chunk + (number - before) as u64;
        let offset = part.offset.max(cell * self.chunk);
        let end = part.end.min((cell + 1) * self.chunk);
        Chunk {
            range,
            offset,
            bytes: (end - offset) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_ranges_in_order_and_keep_to_the_grid() {
        const CHUNK: usize = 64;
        let ranges = [
            (0, 0),
            (0, 1),
            (5, 300),
            (64, 64),
            (63, 66),
            (1000, 0),
            (128, 192),
        ];
        let cut = Cut::new(ranges.into_iter(), CHUNK);
        let mut chunks = (0..cut.count()).map(|number| cut.chunk(number)).peekable();
        for (range, (offset, bytes)) in ranges.into_iter().enumerate() {
            let mut at = offset;
            while let Some(chunk) = chunks.next_if(|chunk| chunk.range == range) {
                assert_eq!(chunk.offset, at);
                assert!(chunk.bytes > 0);
                assert_eq!(chunk.offset / 64, (chunk.end() - 1) / 64, "{chunk:?}");
                at = chunk.end();
            }
            assert_eq!(at, offset + bytes, "range {range}");
        }
        assert_eq!(chunks.next(), None);
    }

    #[test]
    fn nothing_has_no_chunks() {
        assert_eq!(Cut::new([].into_iter(), 64).count(), 0);
        assert_eq!(Cut::new([(7, 0)].into_iter(), 64).count(), 0);
    }
}
