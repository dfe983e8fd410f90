//! Reading, and a little mending, of CRIU's image files.
//!
//! A file begins with two magic numbers (`criu/include/magic.h`); then come
//! entries: a length of 32 bits, and a protobuf message of that length
//! (`images/pagemap.proto`). Whoever wrote the files, nothing in them is believed.

mod facts;
mod mm;
mod pagemap;
mod protobuf;
mod stats;
mod timers;

pub use facts::{check_frames, command_name, file_names, memfd_names, old_file_names};
pub use mm::{Mapping, MappingKind, Mappings, mappings, read_wiped};
pub use pagemap::{Extent, Pagemap, Run, read_pagemap, runs};
pub use stats::{DumpStats, RestoreStats, Stats, stats};
pub use timers::rearm_timers;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size of a page in images of this architecture, in bytes.
pub const PAGE: u64 = 4096;

/// First magic number of most images (`IMG_COMMON_MAGIC`).
const COMMON: u32 = 0x5456_4319;

/// Most bytes of one entry. The longest that is read here is of all mappings of a
/// process: some 60 bytes each, and 65530 of them unless the administrator allows more.
const LONGEST_ENTRY: u32 = 64 << 20;

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
    /// Nothing is wrong, but there is more than is read.
    #[error("{0}")]
    Above(&'static str),
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
struct Entries<R = BufReader<File>> {
    path: PathBuf,
    file: R,
    next: u64,
    /// Most bytes of one entry.
    longest: u32,
}

impl Entries {
    /// Opens an image of a kind, see `criu/include/magic.h`.
    fn open(path: &Path, magic: u32) -> Result<Entries, ImageError> {
        let failed = |error| ImageError::new(path, ImageReason::Io(error));
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let text = "not a regular file".to_owned();
            return Err(ImageError::new(path, ImageReason::Impossible(text)));
        }
        if metadata.len() > LONGEST_IMAGE {
            return Err(ImageError::new(path, ImageReason::TooLong(metadata.len())));
        }
        Entries::begin(path, BufReader::new(file), (COMMON, magic), LONGEST_ENTRY)
    }
}

impl<R: Read> Entries<R> {
    /// The entries of an image that comes from anywhere; the path is for messages.
    fn begin(
        path: &Path,
        file: R,
        magic: (u32, u32),
        longest: u32,
    ) -> Result<Entries<R>, ImageError> {
        let (entries, found) = Entries::any(path, file, longest)?;
        if found != magic {
            return Err(ImageError::new(path, ImageReason::Magic(found.0, found.1)));
        }
        Ok(entries)
    }

    /// The same of any kind, and its two magic numbers.
    fn any(path: &Path, file: R, longest: u32) -> Result<(Entries<R>, (u32, u32)), ImageError> {
        let mut entries = Entries {
            path: path.to_owned(),
            file,
            next: 0,
            longest,
        };
        match (entries.word(), entries.word()) {
            (Ok(Some(common)), Ok(Some(kind))) => Ok((entries, (common, kind))),
            (Err(reason), _) | (_, Err(reason)) => Err(ImageError::new(path, reason)),
            _ => Err(ImageError::new(path, ImageReason::Cut)),
        }
    }

    /// The next entry's message; `None` behind the last.
    fn next(&mut self) -> Result<Option<Vec<u8>>, ImageError> {
        let message = self.read_next();
        let message = message.map_err(|reason| self.wrong(reason))?;
        self.next += 1;
        Ok(message)
    }

    /// Goes past an entry of which the length was read already.
    fn skip(&mut self, bytes: u32) -> Result<(), ImageError> {
        let skipped = self.message(bytes);
        skipped.map_err(|reason| self.wrong(reason))?;
        self.next += 1;
        Ok(())
    }

    fn read_next(&mut self) -> Result<Option<Vec<u8>>, ImageReason> {
        match self.word()? {
            Some(bytes) => self.message(bytes).map(Some),
            None => Ok(None),
        }
    }

    fn message(&mut self, bytes: u32) -> Result<Vec<u8>, ImageReason> {
        if bytes > self.longest {
            return Err(ImageReason::TooLong(bytes.into()));
        }
        // As long as what is there: a length can lie.
        let mut message = Vec::new();
        (&mut self.file)
            .take(bytes.into())
            .read_to_end(&mut message)?;
        match message.len() == bytes as usize {
            true => Ok(message),
            false => Err(ImageReason::Cut),
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
