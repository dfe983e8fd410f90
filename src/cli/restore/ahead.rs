//! Snapshots on slow storage are read ahead into the page cache, from the start of
//! the restore until their thaws begin.

use rewarm::checkpoint::{Manifest, ProcessEntry};
use rewarm::config::{Settings, cpus, memory};
use rewarm::pages::{FileRange, PageFile, ReadOptions, Store, read, residency};
use rewarm::snapshot::Snapshot;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// Bytes that are read between two looks whether to stop.
const STEP: u64 = 64 << 20;

/// Reading ahead, until this is dropped.
pub(super) struct Ahead {
    stop: Arc<AtomicBool>,
}

impl Ahead {
    /// Begins with what is not in memory yet.
    pub(super) fn begin(manifest: &Manifest, folder: &Path) -> Ahead {
        let stop = Arc::new(AtomicBool::new(false));
        let snapshot = |process: &ProcessEntry| {
            let snapshot = process.gpu.as_ref()?.snapshot.as_ref()?;
            Some((folder.join(snapshot), process.uid))
        };
        let folders: Vec<_> = manifest.processes.iter().filter_map(snapshot).collect();
        let stopped = Arc::clone(&stop);
        let work = move || {
            let open = |(folder, user): &(PathBuf, u32)| Snapshot::open_of(folder, *user).ok();
            let snapshots = folders.iter().filter_map(open);
            let mut room = memory::available().unwrap_or(0) / 2;
            for snapshot in snapshots {
                for number in 0..snapshot.manifest().files.len() {
                    read_ahead(snapshot.file(number as u32), &mut room, &stopped);
                }
            }
        };
        // Without the thread, all is read when it is needed.
        let _ = thread::Builder::new().spawn(work);
        Ahead { stop }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Who reads in earnest will tell what is wrong with a file.
fn read_ahead(file: &Arc<PageFile>, room: &mut u64, stop: &AtomicBool) {
    if file.store() == Store::Memory {
        return;
    }
    let options = ReadOptions {
        keep_cached: true,
        ..ReadOptions::new(&Settings::default().plan(cpus()))
    };
    let mut offset = 0;
    while offset < file.bytes() && !stop.load(Relaxed) {
        let range = FileRange {
            file: Arc::clone(file),
            offset,
            bytes: STEP.min(file.bytes() - offset),
        };
        let Some(left) = room.checked_sub(range.bytes) else {
            return;
        };
        *room = left;
        match residency(&range) {
            // One part of a file is like the others.
            Ok(found) if found.missing() < found.bytes / 4 => return,
            _ => {}
        }
        offset += range.bytes;
        if read(&[range], &options, &|_| {}).is_err() {
            return;
        }
    }
}
