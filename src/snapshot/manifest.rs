//! The manifest: what there is in a snapshot, and where.

use super::{Cause, Process, check};
use crate::digest::{self, Digest};
use crate::sealed::{Broken, Seal, bounded};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How the file is written.
const SEAL: Seal = Seal {
    key: "rewarm_snapshot",
    format: 1,
    most_bytes: MOST_BYTES,
};

/// Length of a chunk that writers use, in bytes.
pub const CHUNK_BYTES: u64 = 4 << 20;

/// What offsets and lengths are multiples of, in bytes.
pub const PAGE: u64 = 4096;

/// A manifest is at most so long, in bytes.
pub(super) const MOST_BYTES: u64 = 128 << 20;

const MOST_DEVICES: usize = 1 << 10;
const MOST_ALLOCATIONS: usize = 1 << 20;
const MOST_RANGES: usize = 1 << 16;
pub(super) const MOST_FILES: usize = 256;
const MOST_CHUNKS: usize = 1 << 21;

/// What there is in a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Tells it from every other snapshot.
    #[serde(with = "digest::hex")]
    pub id: u128,
    /// How many snapshots were written to the folder, each using parts of the one
    /// before; from 1.
    pub generation: u64,
    /// When it was written, in seconds since 1970.
    pub created: u64,
    /// Version of rewarm that wrote it.
    pub rewarm_version: String,
    /// Whose memory it is.
    pub process: Process,
    /// Version of the driver, as `cuDriverGetVersion` has it.
    pub driver_version: u32,
    /// The devices that the memory is of.
    #[serde(deserialize_with = "bounded::<MOST_DEVICES, _, _>")]
    pub devices: Vec<Device>,
    /// Length of a chunk, in bytes. An allocation's last one may be shorter.
    pub chunk_bytes: u64,
    /// The memory.
    #[serde(deserialize_with = "bounded::<MOST_ALLOCATIONS, _, _>")]
    pub allocations: Vec<Allocation>,
    /// Where stored chunks are.
    #[serde(deserialize_with = "bounded::<MOST_FILES, _, _>")]
    pub files: Vec<DataFile>,
    /// The chunks of the first allocation in order of address, then those of the
    /// second, and so on.
    #[serde(deserialize_with = "bounded::<MOST_CHUNKS, _, _>")]
    pub chunks: Vec<Chunk>,
}

/// A device, with what tells whether memory can go back to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The driver's number for it.
    pub ordinal: u32,
    /// As `cuDeviceGetName` has it.
    pub name: String,
    /// As `cuDeviceGetUuid` has it, the first byte highest.
    #[serde(with = "digest::hex")]
    pub uuid: u128,
    /// Its memory, in bytes.
    pub bytes: u64,
}

/// Memory of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// Tells it from every other of the process.
    pub id: u64,
    /// Ordinal of its device.
    pub device: u32,
    /// Address of its first byte.
    pub address: u64,
    /// Its length in bytes, a multiple of [`PAGE`].
    pub bytes: u64,
    /// What need not have survived, in ascending order.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::<MOST_RANGES, _, _>"
    )]
    pub discarded: Vec<Discarded>,
}

/// A part of an allocation that comes back as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discarded {
    /// Where in the allocation, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// A file that holds chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Its name in the folder.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chunk {
    /// All its bytes were zero.
    Zero,
    /// None of its bytes need have survived.
    Discarded,
    /// It is in a file.
    Stored(Stored),
}

/// Where a chunk's bytes are, and what they come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Which of the files.
    pub file: u32,
    /// Where in it, in bytes; a multiple of [`PAGE`].
    pub offset: u64,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// A chunk, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which of the allocations.
    pub allocation: usize,
    /// Where in the allocation, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// What became of it.
    pub chunk: Chunk,
}

impl Manifest {
    /// All chunks, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let places = places(&self.allocations, self.chunk_bytes);
        places.zip(&self.chunks).map(|(place, chunk)| Piece {
            chunk: *chunk,
            ..place
        })
    }

    /// Which of [`Manifest::chunks`] are an allocation's, for each allocation.
    pub fn chunk_ranges(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let ranges = self.allocations.iter().map(|allocation| {
            let begin = end;
            end += allocation.bytes.div_ceil(self.chunk_bytes) as usize;
            begin..end
        });
        ranges.collect()
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> u64 {
        self.allocations.iter().map(|one| one.bytes).sum()
    }

    /// The whole file.
    pub(super) fn text(&self) -> Result<Vec<u8>, Cause> {
        check::check(self).map_err(Cause::Invalid)?;
        SEAL.write(self).map_err(Cause::Invalid)
    }

    /// Understands a whole file.
    ///
    /// # Errors
    /// If it is not as it was written ([`Cause::Damaged`]), or by a later version
    /// ([`Cause::Format`]).
    pub fn parse(text: &[u8]) -> Result<Manifest, Cause> {
        let manifest: Manifest = SEAL.read(text).map_err(|broken| match broken {
            Broken::Damaged(how) => Cause::Damaged(how),
            Broken::Format(format) => Cause::Format(format),
        })?;
        check::check(&manifest).map_err(Cause::Damaged)?;
        Ok(manifest)
    }
}

/// Where the chunks of allocations are; `chunk` is not told.
pub(super) fn places(
    allocations: &[Allocation],
    chunk_bytes: u64,
) -> impl Iterator<Item = Piece> + '_ {
    allocations
        .iter()
        .enumerate()
        .flat_map(move |(allocation, Allocation { bytes, .. })| {
            (0..bytes.div_ceil(chunk_bytes)).map(move |number| {
                let offset = number * chunk_bytes;
                Piece {
                    allocation,
                    offset,
                    bytes: chunk_bytes.min(bytes - offset),
                    chunk: Chunk::Zero,
                }
            })
        })
}
