//! The log: to a file, and only when asked. Nothing is ever written to the host
//! process's own output.
//!
//! The file is opened for every line. CRIU restores no process with a file that has
//! grown since the checkpoint, as the log of a process that ran on after it has, or
//! one that several processes share.

use rewarm::config::Settings;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{self, Path, PathBuf};

/// Starts logging if the settings name a file that can be opened.
pub(crate) fn start(settings: &Settings) {
    let Some(path) = &settings.log else { return };
    // The process may change its folder.
    let Ok(path) = path::absolute(path) else {
        return;
    };
    if open(&path).is_err() {
        return;
    }
    // A second start, in a forked child, finds the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_writer(move || Line(path.clone()))
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .try_init();
}

/// Where one line goes.
struct Line(PathBuf);

impl Write for Line {
    /// A line is written at once, so those of several threads do not mix. What
    /// cannot be written is lost.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        open(&self.0)?.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}
