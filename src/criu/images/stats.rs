//! `stats-dump` and `stats-restore`: what CRIU counted (`images/stats.proto`). Times
//! are in microseconds.

use super::{Entries, ImageError, ImageReason, protobuf};
use serde::Serialize;
use std::io::Read;
use std::path::Path;

/// First magic number of images that are for those who look (`IMG_SERVICE_MAGIC`).
pub(super) const SERVICE: u32 = 0x5510_5940;

/// `STATS_MAGIC`.
const MAGIC: u32 = 0x5709_3306;

/// What CRIU counted at a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DumpStats {
    /// Until all processes were stopped.
    pub freezing_us: u64,
    /// How long they were stopped.
    pub frozen_us: u64,
    /// To take their memory.
    pub memdump_us: u64,
    /// To write it.
    pub memwrite_us: u64,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages that an earlier dump has.
    pub pages_skipped_parent: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Pages left for later.
    pub pages_lazy: u64,
    /// Pages of shared memory looked at.
    pub shared_pages_scanned: u64,
    /// Pages of shared memory that an earlier dump has.
    pub shared_pages_skipped_parent: u64,
    /// Pages of shared memory written.
    pub shared_pages_written: u64,
}

/// What CRIU counted at a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RestoreStats {
    /// Pages compared with the parent process's.
    pub pages_compared: u64,
    /// Pages that were the same, and stayed shared.
    pub pages_skipped_cow: u64,
    /// To make the processes.
    pub forking_us: u64,
    /// The whole restore.
    pub restore_us: u64,
    /// Pages filled.
    pub pages_restored: u64,
}

/// What such an image has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Of a dump.
    pub dump: Option<DumpStats>,
    /// Of a restore.
    pub restore: Option<RestoreStats>,
}

/// Reads such an image from anywhere; the path is for messages.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn stats(path: &Path, from: impl Read) -> Result<Stats, ImageError> {
    const LONGEST: u32 = 64 << 10;
    let mut entries = Entries::begin(path, from, (SERVICE, MAGIC), LONGEST)?;
    let Some(message) = entries.next()? else {
        return Err(ImageError::new(path, ImageReason::Cut));
    };
    read(&message).map_err(|reason| entries.was_wrong(reason))
}

fn read(message: &[u8]) -> Result<Stats, ImageReason> {
    let mut found = Stats::default();
    for part in protobuf::messages(message, 1) {
        found.dump = Some(dump(part?)?);
    }
    for part in protobuf::messages(message, 2) {
        found.restore = Some(restore(part?)?);
    }
    Ok(found)
}

fn dump(part: &[u8]) -> Result<DumpStats, ImageReason> {
    let mut stats = DumpStats::default();
    for field in protobuf::numbers(part) {
        let (number, value) = field?;
        *match number {
            1 => &mut stats.freezing_us,
            2 => &mut stats.frozen_us,
            3 => &mut stats.memdump_us,
            4 => &mut stats.memwrite_us,
            5 => &mut stats.pages_scanned,
            6 => &mut stats.pages_skipped_parent,
            7 => &mut stats.pages_written,
            9 => &mut stats.pages_lazy,
            12 => &mut stats.shared_pages_scanned,
            13 => &mut stats.shared_pages_skipped_parent,
            14 => &mut stats.shared_pages_written,
            _ => continue,
        } = value;
    }
    Ok(stats)
}

fn restore(part: &[u8]) -> Result<RestoreStats, ImageReason> {
    let mut stats = RestoreStats::default();
    for field in protobuf::numbers(part) {
        let (number, value) = field?;
        *match number {
            1 => &mut stats.pages_compared,
            2 => &mut stats.pages_skipped_cow,
            3 => &mut stats.forking_us,
            4 => &mut stats.restore_us,
            5 => &mut stats.pages_restored,
            _ => continue,
        } = value;
    }
    Ok(stats)
}
