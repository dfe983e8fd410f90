//! Why nothing can be told.

use std::io;

/// Nothing can be told about a path. Names in it are fit to be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A system call failed.
    #[error("{name}: cannot {doing}: {error}")]
    Io {
        /// The path.
        name: String,
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// Neither a folder, a file nor a pipe.
    #[error("{0}: neither a folder, a file nor a pipe: name a checkpoint")]
    NotReadable(String),
    /// Nothing in it belongs to a checkpoint.
    #[error(
        "{0}: no checkpoint: there are no images of CRIU in it and no snapshot of rewarm's; name the folder that was dumped to, or what podman exported"
    )]
    NoCheckpoint(String),
    /// No archive.
    #[error("{0}: no tar archive: {1}")]
    NoArchive(String, String),
    /// A compression that podman does not use.
    #[error(
        "{name}: compressed with {with}: unpack it, and give it through a pipe: {with} -dc … | rewarm inspect -"
    )]
    Compression {
        /// The path.
        name: String,
        /// The tool.
        with: &'static str,
    },
}

impl InspectError {
    /// For `map_err`.
    pub(super) fn io(name: &str, doing: &'static str) -> impl FnOnce(io::Error) -> InspectError {
        let name = name.to_owned();
        move |error| InspectError::Io { name, doing, error }
    }
}
