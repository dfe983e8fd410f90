//! What can be wrong with files of weights. Every error names the file.

use super::index::MOST_INDEX_BYTES;
use super::json::JsonError;
use super::safetensors::MOST_HEADER_BYTES;
use crate::pages::PageError;
use std::io;
use std::path::PathBuf;

/// Files that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be opened or read.
    #[error(transparent)]
    Read(#[from] PageError),
    /// A folder cannot be listed.
    #[error("{}: {reason}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
    /// A folder holds nothing that can be loaded.
    #[error("{}: no {} and no *.safetensors in this folder", path.display(), super::open::INDEX)]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// A safetensors file is damaged, or none at all.
    #[error("{}: {problem}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: HeaderError,
    },
    /// An index is damaged, or does not fit its files.
    #[error("{}: {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: IndexError,
    },
}

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// There is no room for the length of the header.
    #[error("not a safetensors file: it has {0} bytes, and the length of the header takes 8")]
    NoLength(u64),
    /// The header is longer than the format allows.
    #[error(
        "not a safetensors file: its header claims {0} bytes, and {MOST_HEADER_BYTES} are the most"
    )]
    TooLong(u64),
    /// The header does not fit into the file.
    #[error("truncated: its header claims {claimed} bytes, and the file has {file_bytes}")]
    BeyondEnd {
        /// Length of the header, in bytes.
        claimed: u64,
        /// Length of the file, in bytes.
        file_bytes: u64,
    },
    /// The header is not UTF-8.
    #[error("its header is not UTF-8: {0}")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// The header is not what the format describes; names a tensor that is there twice.
    #[error("its header is wrong: {0}")]
    Json(#[from] JsonError),
    /// A tensor does not lie where the one before it ends.
    #[error("tensor {0}: its data overlaps another tensor's or leaves a gap before it")]
    Misplaced(String),
    /// A tensor's length is not that of its shape and type.
    #[error("tensor {0}: the length of its data is not that of its shape and type")]
    WrongLength(String),
    /// A tensor's shape is larger than any memory.
    #[error("tensor {0}: its shape is too large")]
    TooLarge(String),
    /// The file ends before its tensors do.
    #[error("truncated: its tensors end at byte {end}, and the file has {file_bytes} bytes")]
    Truncated {
        /// Where the last tensor ends, in bytes.
        end: u64,
        /// Length of the file, in bytes.
        file_bytes: u64,
    },
    /// The file goes on after its tensors.
    #[error("{0} bytes follow its last tensor")]
    Trailing(u64),
}

/// What is wrong with an index of several files.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It is larger than any real one.
    #[error("the index has {0} bytes, and {MOST_INDEX_BYTES} are the most")]
    TooLong(u64),
    /// It is not what it should be; names a tensor that is there twice.
    #[error("the index is wrong: {0}")]
    Json(#[from] JsonError),
    /// It names no tensors.
    #[error("the index names no tensors")]
    Empty,
    /// A file's name leads out of the folder.
    #[error("tensor {tensor}: {file} is not the plain name of a file in this folder")]
    NotPlain {
        /// The tensor.
        tensor: String,
        /// Where the index says that it lies.
        file: String,
    },
    /// A tensor is not in the file that the index says.
    #[error("tensor {tensor} is not in {file}")]
    NotThere {
        /// The tensor.
        tensor: String,
        /// Where the index says that it lies.
        file: String,
    },
}
