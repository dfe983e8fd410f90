//! Several processes on the same devices: a folder in which each says how much it uses.
//!
//! A process has a file of its name (its id), locked as long as it lives, with a decimal number of
//! bytes per device. Files of other names, which a test may write, always count.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of a number in a process's file, with the end of its line.
const LINE: usize = 21;

/// This process's part.
pub struct Machine {
    folder: PathBuf,
    own: File,
}

/// While it lives, no other process changes what it uses.
pub struct Turn(File);

impl Drop for Turn {
    fn drop(&mut self) {
        // A child that was forked meanwhile has the file too, so closing it is not enough.
        // SAFETY: an own descriptor.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

impl Machine {
    /// Takes part, using nothing of `devices` devices.
    pub fn join(folder: &str, devices: usize) -> std::io::Result<Self> {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder)?;
        let own = File::create(folder.join(std::process::id().to_string()))?;
        let mut lock = whole_file();
        // SAFETY: an own descriptor and a filled structure.
        if unsafe { libc::fcntl(own.as_raw_fd(), libc::F_SETLK, &raw mut lock) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        (&own).write_all(line(0).repeat(devices).as_bytes())?;
        Ok(Self { folder, own })
    }

    /// Waits until no other process changes anything.
    pub fn turn(&self) -> std::io::Result<Turn> {
        let file = File::open(&self.folder)?;
        // SAFETY: an own descriptor.
        while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(Turn(file))
    }

    /// Says what this process uses of a device.
    pub fn note(&self, device: usize, bytes: u64) {
        // Whatever goes wrong here, the process itself has its memory.
        let _ = self
            .own
            .write_all_at(line(bytes).as_bytes(), (device * LINE) as u64);
    }

    /// What everybody else uses of a device.
    pub fn others(&self, device: usize) -> u64 {
        let own = std::process::id().to_string();
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        let others = entries
            .flatten()
            .filter(|entry| *entry.file_name() != *own)
            .map(|entry| entry.path());
        others.map(|path| used(&path, device).unwrap_or(0)).sum()
    }
}

fn line(bytes: u64) -> String {
    format!("{bytes:020}\n")
}

fn used(path: &Path, device: usize) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let is_of_process = path.file_name()?.to_str()?.parse::<u32>().is_ok();
    let counts = !is_of_process || is_locked(path);
    let number = text.split_whitespace().nth(device)?.parse().ok()?;
    counts.then_some(number)
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut lock = whole_file();
    // SAFETY: an own descriptor and a filled structure.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) };
    asked == 0 && lock.l_type != libc::F_UNLCK as i16
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
