//! Room made ahead, so that a freeze writes to memory or blocks that are there.

use super::folder::Folder;
use super::parallel::each;
use super::writer::check_writers;
use super::{CHUNK_BYTES, Cause, SnapshotError, names};
use crate::pages::{PageFile, Store};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

type Result<T> = std::result::Result<T, SnapshotError>;

/// So much is made at once, in bytes.
const STEP: u64 = CHUNK_BYTES;

/// Sees to it that a folder, which is made if it is not there, has room for a
/// snapshot of `bytes` bytes, for so many writers. `progress` goes up by what is
/// made. Returns how much room there is then, in bytes.
///
/// # Errors
/// If somebody is writing there, it is not this user's, or there is not so much
/// free. Then what was begun is removed.
pub fn prepare(path: &Path, bytes: u64, writers: usize, progress: &AtomicU64) -> Result<u64> {
    check_writers(path, writers)?;
    let folder = Folder::make(path)?;
    let _lock = folder.lock()?;
    let share = bytes
        .div_ceil(writers as u64)
        .checked_next_multiple_of(STEP);
    let share = share.ok_or_else(|| {
        let what = format!("room for {bytes} bytes");
        SnapshotError::new(path, Cause::Invalid(what))
    })?;
    let mut spares = Vec::with_capacity(writers);
    for number in 0..writers {
        spares.push(Spare::open(&folder, names::spare(number as u32))?);
    }
    let missing = spares.iter().map(|spare| share.saturating_sub(spare.bytes));
    let result = has_free(&folder, missing.fold(0, u64::saturating_add)).and_then(|()| {
        each(writers, writers, |number| {
            let spare = &spares[number];
            spare.extend(share, progress).map_err(|error| {
                let doing = format!("make room for {share} bytes");
                SnapshotError::io(folder.file(&spare.name), doing, error)
            })
        })
    });
    if let Err(error) = result {
        for spare in spares.iter().filter(|spare| spare.bytes < share) {
            // The system's trouble with removing it does not matter more.
            let _ = folder.remove(&spare.name);
        }
        return Err(error);
    }
    Ok(spares.iter().map(|spare| spare.bytes.max(share)).sum())
}

struct Spare {
    file: File,
    name: String,
    /// Room that it had already.
    bytes: u64,
}

impl Spare {
    fn open(folder: &Folder, name: String) -> Result<Spare> {
        let (file, bytes) = match folder.write_over(&name)? {
            Some((file, metadata)) => (file, metadata.len()),
            None => (folder.create(&name)?, 0),
        };
        Ok(Spare { file, name, bytes })
    }

    /// Adds room until there are `bytes` bytes.
    fn extend(&self, bytes: u64, progress: &AtomicU64) -> io::Result<()> {
        let file = PageFile::from_file(self.file.try_clone()?, self.name.clone().into());
        // Memory is there when it was written to; on disks, what takes time is
        // to find blocks.
        let is_memory = file.is_ok_and(|file| file.store() == Store::Memory);
        let mut touched = is_memory;
        let mut at = self.bytes;
        while at < bytes {
            let step = STEP.min(bytes - at);
            if !touched {
                match allocate(&self.file, at, step) {
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        touched = true;
                    }
                    other => other?,
                }
            }
            if touched {
                self.write_zeroes(at, step)?;
            }
            // The second write moves a page of memory to the list of those in use,
            // under a lock for all CPUs: better now than when a process stands still.
            if is_memory {
                self.write_zeroes(at, step)?;
            }
            at += step;
            progress.fetch_add(step, Relaxed);
        }
        Ok(())
    }

    fn write_zeroes(&self, at: u64, bytes: u64) -> io::Result<()> {
        static ZEROES: [u8; 1 << 16] = [0; 1 << 16];
        let mut done = 0;
        while done < bytes {
            let part = ZEROES.len().min((bytes - done) as usize);
            self.file.write_all_at(&ZEROES[..part], at + done)?;
            done += part as u64;
        }
        Ok(())
    }
}

fn allocate(file: &File, at: u64, bytes: u64) -> io::Result<()> {
    loop {
        // SAFETY: an open descriptor.
        let done = unsafe { libc::fallocate(file.as_raw_fd(), 0, at as i64, bytes as i64) };
        match io::Error::last_os_error() {
            _ if done == 0 => return Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// Whether so much can be had, before a file system in memory is filled up.
fn has_free(folder: &Folder, needed: u64) -> Result<()> {
    match folder.free() {
        Ok(free) if free < needed => Err(SnapshotError::new(
            folder.path(),
            Cause::NoRoom { needed, free },
        )),
        // A file system that does not tell, tells by failing.
        _ => Ok(()),
    }
}
