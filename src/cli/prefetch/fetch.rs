//! Reading what is missing.

use super::files::{Cached, Failures};
use super::limits::limit_of;
use crate::cli::progress;
use rewarm::pages::{FileRange, PageError, PageFile, ReadOptions, read};
use std::cmp::Reverse;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Most files that are open at the same time.
const MOST_OPEN: usize = 64;

/// What was read.
pub(super) struct Fetched {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// Reads the parts that are missing, most bytes first. A file that cannot be
/// read is a failure, and the others go on.
pub(super) fn fetch(files: &[Cached], options: &ReadOptions, failures: &mut Failures) -> Fetched {
    let mut order: Vec<_> = files.iter().filter(|file| file.missing() > 0).collect();
    order.sort_by_key(|file| Reverse(file.missing()));
    let to_read = order.iter().flat_map(|file| &file.parts).map(|part| part.1);
    let to_read = to_read.sum();
    let done = AtomicU64::new(0);
    let begun = Instant::now();
    progress::during("reading", to_read, &done, || {
        for batch in order.chunks(files_at_once()) {
            let parts = batch.iter().map(|file| (&file.path, &file.parts));
            fetch_batch(parts.collect(), options, &done, failures);
        }
    });
    Fetched {
        bytes: done.into_inner(),
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// Files that may be open at the same time, and leave descriptors for the rest.
fn files_at_once() -> usize {
    let limit = limit_of(libc::RLIMIT_NOFILE).unwrap_or(u64::MAX);
    (limit / 4).clamp(1, MOST_OPEN as u64) as usize
}

type Parts<'a> = (&'a PathBuf, &'a Vec<(u64, u64)>);

/// The first error ends a reading, so the rest is read again without that file;
/// what was read by then is in the page cache.
fn fetch_batch(
    mut batch: Vec<Parts>,
    options: &ReadOptions,
    done: &AtomicU64,
    failures: &mut Failures,
) {
    while !batch.is_empty() {
        let before = done.load(Relaxed);
        let Err(error) = read_parts(&batch, options, done) else {
            return;
        };
        let left = batch.len();
        batch.retain(|(path, _)| **path != error.path);
        failures.add(error);
        if batch.len() == left {
            return;
        }
        if !batch.is_empty() {
            done.store(before, Relaxed);
        }
    }
}

fn read_parts(batch: &[Parts], options: &ReadOptions, done: &AtomicU64) -> Result<(), PageError> {
    let mut ranges = Vec::new();
    for (path, parts) in batch {
        let file = PageFile::open(path)?;
        ranges.extend(parts.iter().map(|&(offset, bytes)| FileRange {
            file: file.clone(),
            offset,
            bytes,
        }));
    }
    read(&ranges, options, &|piece| {
        done.fetch_add(piece.bytes.len() as u64, Relaxed);
    })?;
    Ok(())
}
