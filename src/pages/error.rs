//! What can go wrong while files are read. Every error names the file.

use std::io;
use std::path::PathBuf;

/// A file that could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {reason}", path.display(), at(*offset))]
pub struct PageError {
    /// The file.
    pub path: PathBuf,
    /// Where in the file, in bytes, if it was being read.
    pub offset: Option<u64>,
    /// What happened.
    #[source]
    pub reason: Reason,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// A system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is a directory, a device, a pipe or a socket.
    #[error("not a regular file")]
    NotRegular,
    /// It ends before the bytes that were asked for.
    #[error("the file ends here; it had {0} bytes when it was opened")]
    Ended(u64),
    /// A range that the file did not have when it was opened.
    #[error("the file has only {0} bytes")]
    BeyondEnd(u64),
    /// io_uring was asked for, and this process may not use it.
    #[error("io_uring cannot be used here ({0}); choose another strategy")]
    NoRing(io::Error),
}

impl PageError {
    pub(super) fn new(path: impl Into<PathBuf>, reason: impl Into<Reason>) -> PageError {
        PageError {
            path: path.into(),
            offset: None,
            reason: reason.into(),
        }
    }
}

fn at(offset: Option<u64>) -> String {
    offset.map_or(String::new(), |offset| format!(", offset {offset}"))
}
