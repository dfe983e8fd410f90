//! How much is kept of what is read: together below 200 MB, whatever is in it.

/// Mappings of all processes (40 bytes each).
pub(super) const MAPPINGS: usize = 300_000;
/// Runs of pages of all processes (16 bytes each).
pub(super) const RUNS: usize = 1_000_000;
/// Names of files, with what it takes to keep them, in bytes.
pub(super) const NAMES: usize = 16 << 20;
/// What a name takes beside its letters, in bytes.
pub(super) const NAME: usize = 64;
/// Folders with images, in one checkpoint.
pub(super) const SETS: usize = 64;
/// Images of processes and of shared memory, and files of pages (some 150 bytes each).
pub(super) const OWNERS: usize = 1 << 17;
/// Memory of all processes, in bytes.
pub(super) const MEMORY: u64 = 1 << 60;
/// Files of statistics in one folder.
pub(super) const STATS: usize = 4;
/// Snapshots of device memory.
pub(super) const SNAPSHOTS: usize = 1 << 12;
/// A manifest of a snapshot, in bytes: that of some 400 GB of device memory.
pub(super) const SNAPSHOT_MANIFEST: u64 = 8 << 20;
/// A manifest of a checkpoint, in bytes: that of some 400 GB of pages.
pub(super) const CHECKPOINT_MANIFEST: u64 = 16 << 20;
/// Names and links of an archive that are longer are refused, in bytes.
pub(super) const PATH: usize = 4096;
/// What stands before an entry of an archive, in bytes.
pub(super) const EXTENSION: u64 = 1 << 20;
/// Window of zstd, as a power of two: 32 MiB. `zstd --long` asks for more.
pub(super) const WINDOW: u32 = 25;
/// What may stand behind an archive's end, in bytes.
pub(super) const BEHIND: u64 = 64 << 20;
/// Folders in folders.
pub(super) const DEPTH: usize = 32;
/// Files and folders of a folder.
pub(super) const ENTRIES: u64 = 4_000_000;
/// Notes and problems that are told; of the rest there is the number.
pub(super) const NOTES: usize = 100;
/// Processes and files that are told; of the rest there is the number.
pub(super) const LISTED: usize = 1000;
