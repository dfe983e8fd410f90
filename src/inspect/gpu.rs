//! Snapshots of device memory: what their manifests say.

use super::report::Gpu;
use crate::snapshot::{Chunk, Manifest};
use std::collections::HashSet;

/// What a manifest says.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) gpu: Gpu,
    /// Names and lengths of the files that it needs.
    pub(super) files: Vec<(String, u64)>,
    /// Whether anything was discarded by the process.
    pub(super) has_discarded: bool,
    /// What is stored of allocations that are large.
    pub(super) stored_of_large: u64,
}

/// Allocations from this size on are large: that of a KV cache, or of its share of a
/// layer.
const LARGE: u64 = 64 << 20;

/// Sums up a manifest. `each` is given what is stored of every allocation, and its
/// address and device.
pub(super) fn sum_up(
    manifest: &Manifest,
    path: &[u8],
    mut each: impl FnMut(u64, u64, u32),
) -> Found {
    let mut stored = vec![0; manifest.allocations.len()];
    let (mut zero, mut discarded, mut duplicate) = (0, 0, 0);
    let mut digests = HashSet::new();
    for piece in manifest.pieces() {
        match piece.chunk {
            Chunk::Zero => zero += piece.bytes,
            Chunk::Discarded => discarded += piece.bytes,
            Chunk::Stored(one) => {
                stored[piece.allocation] += piece.bytes;
                if !digests.insert(one.digest) {
                    duplicate += piece.bytes;
                }
            }
        }
    }
    let mut stored_of_large = 0;
    for (allocation, stored) in manifest.allocations.iter().zip(&stored) {
        each(*stored, allocation.address, allocation.device);
        if allocation.bytes >= LARGE {
            stored_of_large += stored;
        }
    }
    let files = manifest.files.iter();
    Found {
        gpu: Gpu {
            path: super::shown(path),
            pid: manifest.process.pid,
            bytes: manifest.bytes(),
            allocations: manifest.allocations.len() as u64,
            stored: stored.iter().sum(),
            zero,
            discarded,
            duplicate,
            chunk_bytes: manifest.chunk_bytes,
        },
        files: files.map(|file| (file.name.clone(), file.bytes)).collect(),
        has_discarded: discarded > 0
            || manifest
                .allocations
                .iter()
                .any(|one| !one.discarded.is_empty()),
        stored_of_large,
    }
}
