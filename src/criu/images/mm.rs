//! `mm-PID.img`: the mappings of a process (`images/mm.proto`, `images/vma.proto`).

use super::{Entries, ImageError, ImageReason, protobuf};
use std::ops::Range;
use std::path::Path;

/// `MM_MAGIC`.
const MAGIC: u32 = 0x5749_2820;

/// Number of the mappings in the message.
const MAPPINGS: u32 = 14;

/// `MADV_WIPEONFORK` in a mapping's set of advice.
const WIPE_ON_FORK: u64 = 1 << libc::MADV_WIPEONFORK;

/// Reads where the children of a process find zeros, as it advised so
/// (`MADV_WIPEONFORK`).
///
/// # Errors
/// If the image cannot be read, or is none.
pub fn read_wiped(path: &Path) -> Result<Vec<Range<u64>>, ImageError> {
    let mut entries = Entries::open(path, MAGIC)?;
    let Some(message) = entries.next()? else {
        return Err(ImageError::new(path, ImageReason::Cut));
    };
    let mut wiped = Vec::new();
    for mapping in protobuf::messages(&message, MAPPINGS) {
        let range = mapping.and_then(wiped_in);
        wiped.extend(range.map_err(|reason| entries.was_wrong(reason))?);
    }
    Ok(wiped)
}

fn wiped_in(mapping: &[u8]) -> Result<Option<Range<u64>>, ImageReason> {
    let (mut start, mut end, mut advice) = (0, 0, 0);
    for field in protobuf::numbers(mapping) {
        match field? {
            (1, value) => start = value,
            (2, value) => end = value,
            (9, value) => advice = value,
            _ => {}
        }
    }
    let is_whole = start % super::PAGE == 0 && end % super::PAGE == 0 && start <= end;
    if !is_whole {
        let text = format!("a mapping from {start:#x} to {end:#x}");
        return Err(ImageReason::Impossible(text));
    }
    Ok((advice & WIPE_ON_FORK != 0).then_some(start..end))
}
