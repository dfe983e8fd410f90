//! Made-up device memory, and snapshots of it.

use fastrand::Rng;
use rewarm::digest::{digest, of_zeros};
use rewarm::snapshot::{
    Allocation, Chunk, Contents, Device, Discarded, Process, Snapshot, SnapshotError, Stored,
    Writer, WriterOptions,
};
use std::path::Path;

/// Small, so that small memory has many.
pub const CHUNK: u64 = 16 << 10;

/// Allocations with their bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    pub allocations: Vec<(Allocation, Vec<u8>)>,
}

impl Memory {
    /// Some allocations, with chunks of all kinds.
    pub fn random(rng: &mut Rng) -> Memory {
        let mut address = 0x7000_0000_0000;
        let allocations = (0..rng.u64(1..5)).map(|id| {
            let bytes = 4096 * rng.u64(1..40);
            let allocation = Allocation {
                id,
                device: rng.u32(..2),
                address,
                bytes,
                discarded: discarded(rng, bytes),
            };
            address += bytes + 4096 * rng.u64(..3);
            let mut memory = vec![0; bytes as usize];
            for chunk in memory.chunks_mut(CHUNK as usize) {
                fill(rng, chunk);
            }
            (allocation, memory)
        });
        Memory {
            allocations: allocations.collect(),
        }
    }

    /// The same with some other chunks.
    pub fn changed(&self, rng: &mut Rng) -> Memory {
        let mut memory = self.clone();
        for (_, bytes) in &mut memory.allocations {
            for chunk in bytes.chunks_mut(CHUNK as usize) {
                if rng.u8(..3) == 0 {
                    fill(rng, chunk);
                }
            }
        }
        memory
    }

    /// Where its chunks are: allocation and offset, with the bytes.
    fn chunks(&self) -> impl Iterator<Item = (usize, u64, &[u8])> {
        let allocations = self.allocations.iter().enumerate();
        allocations.flat_map(|(number, (_, bytes))| {
            let chunks = bytes.chunks(CHUNK as usize).enumerate();
            chunks.map(move |(at, chunk)| (number, at as u64 * CHUNK, chunk))
        })
    }

    fn is_discarded(&self, allocation: usize, offset: u64, bytes: u64) -> bool {
        let (allocation, _) = &self.allocations[allocation];
        let covers =
            |one: &Discarded| one.offset <= offset && offset + bytes <= one.offset + one.bytes;
        allocation.discarded.iter().any(covers)
    }

    /// Writes it with one thread for each of `writers` writers, and does not
    /// commit.
    pub fn write(&self, writer: &Writer, writers: usize) -> Result<Contents, SnapshotError> {
        let old = writer.previous().map(|previous| {
            let chunks = previous.pieces().map(|piece| {
                let address = previous.allocations[piece.allocation].address;
                (address + piece.offset, piece)
            });
            chunks.collect::<std::collections::HashMap<_, _>>()
        });
        let unchanged = |address: u64, bytes: &[u8]| -> Option<Stored> {
            let piece = old.as_ref()?.get(&address)?;
            match piece.chunk {
                Chunk::Stored(stored)
                    if writer.keeps(&stored)
                        && piece.bytes == bytes.len() as u64
                        && stored.digest == digest(bytes) =>
                {
                    Some(stored)
                }
                _ => None,
            }
        };
        let put = |number: usize, (allocation, offset, bytes): (usize, u64, &[u8])| {
            let address = self.allocations[allocation].0.address + offset;
            let now = digest(bytes);
            if self.is_discarded(allocation, offset, bytes.len() as u64) {
                return Ok(Chunk::Discarded);
            }
            if now == of_zeros(bytes.len()) {
                return Ok(Chunk::Zero);
            }
            if let Some(stored) = unchanged(address, bytes) {
                return Ok(Chunk::Stored(stored));
            }
            Ok(writer.write(number, bytes)?.chunk(now))
        };
        let all: Vec<_> = self.chunks().collect();
        let parts: Vec<_> = std::thread::scope(|scope| {
            let parts = all.chunks(all.len().div_ceil(writers)).enumerate();
            let threads: Vec<_> = parts
                .map(|(number, part)| {
                    scope.spawn(move || -> Result<Vec<_>, SnapshotError> {
                        part.iter().map(|chunk| put(number, *chunk)).collect()
                    })
                })
                .collect();
            let parts = threads.into_iter().map(|thread| thread.join().unwrap());
            parts.collect()
        });
        let mut chunks = Vec::new();
        for part in parts {
            chunks.extend(part?);
        }
        Ok(self.contents(chunks))
    }

    pub fn contents(&self, chunks: Vec<Chunk>) -> Contents {
        let devices = (0..2).map(|ordinal| Device {
            ordinal,
            name: "Some GPU".to_owned(),
            uuid: u128::from(ordinal) << 100 | 7,
            bytes: 80 << 30,
        });
        let allocations = self.allocations.iter();
        Contents {
            process: Process::current().unwrap(),
            driver_version: 13_000,
            devices: devices.collect(),
            chunk_bytes: CHUNK,
            allocations: allocations.map(|(one, _)| one.clone()).collect(),
            chunks,
        }
    }

    /// Makes it the snapshot in a folder.
    pub fn freeze(&self, path: &Path, options: WriterOptions) -> Result<Snapshot, SnapshotError> {
        let writer = Writer::create(path, options)?;
        let contents = self.write(&writer, options.writers)?;
        writer.commit(contents)
    }

    /// What a snapshot has: discarded chunks come back as zeroes.
    pub fn thaw(snapshot: &Snapshot) -> Memory {
        let manifest = snapshot.manifest();
        let allocations = manifest.allocations.iter();
        let mut allocations: Vec<_> = allocations
            .map(|one| (one.clone(), vec![0; one.bytes as usize]))
            .collect();
        for piece in manifest.pieces() {
            if let Chunk::Stored(stored) = piece.chunk {
                let (_, memory) = &mut allocations[piece.allocation];
                let range = piece.offset as usize..(piece.offset + piece.bytes) as usize;
                let to = &mut memory[range];
                snapshot
                    .file(stored.file)
                    .read_exact_at(to, stored.offset)
                    .unwrap();
                assert_eq!(digest(to), stored.digest);
            }
        }
        Memory { allocations }
    }

    /// As it is after a freeze and a thaw.
    pub fn survived(&self) -> Memory {
        let mut memory = self.clone();
        for (number, (_, bytes)) in memory.allocations.iter_mut().enumerate() {
            for (at, chunk) in bytes.chunks_mut(CHUNK as usize).enumerate() {
                if self.is_discarded(number, at as u64 * CHUNK, chunk.len() as u64) {
                    chunk.fill(0);
                }
            }
        }
        memory
    }
}

pub fn with_writers(writers: usize) -> WriterOptions {
    WriterOptions {
        writers,
        budget_bytes: None,
    }
}

fn fill(rng: &mut Rng, chunk: &mut [u8]) {
    match rng.u8(..4) {
        0 => chunk.fill(0),
        1 => chunk.fill(rng.u8(..)),
        _ => rng.fill(chunk),
    }
}

fn discarded(rng: &mut Rng, bytes: u64) -> Vec<Discarded> {
    let offset = 4096 * rng.u64(..bytes / 4096);
    let range = Discarded {
        offset,
        bytes: rng.u64(1..=bytes - offset),
    };
    if rng.u8(..3) == 0 {
        vec![range]
    } else {
        vec![]
    }
}
