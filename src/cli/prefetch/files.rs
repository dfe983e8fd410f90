//! Files, and what of them is in the page cache.

use rewarm::pages::{FileRange, PageError, PageFile, residency};
use std::collections::HashSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The page cache is asked about pieces of this many bytes: one that has all its
/// pages is not read.
const PIECE: u64 = 32 << 20;

/// A file as the page cache has it.
pub(super) struct Cached {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) resident: u64,
    /// Parts with pages that are missing: offset and length, in bytes.
    pub(super) parts: Vec<(u64, u64)>,
}

impl Cached {
    pub(super) fn of(path: &Path) -> Result<Cached, PageError> {
        let file = PageFile::open(path)?;
        let mut cached = Cached {
            path: path.to_owned(),
            bytes: file.bytes(),
            resident: 0,
            parts: Vec::new(),
        };
        for offset in (0..file.bytes()).step_by(PIECE as usize) {
            let bytes = PIECE.min(file.bytes() - offset);
            cached.add(&file, offset, bytes)?;
        }
        Ok(cached)
    }

    fn add(&mut self, file: &Arc<PageFile>, offset: u64, bytes: u64) -> Result<(), PageError> {
        let file = file.clone();
        let found = residency(&FileRange {
            file,
            offset,
            bytes,
        })?;
        self.resident += found.resident;
        if found.missing() > 0 {
            match self.parts.last_mut() {
                Some((begin, length)) if *begin + *length == offset => *length += bytes,
                _ => self.parts.push((offset, bytes)),
            }
        }
        Ok(())
    }

    /// Bytes that would have to be read.
    pub(super) fn missing(&self) -> u64 {
        self.bytes - self.resident
    }
}

/// Looks at every file; those that cannot be opened are failures.
pub(super) fn look_at(paths: &[PathBuf], failures: &mut Failures) -> Vec<Cached> {
    let mut files = Vec::new();
    for path in paths {
        match Cached::of(path) {
            Ok(file) => files.push(file),
            Err(error) => failures.add(error),
        }
    }
    files
}

/// What went wrong with single files, while the others went on. What a file does
/// at every step is said once.
#[derive(Default)]
pub(super) struct Failures {
    messages: Vec<String>,
    known: HashSet<String>,
}

impl Failures {
    pub(super) fn add(&mut self, error: impl Display) {
        let message = error.to_string();
        if self.known.insert(message.clone()) {
            self.messages.push(message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Says them, but does not fill screens.
    pub(super) fn print(&self) {
        const SHOWN: usize = 20;
        for message in self.messages.iter().take(SHOWN) {
            eprintln!("rewarm: {message}");
        }
        if self.messages.len() > SHOWN {
            let more = self.messages.len() - SHOWN;
            eprintln!("rewarm: {more} more errors like these");
        }
    }
}
