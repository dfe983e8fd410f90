//! The call journal: one line per call, appended in one write each.

use crate::codes::CUresult;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// An open journal.
pub struct Journal {
    file: File,
    sequence: AtomicU64,
}

impl Journal {
    /// Opens the file; a journal that cannot be opened is none.
    pub fn open(path: &str) -> Option<Self> {
        let file = File::options().append(true).create(true).open(path).ok()?;
        let sequence = AtomicU64::new(0);
        Some(Self { file, sequence })
    }

    /// `sequence thread name(arguments) = result`.
    pub fn write(&self, name: &str, arguments: &str, result: CUresult) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let line = format!("{sequence} {} {name}({arguments}) = {result}\n", tid());
        // A full disk must not change what the driver answers.
        let _ = (&self.file).write_all(line.as_bytes());
    }
}

/// The kernel's id of this thread.
pub fn tid() -> i32 {
    // SAFETY: gettid has no preconditions.
    unsafe { libc::gettid() }
}
