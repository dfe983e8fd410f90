//! Keeping files in memory.

use super::files::Cached;
use super::limits::limit_of;
use crate::cli::{progress, text};
use anyhow::{Context, Result, anyhow};
use rewarm::pages::PageFile;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{io, ptr};

/// Files that are mapped and locked until this is dropped.
#[derive(Default)]
pub(super) struct Locks(Vec<Lock>);

struct Lock {
    path: PathBuf,
    address: *mut libc::c_void,
    bytes: usize,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: our mapping.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}

impl Locks {
    /// Maps the files, and has their bytes counted as locked before any is read,
    /// so that too low a limit shows at once.
    pub(super) fn reserve(files: &[Cached]) -> Result<Locks> {
        let needed = files.iter().map(|file| file.bytes).sum();
        let mut locks = Locks::default();
        for file in files.iter().filter(|file| file.bytes > 0) {
            let lock = Lock::map(file)?;
            // SAFETY: our mapping.
            let failed =
                unsafe { libc::mlock2(lock.address, lock.bytes, libc::MLOCK_ONFAULT) } != 0;
            if failed {
                return Err(refused(&lock, needed));
            }
            locks.0.push(lock);
        }
        Ok(locks)
    }

    /// Locks every page; returns when all are in memory.
    pub(super) fn fill(&self) -> Result<()> {
        let done = AtomicU64::new(0);
        progress::during("locking", self.bytes(), &done, || {
            for lock in &self.0 {
                // SAFETY: our mapping.
                if unsafe { libc::mlock(lock.address, lock.bytes) } != 0 {
                    return Err(refused(lock, self.bytes()));
                }
                done.fetch_add(lock.bytes as u64, Relaxed);
            }
            Ok(())
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|lock| lock.bytes as u64).sum()
    }
}

impl Lock {
    fn map(file: &Cached) -> Result<Lock> {
        let open = PageFile::open(&file.path)?;
        let bytes = file.bytes as usize;
        // SAFETY: a fresh mapping, which is never touched.
        let address = unsafe {
            libc::mmap(
                null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                open.file().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("{}: cannot be mapped", file.path.display()));
        }
        Ok(Lock {
            path: file.path.clone(),
            address,
            bytes,
        })
    }
}

fn refused(lock: &Lock, needed: u64) -> anyhow::Error {
    let error = io::Error::last_os_error();
    let path = lock.path.display();
    match (error.raw_os_error(), limit_of(libc::RLIMIT_MEMLOCK)) {
        (Some(libc::ENOMEM | libc::EPERM | libc::EAGAIN), Some(limit)) if limit < needed => {
            anyhow!(
                "{path}: cannot be locked: {} are to be locked, and RLIMIT_MEMLOCK is {}. Raise it with ulimit -l, LimitMEMLOCK= of a systemd unit or --ulimit memlock=-1 of a container, or run as root",
                text::bytes(needed),
                text::bytes(limit)
            )
        }
        _ => anyhow!("{path}: cannot be locked: {error}"),
    }
}

/// SIGINT and SIGTERM, which from now on wait to be waited for.
pub(super) struct Signals(libc::sigset_t);

impl Signals {
    pub(super) fn block() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the set is initialised first; this is the only thread left.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
            Signals(set.assume_init())
        }
    }

    /// Waits for one of them.
    pub(super) fn wait(&self) {
        let mut signal = 0;
        // SAFETY: a set that was initialised, and an out-pointer to a local.
        unsafe { libc::sigwait(&self.0, &mut signal) };
    }
}
