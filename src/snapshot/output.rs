//! A data file while it is being written.

use super::folder::Folder;
use super::{Cause, PAGE, SnapshotError, names};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

type Result<T> = std::result::Result<T, SnapshotError>;

/// A file that writers append to. It has its final name from the beginning,
/// unless it was room made ahead, which keeps its name until the commit: so it is
/// still there when the writer is killed.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// The name that it has at the end.
    name: String,
    spare: Option<Spare>,
    /// Whether it has its final name.
    is_named: AtomicBool,
    /// Where the next chunk goes.
    end: AtomicU64,
}

#[derive(Debug)]
struct Spare {
    name: String,
    /// Bytes that are there to be written over.
    room: u64,
}

impl Output {
    /// Takes spare file `number`, or makes a new file with `name`.
    pub(super) fn open(folder: &Folder, number: usize, name: String) -> Result<Output> {
        let spare = names::spare(number as u32);
        let (file, spare) = match folder.write_over(&spare)? {
            Some((file, metadata)) => {
                let room = metadata.len();
                (file, Some(Spare { name: spare, room }))
            }
            None => (folder.create(&name)?, None),
        };
        // Where the file system cannot, through the page cache.
        let _ = set_direct(&file, true);
        Ok(Output {
            file,
            name,
            is_named: AtomicBool::new(spare.is_none()),
            spare,
            end: AtomicU64::new(0),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was room made ahead.
    pub(super) fn is_room(&self) -> bool {
        self.spare.is_some()
    }

    /// Bytes appended so far.
    pub(super) fn bytes(&self) -> u64 {
        self.end.load(Relaxed)
    }

    /// Takes the next `bytes` bytes of the room that was made ahead, if it has
    /// so many left.
    pub(super) fn take_room(&self, bytes: u64) -> Option<u64> {
        let room = self.spare.as_ref()?.room;
        let next = |end: u64| end.checked_add(bytes).filter(|end| *end <= room);
        self.end.fetch_update(Relaxed, Relaxed, next).ok()
    }

    /// Takes the next `bytes` bytes, beyond the room if need be.
    pub(super) fn take(&self, bytes: u64) -> Option<u64> {
        let next = |end: u64| end.checked_add(bytes);
        self.end.fetch_update(Relaxed, Relaxed, next).ok()
    }

    /// Writes at an offset that was taken.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !(bytes.as_ptr() as usize).is_multiple_of(PAGE as usize) {
            set_direct(&self.file, false)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Past the page cache it does not go, or not with what is left
                // after a part was written.
                Err(error) if is_misaligned(&error) && is_direct(&self.file)? => {
                    set_direct(&self.file, false)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Brings it to safety under its final name, with just the bytes that were
    /// appended. The name is safe when the folder is.
    pub(super) fn finish(&self, folder: &Folder) -> Result<()> {
        let now = self.spare.as_ref().map_or(&self.name, |spare| &spare.name);
        let failed = |doing, error| SnapshotError::io(folder.file(now), doing, error);
        let bytes = self.bytes();
        self.file
            .set_len(bytes)
            .map_err(|error| failed(format!("cut it to {bytes} bytes"), error))?;
        self.file
            .sync_all()
            .map_err(|error| failed(format!("bring {bytes} bytes to safety (fsync)"), error))?;
        if let Some(spare) = &self.spare {
            folder.rename(&spare.name, &self.name)?;
            self.is_named.store(true, Relaxed);
        }
        Ok(())
    }

    /// Removes what was written; room that was made ahead stays room.
    pub(super) fn abandon(&self, folder: &Folder) {
        // What cannot be removed now, the next writer removes.
        let _ = match &self.spare {
            Some(spare) if !self.is_named.load(Relaxed) => {
                let grew = self.bytes() > spare.room;
                !grew || self.file.set_len(spare.room).is_ok()
            }
            _ => folder.remove(&self.name).is_ok(),
        };
    }
}

fn is_misaligned(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

fn flags(file: &File) -> io::Result<libc::c_int> {
    // SAFETY: an open descriptor.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) } {
        flags if flags >= 0 => Ok(flags),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_direct(file: &File) -> io::Result<bool> {
    Ok(flags(file)? & libc::O_DIRECT != 0)
}

/// Whether writes go past the page cache from now on.
fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let flags = match direct {
        true => flags(file)? | libc::O_DIRECT,
        false => flags(file)? & !libc::O_DIRECT,
    };
    // SAFETY: an open descriptor.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What is appended is whole pages.
pub(super) fn check_length(bytes: usize) -> std::result::Result<(), Cause> {
    if bytes > 0 && bytes.is_multiple_of(PAGE as usize) {
        return Ok(());
    }
    Err(Cause::Invalid(format!("a chunk of {bytes} bytes")))
}
