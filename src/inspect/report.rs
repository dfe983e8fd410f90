//! What is told about a checkpoint. docs/inspect.md explains the keys.

use super::limits;
use crate::criu::images::{DumpStats, RestoreStats};
use serde::Serialize;

/// What is told about a checkpoint: sizes in bytes, shares from 0 to 1, names with
/// control characters escaped.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of the format of this report.
    pub version: u32,
    /// As it was given.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// If it is an archive.
    pub archive: Option<Archive>,
    /// Whether nothing is damaged or refused.
    pub whole: bool,
    /// All files.
    pub bytes: u64,
    /// How many there are.
    pub files: u64,
    /// The files by what they are for; those without any are left out.
    pub categories: Vec<Category>,
    /// Host memory.
    pub memory: Memory,
    /// Snapshots of device memory.
    pub gpu: Vec<Gpu>,
    /// The largest mappings, allocations and files, the largest first.
    pub largest: Vec<Large>,
    /// What CRIU counted.
    pub criu: Vec<CriuStats>,
    /// What would make it smaller, the largest first.
    pub hints: Vec<Hint>,
    /// What could not be looked into, though nothing is wrong with it.
    pub not_looked_into: Notes,
    /// What is damaged or refused.
    pub problems: Notes,
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `rewarm checkpoint` made it.
    RewarmCheckpoint,
    /// The device memory of a process.
    RewarmSnapshot,
    /// `podman container checkpoint` made it.
    PodmanCheckpoint,
    /// `criu dump` made it.
    CriuImages,
}

/// How a checkpoint is packed.
#[derive(Debug, Serialize)]
pub struct Archive {
    /// `none`, `gzip` or `zstd`.
    pub compression: &'static str,
    /// Bytes read of the archive itself.
    pub bytes: u64,
}

/// Files of one purpose.
#[derive(Debug, Serialize)]
pub struct Category {
    /// What they are for.
    pub name: &'static str,
    /// All of them.
    pub bytes: u64,
    /// How many there are.
    pub files: u64,
}

/// Host memory in CRIU's images.
#[derive(Debug, Default, Serialize)]
pub struct Memory {
    /// In all files of pages.
    pub bytes: u64,
    /// Zeros and duplicates in it.
    pub pages: Pages,
    /// By kind of mapping, the largest first.
    pub kinds: Vec<MemoryKind>,
    /// By process, the largest first; only the first thousand.
    pub processes: Vec<Process>,
    /// How many processes there are.
    pub process_count: u64,
    /// By mapped file, the largest first.
    pub mapped_files: Vec<Large>,
}

/// How a share was found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shares {
    /// There are no pages.
    #[default]
    None,
    /// All pages were read.
    All,
    /// All pages were read; those with different contents were too many to be kept,
    /// so that the duplicates are an estimate.
    Estimated,
    /// A sample was read.
    Sample,
}

/// Zeros and duplicates among pages of 4 KiB.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pages {
    /// How the shares were found out.
    pub shares: Shares,
    /// Pages that were read.
    pub read: u64,
    /// Pages that there are.
    pub total: u64,
    /// Share of pages of zeros.
    pub zero_share: f64,
    /// How far that may be off, at 95 % confidence.
    pub zero_plus_minus: f64,
    /// Share of pages that are the same as another, and not zeros. Of a sample, only
    /// those of which both are in it: there are more.
    pub duplicate_share: f64,
}

/// Memory of one kind of mapping.
#[derive(Debug, Serialize)]
pub struct MemoryKind {
    /// The kind.
    pub kind: &'static str,
    /// In the images.
    pub bytes: u64,
    /// How many mappings have any.
    pub mappings: u64,
}

/// Memory of a process.
#[derive(Debug, Serialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// In the images, without what it shares with others.
    pub bytes: u64,
    /// By kind of mapping.
    pub kinds: Vec<MemoryKind>,
}

/// Device memory of a process.
#[derive(Debug, Serialize)]
pub struct Gpu {
    /// The snapshot's folder.
    pub path: String,
    /// The process.
    pub pid: u32,
    /// Of all allocations.
    pub bytes: u64,
    /// How many there are.
    pub allocations: u64,
    /// In files.
    pub stored: u64,
    /// Chunks of zeros, which are in no file.
    pub zero: u64,
    /// Need not have survived, and are in no file.
    pub discarded: u64,
    /// In files, and the same as another chunk.
    pub duplicate: u64,
    /// Length of a chunk.
    pub chunk_bytes: u64,
}

/// One of the largest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Large {
    /// Its size.
    pub bytes: u64,
    /// What it is: a kind of mapping, `device memory`, or a category.
    pub what: String,
    /// Its name.
    pub name: String,
}

/// What CRIU counted, in one folder of images.
#[derive(Debug, Serialize)]
pub struct CriuStats {
    /// The file.
    pub path: String,
    /// At the dump.
    pub dump: Option<DumpStats>,
    /// At the restore.
    pub restore: Option<RestoreStats>,
}

/// What would make a checkpoint smaller, or faster.
#[derive(Debug, Serialize)]
pub struct Hint {
    /// Its name in docs/inspect.md.
    pub hint: &'static str,
    /// How much it may save, at most; 0 if it saves time and not room.
    pub bytes: u64,
    /// What is there.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

/// What there is to say of a file.
#[derive(Debug, Serialize)]
pub struct Note {
    /// The file.
    pub path: String,
    /// What there is to say.
    pub what: String,
}

/// The first of many notes.
#[derive(Debug, Default, Serialize)]
pub struct Notes {
    /// How many there are.
    pub count: u64,
    /// The first hundred.
    pub first: Vec<Note>,
}

impl Notes {
    /// By file.
    pub(super) fn sorted(mut self) -> Notes {
        self.first.sort_by(|one, other| one.path.cmp(&other.path));
        self
    }

    pub(super) fn add(&mut self, path: &[u8], what: impl std::fmt::Display) {
        self.count += 1;
        if self.first.len() < limits::NOTES {
            self.first.push(Note {
                path: super::shown(path),
                what: super::shown(what.to_string().as_bytes()),
            });
        }
    }
}
