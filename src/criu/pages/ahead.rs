//! Whether reading images beside CRIU makes it faster, where pages cannot come later.

use super::PagesError;
use super::digests::page_files;
use crate::config::cpus;
use crate::pages::{FileRange, PageFile, Store, residency};
use std::path::Path;
use std::time::{Duration, Instant};

/// A sample: so many reads of so many bytes.
const SAMPLES: u64 = 8;
const SAMPLE: u64 = 64 << 10;

/// Storage that takes longer for a sample answers late: more requests at once help.
const LATE: Duration = Duration::from_micros(700);

/// With fewer CPUs, reading beside CRIU takes the CPU that it needs.
const CPUS_TO_SPARE: usize = 4;

/// Why reading all `pages-*.img` of a folder beside CRIU would not be faster than
/// doing it before; `None` where it is: on storage that answers late, or with CPUs to
/// spare.
///
/// # Errors
/// If a file cannot be read.
pub fn why_not_beside_criu(images: &Path) -> Result<Option<&'static str>, PagesError> {
    let files = page_files(images)?;
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
