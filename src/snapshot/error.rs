//! What can go wrong with a snapshot. Every error names the file or folder.

use crate::digest::Digest;
use crate::pages::PageError;
use std::io;
use std::path::PathBuf;

/// A snapshot that could not be written, opened, verified or removed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct SnapshotError {
    /// The file or the folder.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub cause: Cause,
}

/// Why it could not be.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// A system call failed.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done, with the number of bytes where it tells something.
        doing: String,
        /// The system's error.
        error: io::Error,
    },
    /// A data file could not be read.
    #[error("cannot be read at offset {}: {}", .0.offset.unwrap_or(0), .0.reason)]
    Read(#[from] PageError),
    /// The path is something else than a folder.
    #[error("not a folder; name a folder for the snapshot")]
    NotAFolder,
    /// The folder that the snapshot's is to be made in.
    #[error("is not there; make it first (only the last folder of the path is made)")]
    NoParent,
    /// Links, devices and the like are never opened.
    #[error("not a regular file, so not rewarm's; remove it, or choose another folder")]
    NotRegular,
    /// A file that has a second name, and so must not be written to.
    #[error("has more than one name, so it is not written to; remove it")]
    Linked,
    /// Of neither this user nor root.
    #[error("belongs to user {0}; choose a folder of your own")]
    Foreign(u32),
    /// The folder has no manifest.
    #[error("holds no snapshot (there is no {})", super::names::MANIFEST)]
    None,
    /// The manifest is not as it was written.
    #[error("the snapshot is damaged: {0}; remove the folder, or choose another")]
    Damaged(String),
    /// A later version of rewarm wrote the manifest.
    #[error("the snapshot has format {0}, and this version of rewarm knows only format 1")]
    Format(u64),
    /// Everybody may rename and remove files there, and so lose the snapshot.
    #[error(
        "every user may rename and remove files there; choose another folder, or take that right away (chmod o-w)"
    )]
    Open,
    /// The file system has no locks for folders.
    #[error("its file system cannot lock folders ({0}); choose a folder on a local one")]
    NoLocks(io::Error),
    /// Another process is at work in the folder.
    #[error("another process is using this folder; wait for it, or choose another")]
    Locked,
    /// The snapshot is of a process that lives.
    #[error(
        "holds the snapshot of process {0}, which is still there; thaw or end it first, or choose another folder (if it is thawed already, the folder can be removed)"
    )]
    Owned(u32),
    /// The snapshot is of a process of another PID namespace, which may live.
    #[error(
        "holds the snapshot of process {0} of another container, which may still need it; thaw or end it first and remove the folder, or choose another"
    )]
    OwnedElsewhere(u32),
    /// The snapshot in the folder is another one by now.
    #[error("the folder holds another snapshot by now")]
    Replaced,
    /// The snapshot would take more than it may.
    #[error(
        "a budget of {budget} bytes does not suffice: {used} are used and {more} are to be added"
    )]
    Budget {
        /// What it may take, in bytes.
        budget: u64,
        /// What is taken already, in bytes, an older snapshot's included.
        used: u64,
        /// What was to be added, in bytes.
        more: u64,
    },
    /// Room for so much is not there.
    #[error(
        "{needed} bytes are needed, and the file system has {free} free; free some, or choose another folder"
    )]
    NoRoom {
        /// In bytes.
        needed: u64,
        /// In bytes.
        free: u64,
    },
    /// A write failed earlier, so the snapshot cannot be whole.
    #[error("a write failed before, so there is no snapshot to commit")]
    Incomplete,
    /// The caller's fault: what is to be written breaks the format's rules.
    #[error("cannot be written: {0}")]
    Invalid(String),
    /// A chunk's bytes are not those that were written.
    #[error(
        "damaged at offset {offset} ({bytes} bytes of allocation {allocation}, {within} bytes into it): its digest is {found} and should be {expected}"
    )]
    Chunk {
        /// Where in the file.
        offset: u64,
        /// Length in bytes.
        bytes: u64,
        /// Id of the allocation.
        allocation: u64,
        /// Where in the allocation.
        within: u64,
        /// Of the bytes in the file.
        found: Digest,
        /// As the manifest has it.
        expected: Digest,
    },
}

impl SnapshotError {
    pub(super) fn new(path: impl Into<PathBuf>, cause: Cause) -> SnapshotError {
        SnapshotError {
            path: path.into(),
            cause,
        }
    }

    pub(super) fn io(
        path: impl Into<PathBuf>,
        doing: impl Into<String>,
        error: io::Error,
    ) -> SnapshotError {
        let doing = doing.into();
        SnapshotError::new(path, Cause::Io { doing, error })
    }

    /// Whether there is no snapshot at all.
    pub fn is_none(&self) -> bool {
        matches!(self.cause, Cause::None)
    }
}
