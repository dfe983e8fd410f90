//! What can go wrong while pages are served.

use super::super::images::ImageError;
use crate::pages::PageError;
use std::io;
use std::path::PathBuf;

/// Why pages are not served.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// An image cannot be used.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// A file of pages cannot be read.
    #[error("{0}")]
    Page(#[from] PageError),
    /// A file of pages is not the one that was dumped.
    #[error("{}: {what}; restore from another copy of the checkpoint", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was done.
        what: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// CRIU said something that is not its protocol.
    #[error("lazy-pages.socket: {0}")]
    Protocol(String),
    /// CRIU failed.
    #[error("lazy-pages.socket: criu ended before all processes were restored")]
    CriuEnded,
    /// What the process that serves said, or what became of it.
    #[error("{0}")]
    Failed(String),
}

impl PagesError {
    pub(super) fn system(what: impl Into<String>, error: io::Error) -> PagesError {
        PagesError::System {
            what: what.into(),
            error,
        }
    }
}
