//! The report of one process: `rewarm status --json` and `rewarm run --stats`.
//!
//! The keys are part of the interface: scripts read them. A key may be added;
//! none changes its meaning without [`REPORT_VERSION`] going up.

use super::{FreezeReport, ThawReport};
use crate::config::{LanePlan, Note, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Version of the report's keys.
pub const REPORT_VERSION: u32 = 1;

/// What one process did with rewarm so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Version of the rewarm that the process runs under.
    pub rewarm: String,
    /// Process id, as the process itself sees it; 0 in the file of a command
    /// that has not used CUDA.
    pub pid: u32,
    /// Path of the executable.
    pub executable: String,
    /// Life-cycle state of the preloaded library.
    pub state: State,
    /// Settings in force, after clamping, and what was clamped or ignored.
    pub settings: SettingsReport,
    /// What prewarming did.
    pub context: ContextReport,
    /// One entry for each device that a copy was seen for.
    pub devices: Vec<DeviceReport>,
    /// Calls passed through that belong to no direction (device to device,
    /// unified copies too small to look at), by reason.
    pub undirected: BTreeMap<String, u64>,
    /// Device memory, and what freezing did with it.
    #[serde(default)]
    pub memory: MemoryReport,
}

/// Life-cycle state of the preloaded library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The process has not initialised CUDA.
    #[default]
    Inert,
    /// Hooks are in force.
    Active,
    /// Switched off, by a setting or because something that rewarm needs is missing.
    Disabled,
    /// A freeze is under way.
    Freezing,
    /// The device memory is in a snapshot; calls of CUDA wait.
    Frozen,
    /// A thaw is under way.
    Thawing,
}

/// Device memory of the application's, and what freezing did with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryReport {
    /// Whether the process was started with `--freezable`.
    pub freezable: bool,
    /// Bytes that a freeze takes out (while frozen: that it took out).
    pub movable_bytes: u64,
    /// Of those: bytes that the application has discarded.
    pub discarded_bytes: u64,
    /// Bytes that a freeze leaves with the driver, by reason.
    pub staying: BTreeMap<String, u64>,
    /// Bytes that make a freeze impossible, by kind.
    pub obstacles: BTreeMap<String, u64>,
    /// Folder of the snapshot, while frozen.
    pub snapshot: Option<PathBuf>,
    /// When it was frozen, in seconds since 1970, while frozen.
    pub frozen_since: Option<u64>,
    /// What the last freeze came to.
    pub last_freeze: Option<FreezeReport>,
    /// What the last thaw came to.
    pub last_thaw: Option<ThawReport>,
}

/// Settings in force in a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SettingsReport {
    /// Lanes per device.
    pub lanes: usize,
    /// Largest chunk, in bytes.
    pub chunk_bytes: usize,
    /// Most pinned staging memory per device, in bytes.
    pub staging_bytes: usize,
    /// Smallest copy that is fanned out, in bytes.
    pub min_copy_bytes: usize,
    /// Whether copies are fanned out at all.
    pub parallel_restore: bool,
    /// Folder in which `cuda-checkpoint` makes snapshots, as the process sees it.
    #[serde(default)]
    pub snapshot_dir: Option<PathBuf>,
    /// Values that were clamped or ignored, one sentence each.
    pub notes: Vec<String>,
}

impl SettingsReport {
    /// The settings in force: as planned, with the notes of reading them.
    pub fn new(settings: &Settings, plan: &LanePlan, notes: &[Note]) -> SettingsReport {
        SettingsReport {
            lanes: plan.lanes,
            chunk_bytes: plan.chunk_bytes,
            staging_bytes: plan.staging_bytes,
            min_copy_bytes: settings.min_copy_bytes,
            parallel_restore: settings.parallel_restore,
            snapshot_dir: settings.snapshot_dir.clone(),
            notes: notes.iter().chain(&plan.notes).cloned().collect(),
        }
    }
}

/// What prewarming did in a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextReport {
    /// Whether this process prewarmed.
    pub prewarmed: bool,
    /// Seconds that the prewarming thread spent in `cuInit`.
    pub init_seconds: f64,
    /// Seconds that it spent retaining the primary context.
    pub retain_seconds: f64,
    /// Seconds that the application still waited in its own first `cuInit` and
    /// first retain or create.
    pub waited_seconds: f64,
    /// Seconds saved: the thread's time less what the application waited.
    pub saved_seconds: f64,
    /// `cuCtxCreate` calls answered with the prewarmed context.
    pub created_from_prewarmed: u64,
    /// `cuCtxCreate` calls passed to the driver.
    pub created_by_driver: u64,
    /// Why prewarming failed, if it did.
    pub failure: Option<String>,
}

/// Copies of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Ordinal in this process.
    pub ordinal: i32,
    /// Lanes that exist now.
    pub lanes: usize,
    /// Pinned staging memory that is held now, in bytes.
    pub pinned_bytes: u64,
    /// Host to device.
    pub h2d: DirectionReport,
    /// Device to host.
    pub d2h: DirectionReport,
    /// Pinned memory that the lanes filled for a library.
    #[serde(default)]
    pub fills: FillReport,
}

/// Copies within host memory, into pinned memory, that the lanes made together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FillReport {
    /// Bytes copied.
    pub bytes: u64,
    /// Copies.
    pub copies: u64,
    /// Of the bytes, those read from the file that the source was mapped from.
    pub file_bytes: u64,
    /// Seconds that callers spent in them, summed over threads.
    pub seconds: f64,
}

/// Copies of one device in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirectionReport {
    /// Bytes moved by fanned-out copies.
    pub fanned_out_bytes: u64,
    /// Copies that were fanned out.
    pub fanned_out_copies: u64,
    /// Of those, bytes copied from registered windows of the source itself.
    pub in_place_bytes: u64,
    /// Of those, bytes read from the file that the source was mapped from.
    #[serde(default)]
    pub file_bytes: u64,
    /// Seconds that callers spent in fanned-out copies, summed over threads.
    pub fanned_out_seconds: f64,
    /// `fanned_out_bytes` / `fanned_out_seconds` / 10⁹.
    pub gb_per_s: f64,
    /// Copies passed to the driver, by reason.
    pub bypassed: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_from_before_there_was_freezing_reads() {
        let mut report = serde_json::to_value(ProcessReport::default()).unwrap();
        report.as_object_mut().unwrap().remove("memory").unwrap();
        let read: ProcessReport = serde_json::from_value(report).unwrap();
        assert_eq!(read, ProcessReport::default());
    }
}
