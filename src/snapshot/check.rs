//! Whether a manifest keeps the format's rules. Who writes one checks it too, so
//! that nothing is written that would not be read.

use super::manifest::{MOST_FILES, PAGE, places};
use super::{Allocation, Chunk, Device, Discarded, Manifest, names};
use std::collections::HashSet;

/// Chunks are at most so long, in bytes.
const MOST_CHUNK_BYTES: u64 = 64 << 20;

/// What is wrong, in words.
type Check = Result<(), String>;

/// Checks all that can be told without looking at files. Takes memory in
/// proportion to the manifest's.
pub(super) fn check(manifest: &Manifest) -> Check {
    let chunk_bytes = manifest.chunk_bytes;
    if chunk_bytes == 0 || chunk_bytes > MOST_CHUNK_BYTES || !chunk_bytes.is_multiple_of(PAGE) {
        return Err(format!("chunks of {chunk_bytes} bytes"));
    }
    check_devices(&manifest.devices)?;
    check_allocations(manifest)?;
    check_files(manifest)?;
    check_chunks(manifest)
}

fn check_devices(devices: &[Device]) -> Check {
    let mut seen = HashSet::new();
    match devices.iter().find(|device| !seen.insert(device.ordinal)) {
        Some(device) => Err(format!("device {} twice", device.ordinal)),
        None => Ok(()),
    }
}

fn check_allocations(manifest: &Manifest) -> Check {
    let devices: HashSet<_> = manifest.devices.iter().map(|one| one.ordinal).collect();
    let mut ids = HashSet::new();
    let mut ranges = Vec::with_capacity(manifest.allocations.len());
    for allocation in &manifest.allocations {
        let Allocation {
            id,
            device,
            address,
            bytes,
            ref discarded,
        } = *allocation;
        let end = address.checked_add(bytes);
        let is_whole = bytes > 0 && bytes.is_multiple_of(PAGE) && address.is_multiple_of(PAGE);
        let (true, Some(end)) = (is_whole, end) else {
            return Err(format!("allocation {id} of {bytes} bytes at {address:#x}"));
        };
        if !devices.contains(&device) {
            return Err(format!(
                "allocation {id} of device {device}, which is not told"
            ));
        }
        if !ids.insert(id) {
            return Err(format!("allocation {id} twice"));
        }
        check_discarded(discarded, bytes)
            .map_err(|what| format!("allocation {id}, discarded: {what}"))?;
        ranges.push((address, end));
    }
    disjoint(ranges).map_err(|address| format!("two allocations at {address:#x}"))
}

fn check_discarded(discarded: &[Discarded], bytes: u64) -> Check {
    let mut behind = 0;
    for Discarded {
        offset,
        bytes: length,
    } in discarded
    {
        let end = offset.checked_add(*length);
        match end {
            Some(end) if *length > 0 && *offset >= behind && end <= bytes => behind = end,
            _ => return Err(format!("{length} bytes at {offset}")),
        }
    }
    Ok(())
}

fn check_files(manifest: &Manifest) -> Check {
    if manifest.files.len() > MOST_FILES {
        return Err(format!("{} files", manifest.files.len()));
    }
    let mut seen = HashSet::new();
    for file in &manifest.files {
        if names::kind(&file.name) != Some(names::Kind::Data) {
            return Err(format!("a file with the name {:.100?}", file.name));
        }
        if !file.bytes.is_multiple_of(PAGE) {
            return Err(format!("{} of {} bytes", file.name, file.bytes));
        }
        if !seen.insert(&file.name) {
            return Err(format!("{} twice", file.name));
        }
    }
    Ok(())
}

fn check_chunks(manifest: &Manifest) -> Check {
    let counts = manifest.allocations.iter();
    let counts = counts.map(|one| one.bytes.div_ceil(manifest.chunk_bytes));
    let needed = counts.fold(0u64, u64::saturating_add);
    if needed != manifest.chunks.len() as u64 {
        return Err(format!(
            "{} chunks where there should be {needed}",
            manifest.chunks.len()
        ));
    }
    let mut ranges = vec![Vec::new(); manifest.files.len()];
    let places = places(&manifest.allocations, manifest.chunk_bytes);
    for (place, chunk) in places.zip(&manifest.chunks) {
        let Chunk::Stored(stored) = chunk else {
            continue;
        };
        let Some(file) = manifest.files.get(stored.file as usize) else {
            return Err(format!(
                "a chunk in file {}, which is not told",
                stored.file
            ));
        };
        match stored.offset.checked_add(place.bytes) {
            Some(end) if end <= file.bytes && stored.offset.is_multiple_of(PAGE) => {
                ranges[stored.file as usize].push((stored.offset, end));
            }
            _ => {
                return Err(format!(
                    "a chunk of {} bytes at offset {} of {}, which has {} bytes",
                    place.bytes, stored.offset, file.name, file.bytes
                ));
            }
        }
    }
    for (ranges, file) in ranges.into_iter().zip(&manifest.files) {
        disjoint(ranges).map_err(|offset| format!("two chunks at {offset} of {}", file.name))?;
    }
    Ok(())
}

/// Whether no two ranges, given by begin and end, share a byte; if not, where one
/// begins inside another.
fn disjoint(mut ranges: Vec<(u64, u64)>) -> Result<(), u64> {
    ranges.sort_unstable();
    let shared = ranges.windows(2).find(|pair| pair[1].0 < pair[0].1);
    shared.map_or(Ok(()), |pair| Err(pair[1].0))
}
