//! Where pages cannot come later: CRIU reads the images itself, and finds in the page
//! cache what was read ahead of it.

use anyhow::Result;
use rewarm::config::{Settings, cpus, memory};
use rewarm::criu::pages::page_files;
use rewarm::pages::{FileRange, ReadOptions, read};
use rewarm::pidfd::Pidfd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are read between two looks whether CRIU is done.
const STEP: u64 = 64 << 20;

/// Reads all pages, at most as much as half of the free memory takes, until CRIU ends.
///
/// # Errors
/// If a file cannot be read.
pub(super) fn read_all(images: &Path, criu: Option<&Pidfd>) -> Result<()> {
    let options = ReadOptions {
        keep_cached: true,
        ..ReadOptions::new(&Settings::default().plan(cpus()))
    };
    let mut room = memory::available().unwrap_or(0) / 2;
    for file in page_files(images)? {
        let mut offset = 0;
        while offset < file.bytes() {
            if criu.is_some_and(|criu| criu.has_ended(Duration::ZERO)) {
                return Ok(());
            }
            let range = FileRange {
                file: Arc::clone(&file),
                offset,
                bytes: STEP.min(file.bytes() - offset),
            };
            let Some(left) = room.checked_sub(range.bytes) else {
                return Ok(());
            };
            room = left;
            offset += range.bytes;
            read(&[range], &options, &|_| {})?;
        }
    }
    Ok(())
}
