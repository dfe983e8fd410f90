//! What is asked and told of freezing and thawing.

use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longest path that the kernel takes, in bytes, with its zero.
const LONGEST_PATH: usize = libc::PATH_MAX as usize;

/// Takes all device memory that can leave out of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Freeze {
    /// Folder of the snapshot, absolute, as the process sees it. Made if it is not
    /// there; its parents are not.
    pub to: PathBuf,
    /// Longest wait for calls and streams to end, in seconds.
    pub drain_seconds: f64,
    /// Most bytes that the snapshot may take in the folder.
    #[serde(default)]
    pub budget_bytes: Option<u64>,
}

impl Freeze {
    /// Longest [`Freeze::drain_seconds`]: a day.
    pub const MAX_DRAIN_SECONDS: f64 = 86_400.0;

    pub(super) fn check(&self) -> Result<(), String> {
        check_path("to", &self.to)?;
        check_seconds("drain_seconds", self.drain_seconds, Self::MAX_DRAIN_SECONDS)
    }
}

/// Makes room for a snapshot ahead of a freeze, while the process goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepare {
    /// Folder of the snapshot, absolute, as the process sees it. Made if it is not
    /// there; its parents are not.
    pub to: PathBuf,
}

impl Prepare {
    pub(super) fn check(&self) -> Result<(), String> {
        check_path("to", &self.to)
    }
}

/// Brings the device memory back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thaw {
    /// Where the snapshot is now, if it was moved since; absolute.
    #[serde(default)]
    pub from: Option<PathBuf>,
    /// Whether the snapshot stays on disk, so that the next freeze to its folder
    /// writes only what has changed.
    pub keep_snapshot: bool,
    /// Whether checksums are verified before the process goes on.
    pub verify: bool,
    /// How long to wait for enough free GPU memory, in seconds; 0: not at all.
    pub wait_seconds: f64,
    /// Which allocations come back first.
    pub order: Order,
}

impl Default for Thaw {
    /// Verified, from where the snapshot is, which then goes; without waiting.
    fn default() -> Thaw {
        Thaw {
            from: None,
            keep_snapshot: false,
            verify: true,
            wait_seconds: 0.0,
            order: Order::default(),
        }
    }
}

impl Thaw {
    /// Longest [`Thaw::wait_seconds`], for those who wait as long as it takes.
    pub const MAX_WAIT_SECONDS: f64 = 1e9;

    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(from) = &self.from {
            check_path("from", from)?;
        }
        check_seconds("wait_seconds", self.wait_seconds, Self::MAX_WAIT_SECONDS)
    }
}

/// Which allocations come back first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The largest.
    #[default]
    Largest,
    /// The smallest.
    Smallest,
    /// Those at the lowest addresses.
    Address,
}

/// Says that a range of device memory need not survive a freeze: it comes back as
/// zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// First byte.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// Whether that holds from now on, or no longer.
    pub discard: bool,
}

impl Discard {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.bytes == 0 {
            Err("discard: no bytes".into())
        } else if self.address.checked_add(self.bytes).is_none() {
            Err("discard: the range goes beyond the address space".into())
        } else {
            Ok(())
        }
    }
}

fn check_path(name: &str, path: &Path) -> Result<(), String> {
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() {
        Err(format!(
            "{name}: {} is not an absolute path",
            path.display()
        ))
    } else if bytes.len() >= LONGEST_PATH {
        Err(format!(
            "{name}: the path is longer than {LONGEST_PATH} bytes"
        ))
    } else if bytes.contains(&0) {
        Err(format!("{name}: the path has a zero byte in it"))
    } else {
        Ok(())
    }
}

fn check_seconds(name: &str, seconds: f64, most: f64) -> Result<(), String> {
    // Not a number is in no range.
    if (0.0..=most).contains(&seconds) {
        Ok(())
    } else {
        Err(format!(
            "{name}: {seconds} is not between 0 and {most} seconds"
        ))
    }
}

/// How far a freeze or thaw is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Bytes of the phase that are done.
    pub done: u64,
    /// Bytes of the phase; 0 where it is not counted in bytes.
    pub total: u64,
}

/// The parts of a freeze or thaw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Room for the snapshot is made.
    #[default]
    Preparing,
    /// Calls and streams run to their end.
    Draining,
    /// Chunks are looked at: zero, unchanged, or to be stored.
    Scanning,
    /// Device memory goes to the snapshot.
    Storing,
    /// The snapshot is brought to safety, and the memory given back.
    Committing,
    /// There is not enough free GPU memory yet.
    Waiting,
    /// The snapshot comes back.
    Loading,
    /// Checksums are compared.
    Verifying,
}

/// What a freeze came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FreezeReport {
    /// Folder of the snapshot.
    pub snapshot: PathBuf,
    /// Allocations that left.
    pub allocations: usize,
    /// Bytes of device memory that left.
    pub bytes: u64,
    /// Of those: bytes of chunks that were all zero.
    pub zero_bytes: u64,
    /// Of those: bytes that the application had discarded.
    pub discarded_bytes: u64,
    /// Of those: bytes that an earlier snapshot in the folder still had.
    pub unchanged_bytes: u64,
    /// Of those: bytes written now.
    pub stored_bytes: u64,
    /// Bytes of device memory of the application's that could not leave.
    pub left_bytes: u64,
    /// Where chunks were looked at: `gpu` or `cpu`.
    pub scanned_by: String,
    /// Seconds until no call and no stream was under way.
    pub drain_seconds: f64,
    /// Seconds that it took to look at the chunks.
    pub scan_seconds: f64,
    /// Seconds that it took to store.
    pub store_seconds: f64,
    /// Seconds that it took to bring the snapshot to safety.
    pub commit_seconds: f64,
    /// Seconds that it took to give the memory back.
    pub release_seconds: f64,
    /// Seconds in all.
    pub seconds: f64,
}

/// What a thaw came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ThawReport {
    /// Folder of the snapshot.
    pub snapshot: PathBuf,
    /// Whether the snapshot is still there.
    pub kept: bool,
    /// Allocations that came back.
    pub allocations: usize,
    /// Bytes of device memory that came back.
    pub bytes: u64,
    /// Of those: bytes read from the snapshot.
    pub loaded_bytes: u64,
    /// Whether checksums were verified, and by what: `gpu`, `cpu` or `no`.
    pub verified_by: String,
    /// Seconds that were waited for free GPU memory.
    pub wait_seconds: f64,
    /// Seconds that it took to make and map the memory.
    pub map_seconds: f64,
    /// Seconds that it took to read the snapshot into it.
    pub load_seconds: f64,
    /// Seconds that verification took beyond that.
    pub verify_seconds: f64,
    /// Seconds in all, without waiting.
    pub seconds: f64,
}

/// What making room came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrepareReport {
    /// Folder of the snapshot to come.
    pub snapshot: PathBuf,
    /// Bytes that there is room for.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
}
