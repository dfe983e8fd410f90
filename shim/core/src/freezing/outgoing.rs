//! What leaves: the chunks of all blocks, and what becomes of each.

use super::gathered::Gathered;
use crate::ledger::Block;
use parking_lot::Mutex;
use rewarm::digest::{Digest, digest, of_zeros};
use rewarm::snapshot::{
    Allocation, CHUNK_BYTES, Chunk, Discarded, Manifest, Place, SnapshotError, Stored, Writer,
};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A block, and what of it need not survive.
pub(super) struct Leaving {
    pub(super) block: Block,
    pub(super) discarded: Vec<Range<u64>>,
}

/// All chunks, in the manifest's order, while lanes work on them.
pub(super) struct Outgoing {
    writer: Writer,
    pieces: Vec<Piece>,
    /// Bytes that are dealt with.
    done: AtomicU64,
    /// In ascending order, and how many lanes each has.
    devices: Vec<i32>,
    lanes: usize,
    /// One for each lane.
    desks: Vec<Desk>,
}

/// What a lane works on. Nobody else locks it.
struct Desk {
    /// The file that it writes to, by number.
    writer: usize,
    /// Where the chunk at hand goes.
    place: Mutex<Option<Place>>,
    /// What is there of a chunk that nobody has looked at.
    gathered: Mutex<Gathered>,
}

/// A chunk.
pub(super) struct Piece {
    /// Ordinal of its device.
    pub(super) device: i32,
    /// Where its bytes are.
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// Where an older snapshot has what was there then.
    before: Option<Stored>,
    /// Of its bytes, where the GPU found that they have to be stored.
    digest: OnceLock<Digest>,
    becomes: OnceLock<Chunk>,
}

/// Bytes of all chunks, by what became of them.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) zero: u64,
    pub(super) discarded: u64,
    pub(super) unchanged: u64,
    pub(super) stored: u64,
}

impl Outgoing {
    /// `lanes` is how many lanes each device will have, and the writer has as many
    /// files.
    ///
    /// # Errors
    /// If there is no room in the address space.
    pub(super) fn new(
        writer: Writer,
        lanes: usize,
        devices: &[i32],
        leaving: &[Leaving],
    ) -> io::Result<Outgoing> {
        let older = Older::of(&writer);
        let pieces = leaving
            .iter()
            .flat_map(|one| {
                let mut before = older.of_block(&one.block);
                (0..one.block.bytes.div_ceil(CHUNK_BYTES)).map(move |number| {
                    let offset = number * CHUNK_BYTES;
                    let bytes = CHUNK_BYTES.min(one.block.bytes - offset);
                    let piece = Piece {
                        device: one.block.device,
                        address: one.block.address + offset,
                        bytes,
                        before: before.next().flatten(),
                        digest: OnceLock::new(),
                        becomes: OnceLock::new(),
                    };
                    if is_discarded(&one.discarded, offset..offset + bytes) {
                        let _ = piece.becomes.set(Chunk::Discarded);
                    }
                    piece
                })
            })
            .collect();
        let desk = |number: usize| {
            Ok(Desk {
                writer: number % lanes,
                place: Mutex::default(),
                gathered: Mutex::new(Gathered::new()?),
            })
        };
        Ok(Outgoing {
            writer,
            pieces,
            done: AtomicU64::new(0),
            devices: devices.to_vec(),
            lanes,
            desks: (0..devices.len() * lanes)
                .map(desk)
                .collect::<io::Result<_>>()?,
        })
    }

    pub(super) fn piece(&self, number: usize) -> &Piece {
        &self.pieces[number]
    }

    /// Chunks of a device that nothing is known of yet, by number.
    pub(super) fn unknown(&self, device: i32) -> Vec<usize> {
        let is_unknown = |piece: &Piece| piece.device == device && piece.becomes.get().is_none();
        let numbers = 0..self.pieces.len();
        numbers
            .filter(|number| is_unknown(&self.pieces[*number]))
            .collect()
    }

    /// The GPU has found a chunk's digest.
    pub(super) fn scanned(&self, number: usize, digest: Digest) {
        if !self.need_not_be_stored(number, digest) {
            let _ = self.pieces[number].digest.set(digest);
        }
    }

    /// Bytes of a chunk are here, by a lane that brings all of it in order.
    pub(super) fn take(
        &self,
        lane: usize,
        number: usize,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), SnapshotError> {
        let piece = &self.pieces[number];
        let desk = self.desk(piece.device, lane);
        let is_last = (offset + bytes.len()) as u64 == piece.bytes;
        let Some(digest) = piece.digest.get() else {
            return self.take_unknown(desk, number, (offset, bytes), is_last);
        };
        let mut place = desk.place.lock();
        let place = match (*place, offset) {
            (Some(place), 1..) => place,
            _ => *place.insert(self.writer.place(desk.writer, piece.bytes as usize)?),
        };
        self.writer.write_part(place, offset, bytes)?;
        if is_last {
            self.settle(number, place.chunk(*digest));
        }
        Ok(())
    }

