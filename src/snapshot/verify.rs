//! Reading all of a snapshot to see whether it is as it was written.

use super::manifest::Piece;
use super::parallel::each;
use super::{Cause, Chunk, Snapshot, SnapshotError, Stored};
use crate::digest::digest;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

impl Snapshot {
    /// Reads every chunk and compares its digest, on so many threads. `progress`
    /// goes up by the bytes that are done. Returns their number.
    ///
    /// # Errors
    /// If a file cannot be read or a chunk is not as it was written: the first of
    /// those found, with its file, offset and allocation.
    pub fn verify(&self, threads: usize, progress: &AtomicU64) -> Result<u64, SnapshotError> {
        let stored: Vec<_> = self.manifest.pieces().filter_map(in_a_file).collect();
        let longest = stored.iter().map(|(piece, _)| piece.bytes).max();
        // One a thread at most.
        let buffers = Mutex::new(Vec::<Vec<u8>>::new());
        each(stored.len(), threads, |number| {
            let (piece, place) = &stored[number];
            let kept = buffers.lock().pop();
            let mut buffer = kept.unwrap_or_else(|| vec![0; longest.unwrap_or(0) as usize]);
            self.verify_chunk(piece, place, &mut buffer[..piece.bytes as usize])?;
            buffers.lock().push(buffer);
            progress.fetch_add(piece.bytes, Relaxed);
            Ok(())
        })?;
        Ok(stored.iter().map(|(piece, _)| piece.bytes).sum())
    }

    fn verify_chunk(
        &self,
        piece: &Piece,
        stored: &Stored,
        buffer: &mut [u8],
    ) -> Result<(), SnapshotError> {
        let file = self.file(stored.file);
        let failed = |cause| SnapshotError::new(file.path(), cause);
        file.read_exact_at(buffer, stored.offset)
            .map_err(|error| failed(error.into()))?;
        let found = digest(buffer);
        if found == stored.digest {
            return Ok(());
        }
        Err(failed(Cause::Chunk {
            offset: stored.offset,
            bytes: piece.bytes,
            allocation: self.manifest.allocations[piece.allocation].id,
            within: piece.offset,
            found,
            expected: stored.digest,
        }))
    }
}

fn in_a_file(piece: Piece) -> Option<(Piece, Stored)> {
    match piece.chunk {
        Chunk::Stored(stored) => Some((piece, stored)),
        Chunk::Zero | Chunk::Discarded => None,
    }
}
