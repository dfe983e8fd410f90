//! Reading images ahead into the page cache, where pages cannot come later.

use super::PagesError;
use super::digests::page_files;
use crate::config::{Settings, cpus};
use crate::pages::{FileRange, PageFile, ReadOptions, Store, read, residency};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes that are read between two looks whether to stop.
const STEP: u64 = 64 << 20;

/// Threads that read: what waits takes no CPU.
const THREADS: usize = 16;

/// A sample: so many reads of so many bytes.
const SAMPLES: u64 = 8;
const SAMPLE: u64 = 64 << 10;

/// Storage that takes longer for a sample answers late: more requests at once help.
const LATE: Duration = Duration::from_micros(700);

/// With fewer CPUs, reading ahead of CRIU takes the CPU that it needs.
const CPUS_TO_SPARE: usize = 4;

/// What was read ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prefetched {
    /// So many bytes; fewer than all if it was stopped.
    Read(u64),
    /// Nothing, as it would not have helped.
    NotWorthIt(&'static str),
}

/// Reads all `pages-*.img` of a folder into the page cache, until told to stop, if
/// that is faster than letting CRIU read them: on storage that answers late, or
/// with CPUs to spare.
///
/// # Errors
/// If a file cannot be read.
pub fn prefetch(images: &Path, stop: &AtomicBool) -> Result<Prefetched, PagesError> {
    let files = page_files(images)?;
    if let Some(reason) = not_worth_it(&files)? {
        return Ok(Prefetched::NotWorthIt(reason));
    }
    let options = ReadOptions {
        threads: THREADS,
        chunk_bytes: 1 << 20,
        slots: THREADS,
        keep_cached: true,
        ..ReadOptions::new(&Settings::default().plan(cpus()))
    };
    let mut bytes = 0;
    for file in &files {
        let mut offset = 0;
        while offset < file.bytes() && !stop.load(Relaxed) {
            let range = FileRange {
                file: file.clone(),
                offset,
                bytes: STEP.min(file.bytes() - offset),
            };
            offset += range.bytes;
            bytes += range.bytes;
            read(&[range], &options, &|_| {})?;
        }
    }
    Ok(Prefetched::Read(bytes))
}

fn not_worth_it(files: &[Arc<PageFile>]) -> Result<Option<&'static str>, PagesError> {
    let Some(largest) = files.iter().max_by_key(|file| file.bytes()) else {
        return Ok(Some("there are no pages"));
    };
    if largest.store() == Store::Memory {
        return Ok(Some("the images are in memory"));
    }
    let known = residency(&FileRange::whole(largest.clone()));
    if known.is_ok_and(|known| known.missing() < known.bytes / 4) {
        return Ok(Some("the images are in the page cache"));
    }
    if cpus() >= CPUS_TO_SPARE || latency(largest)? > LATE {
        return Ok(None);
    }
    Ok(Some("the storage answers at once, and CRIU needs the CPUs"))
}

/// The median time of a small read, at places that CRIU comes to last.
fn latency(file: &PageFile) -> Result<Duration, PagesError> {
    let mut buffer = vec![0; SAMPLE.min(file.bytes()) as usize];
    let step = file.bytes() / 2 / SAMPLES;
    let mut times = Vec::new();
    for number in 0..SAMPLES {
        let offset = file.bytes() / 2 + number * step;
        let left = (file.bytes() - offset).min(SAMPLE) as usize;
        let begun = Instant::now();
        file.read_exact_at(&mut buffer[..left], offset)?;
        times.push(begun.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
