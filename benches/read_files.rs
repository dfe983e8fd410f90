//! Reads files by one strategy of the page reader and drops the bytes: what storage and page cache give without a GPU.

use anyhow::{Context as _, bail};
use clap::Parser;
use rewarm::config::{Settings, cpus};
use rewarm::pages::{self, FileRange, PageFile, ReadOptions, Strategy};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Reads files by one strategy of the page reader and drops the bytes; one JSON line on stdout.
#[derive(Parser)]
struct Arguments {
    /// Files, or folders of them.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// auto, pread, readahead, direct or io_uring.
    #[arg(long, default_value = "auto")]
    strategy: Strategy,
    /// Threads that read; by default as many as there would be lanes.
    #[arg(long)]
    threads: Option<usize>,
    /// Only by ways that leave the bytes in the page cache.
    #[arg(long)]
    keep_cached: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let ranges = ranges(&arguments.paths)?;
    let (settings, _) = Settings::from_env();
    let mut options = ReadOptions::new(&settings.plan(cpus()));
    options.strategy = arguments.strategy;
    options.keep_cached = arguments.keep_cached;
    options.threads = arguments.threads.unwrap_or(options.threads);
    let taken = AtomicU64::new(0);
    let report = pages::read(&ranges, &options, &|piece| {
        taken.fetch_add(piece.bytes.len() as u64, Relaxed);
    })?;
    if taken.load(Relaxed) != report.bytes {
        bail!("{} bytes arrived, of {}", taken.load(Relaxed), report.bytes);
    }
    let by_strategy = report.strategies.iter();
    let strategies: serde_json::Map<_, _> = by_strategy
        .map(|(strategy, bytes)| (strategy.to_string(), json!(bytes)))
        .collect();
    println!(
        "{}",
        json!({"bytes": report.bytes, "seconds": report.seconds, "strategies": strategies, "threads": options.threads})
    );
    Ok(())
}

/// Every file whole; of a folder, the regular files in it.
fn ranges(paths: &[PathBuf]) -> anyhow::Result<Vec<FileRange>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let listing = fs::read_dir(path).with_context(|| path.display().to_string())?;
            let entries = listing.collect::<Result<Vec<_>, _>>()?;
            files.extend(
                entries
                    .into_iter()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_file()),
            );
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    Ok(files
        .into_iter()
        .map(|path| PageFile::open(path).map(FileRange::whole))
        .collect::<Result<_, _>>()?)
}
