//! Dropping pages.

use super::files::{Cached, Failures};
use crate::cli::progress;
use anyhow::{Context, Result};
use rewarm::pages::{PageError, PageFile, evict};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Drops the pages of these files.
pub(super) fn files(files: &[Cached], failures: &mut Failures) {
    let done = AtomicU64::new(0);
    let bytes = files.iter().map(|file| file.bytes).sum();
    progress::during("evicting", bytes, &done, || {
        for file in files {
            if let Err(error) = evict_one(file) {
                failures.add(error);
            }
            done.fetch_add(file.bytes, Relaxed);
        }
    });
}

fn evict_one(file: &Cached) -> Result<(), PageError> {
    evict(&*PageFile::open(&file.path)?)
}

/// Drops the pages of all files of the machine.
pub(super) fn all() -> Result<()> {
    // SAFETY: has no arguments and no failures. Dirty pages cannot be dropped.
    unsafe { libc::sync() };
    OpenOptions::new()
        .write(true)
        .open(DROP_CACHES)
        .and_then(|mut file| file.write_all(b"1"))
        .with_context(|| {
            format!("--evict=all: cannot write {DROP_CACHES}. It takes root, on the machine itself or in a privileged container; --evict PATH drops files that you may read")
        })
}
