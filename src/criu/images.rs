//! Reading, and a little mending, of CRIU's image files.
//!
//! A file begins with two magic numbers (`criu/include/magic.h`); then come
//! entries: a length of 32 bits, and a protobuf message of that length
//! (`images/pagemap.proto`). Whoever wrote the files, nothing in them is believed.

mod pagemap;
mod protobuf;
mod timers;

pub use pagemap::{Extent, Pagemap, read_pagemap};
pub use timers::rearm_timers;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Size of a page in images of this architecture, in bytes.
pub const PAGE: u64 = 4096;

/// First magic number of most images (`IMG_COMMON_MAGIC`).
const COMMON: u32 = 0x5456_4319;

/// Most bytes of one entry; those that are read here have fewer than 50.
const LONGEST_ENTRY: u32 = 1 << 20;

/// Most bytes of an image that is read here.
const LONGEST_IMAGE: u64 = 1 << 30;

/// An image that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {reason}", path.display(), in_entry(*entry))]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// The number of the entry, the first being 0, if it is one entry's fault.
    pub entry: Option<u64>,
    /// What is wrong.
    #[source]
    pub reason: ImageReason,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageReason {
    /// A system call failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not an image of the kind that its name says.
    #[error("this is not such an image: its magic numbers are {0:#x} and {1:#x}")]
    Magic(u32, u32),
    /// It ends in the middle.
    #[error("the file ends in the middle")]
    Cut,
    /// More than any image has.
    #[error("{0} bytes are more than such an image has")]
    TooLong(u64),
    /// No protobuf message.
    #[error("not a protobuf message")]
    Malformed,
    /// A field that must be there is not.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// Not what it can be.
    #[error("{0}")]
    Impossible(String),
}

fn in_entry(entry: Option<u64>) -> String {
    entry.map_or(String::new(), |number| format!(", entry {number}"))
}

impl ImageError {
    pub(crate) fn new(path: &Path, reason: impl Into<ImageReason>) -> ImageError {
        ImageError {
            path: path.to_owned(),
            entry: None,
            reason: reason.into(),
        }
    }
}

/// The entries of an image, one after another.
struct Entries {
    path: PathBuf,
    file: BufReader<File>,
    next: u64,
}

impl Entries {
    /// Opens an image of a kind, see `criu/include/magic.h`.
    fn open(path: &Path, magic: u32) -> Result<Entries, ImageError> {
        let failed = |error| ImageError::new(path, ImageReason::Io(error));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let text = "not a regular file".to_owned();
            return Err(ImageError::new(path, ImageReason::Impossible(text)));
        }
        if metadata.len() > LONGEST_IMAGE {
            return Err(ImageError::new(path, ImageReason::TooLong(metadata.len())));
        }
        let mut entries = Entries {
            path: path.to_owned(),
            file: BufReader::new(file),
            next: 0,
        };
        let (common, kind) = match (entries.word(), entries.word()) {
            (Ok(Some(common)), Ok(Some(kind))) => (common, kind),
            (Err(reason), _) | (_, Err(reason)) => return Err(ImageError::new(path, reason)),
            _ => return Err(ImageError::new(path, ImageReason::Cut)),
        };
        if (common, kind) != (COMMON, magic) {
            return Err(ImageError::new(path, ImageReason::Magic(common, kind)));
        }
        Ok(entries)
    }

    /// The next entry's message; `None` behind the last.
    fn next(&mut self) -> Result<Option<Vec<u8>>, ImageError> {
        let message = self.read_next();
        let message = message.map_err(|reason| self.wrong(reason))?;
        self.next += 1;
        Ok(message)
    }

    fn read_next(&mut self) -> Result<Option<Vec<u8>>, ImageReason> {
        let Some(bytes) = self.word()? else {
            return Ok(None);
        };
        if bytes > LONGEST_ENTRY {
            return Err(ImageReason::TooLong(bytes.into()));
        }
        let mut message = vec![0; bytes as usize];
        match self.file.read_exact(&mut message) {
            Ok(()) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ImageReason::Cut),
            Err(error) => Err(error.into()),
        }
    }

    /// A number of 32 bits; `None` at the end of the file.
    fn word(&mut self) -> Result<Option<u32>, ImageReason> {
        let mut word = [0; 4];
        let mut got = 0;
        while got < word.len() {
            match self.file.read(&mut word[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(ImageReason::Cut),
                Ok(read) => got += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(u32::from_le_bytes(word)))
    }

    /// Something is wrong with the entry that is next.
    fn wrong(&self, reason: ImageReason) -> ImageError {
        ImageError {
            path: self.path.clone(),
            entry: Some(self.next),
            reason,
        }
    }

    /// Something is wrong with the entry that was read last.
    fn was_wrong(&self, reason: ImageReason) -> ImageError {
        ImageError {
            entry: Some(self.next.saturating_sub(1)),
            ..self.wrong(reason)
        }
    }
}

#[cfg(test)]
mod tests;