    /// A chunk that nobody has looked at is gathered first. One of which a part is
    /// missing stays unknown.
    fn take_unknown(
        &self,
        desk: &Desk,
        number: usize,
        (offset, bytes): (usize, &[u8]),
        is_last: bool,
    ) -> Result<(), SnapshotError> {
        let mut gathered = desk.gathered.lock();
        if !gathered.add(number, offset, bytes) || !is_last {
            return Ok(());
        }
        let digest = digest(gathered.bytes());
        if !self.need_not_be_stored(number, digest) {
            let place = self.writer.write(desk.writer, gathered.bytes())?;
            self.settle(number, place.chunk(digest));
        }
        Ok(())
    }

    fn desk(&self, device: i32, lane: usize) -> &Desk {
        let before = self.devices.partition_point(|other| *other < device);
        &self.desks[before * self.lanes + lane]
    }

    fn need_not_be_stored(&self, number: usize, digest: Digest) -> bool {
        let piece = &self.pieces[number];
        let becomes = if digest == of_zeros(piece.bytes as usize) {
            Chunk::Zero
        } else if let Some(before) = piece.before.filter(|before| before.digest == digest) {
            Chunk::Stored(before)
        } else {
            return false;
        };
        self.settle(number, becomes);
        true
    }

    fn settle(&self, number: usize, becomes: Chunk) {
        let piece = &self.pieces[number];
        let _ = piece.becomes.set(becomes);
        self.done.fetch_add(piece.bytes, Relaxed);
    }

    /// Bytes that are dealt with.
    pub(super) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Bytes of all chunks.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// What became of all chunks, once that is known.
    pub(super) fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for piece in &self.pieces {
            let sum = match piece.becomes.get() {
                Some(Chunk::Zero) => &mut sums.zero,
                Some(Chunk::Discarded) => &mut sums.discarded,
                Some(Chunk::Stored(stored)) if piece.before == Some(*stored) => &mut sums.unchanged,
                Some(Chunk::Stored(_)) => &mut sums.stored,
                None => continue,
            };
            *sum += piece.bytes;
        }
        sums
    }

    /// The writer and the chunks, once all are known.
    pub(super) fn finish(self) -> Option<(Writer, Vec<Chunk>)> {
        let chunks: Option<Vec<_>> = self
            .pieces
            .iter()
            .map(|piece| piece.becomes.get().copied())
            .collect();
        Some((self.writer, chunks?))
    }
}

/// The manifest's form of what leaves.
pub(super) fn allocation(leaving: &Leaving) -> Allocation {
    Allocation {
        id: leaving.block.id,
        device: leaving.block.device as u32,
        address: leaving.block.address,
        bytes: leaving.block.bytes,
        discarded: leaving
            .discarded
            .iter()
            .map(|range| Discarded {
                offset: range.start,
                bytes: range.end - range.start,
            })
            .collect(),
    }
}

/// Whether a chunk lies in one of the ranges, which are sorted and apart.
fn is_discarded(discarded: &[Range<u64>], chunk: Range<u64>) -> bool {
    let first = discarded.partition_point(|range| range.end < chunk.end);
    discarded
        .get(first)
        .is_some_and(|range| range.start <= chunk.start)
}

/// The snapshot that the folder held before.
struct Older<'a> {
    manifest: Option<&'a Manifest>,
    writer: &'a Writer,
    /// Chunks of each allocation, by its device, number and length.
    chunks: HashMap<(u32, u64, u64), Range<usize>>,
}

impl Older<'_> {
    fn of(writer: &Writer) -> Older<'_> {
        let manifest = writer
            .previous()
            .filter(|manifest| manifest.chunk_bytes == CHUNK_BYTES);
        let chunks = manifest.map_or_else(HashMap::new, |manifest| {
            let keys = manifest
                .allocations
                .iter()
                .map(|one| (one.device, one.id, one.bytes));
            keys.zip(manifest.chunk_ranges()).collect()
        });
        Older {
            manifest,
            writer,
            chunks,
        }
    }

    /// Where the chunks of a block were stored, those that may stay there.
    fn of_block(&self, block: &Block) -> impl Iterator<Item = Option<Stored>> + use<> {
        let key = (block.device as u32, block.id, block.bytes);
        let chunks = match (self.manifest, self.chunks.get(&key)) {
            (Some(manifest), Some(range)) => &manifest.chunks[range.clone()],
            _ => &[],
        };
        let stored: Vec<_> = chunks
            .iter()
            .map(|chunk| match chunk {
                Chunk::Stored(stored) if self.writer.keeps(stored) => Some(*stored),
                _ => None,
            })
            .collect();
        stored.into_iter()
    }
}
