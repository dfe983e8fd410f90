//! What can go wrong with a checkpoint. Every error names the file or folder.

use std::io;
use std::path::PathBuf;

/// A checkpoint that could not be written, opened or trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A system call failed.
    #[error("{}: cannot {doing}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// The folder has no manifest.
    #[error(
        "{}: holds no checkpoint (there is no {}): name a folder that `rewarm checkpoint` made",
        path.display(),
        super::manifest::NAME
    )]
    None {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is not as it was written.
    #[error("{}: the checkpoint is damaged: {how}; it cannot be restored", path.display())]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// In what way.
        how: String,
    },
    /// Another version of rewarm wrote the manifest.
    #[error(
        "{}: the checkpoint has format {format}, and this version of rewarm knows only format 1: use the version that made it",
        path.display()
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// It belongs to neither this user nor root.
    #[error("{}: belongs to user {owner}; make it yours alone (chown) if you trust it", path.display())]
    Foreign {
        /// The manifest.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The caller's fault: what is to be written breaks the format's rules.
    #[error("{}: cannot be written: {why}", path.display())]
    Invalid {
        /// The manifest.
        path: PathBuf,
        /// In what way.
        why: String,
    },
}

impl CheckpointError {
    pub(super) fn io(
        path: impl Into<PathBuf>,
        doing: &'static str,
    ) -> impl FnOnce(io::Error) -> CheckpointError {
        let path = path.into();
        move |error| CheckpointError::Io { path, doing, error }
    }
}
