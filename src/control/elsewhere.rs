//! The files of a process as it sees them, which may be in a container, and users as
//! it knows them.

use crate::config::effective_uid;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;

/// Where the names of a process's files mean what it means by them.
pub(super) enum Files {
    /// It sees the files that this process sees.
    Here,
    /// The root of its own.
    Elsewhere(OwnedFd),
}

/// A file of a process, under a name for this process, as long as this lives.
pub(super) struct Reached {
    path: PathBuf,
    _open: Option<OwnedFd>,
}

impl Reached {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Files {
    /// The files of a process in a container.
    ///
    /// # Errors
    /// The system's: they are not to be seen by this user.
    pub(super) fn elsewhere(process: &Path) -> io::Result<Files> {
        let root = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(process.join("root"))?;
        Ok(Files::Elsewhere(root.into()))
    }

    /// Finds a file. In a container, links lead to its files: none of them leads here.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn reach(&self, path: &Path) -> io::Result<Reached> {
        let Files::Elsewhere(root) = self else {
            let path = path.to_owned();
            return Ok(Reached { path, _open: None });
        };
        let file = open_within(root, path)?;
        Ok(Reached {
            path: PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            _open: Some(file),
        })
    }

    /// The user whom a file belongs to.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn owner(&self, path: &Path) -> io::Result<u32> {
        match self {
            Files::Here => fs::symlink_metadata(path).map(|found| found.uid()),
            Files::Elsewhere(root) => {
                let file = File::from(open_within(root, path)?);
                file.metadata().map(|found| found.uid())
            }
        }
    }
}

/// Names a file (`O_PATH`) by a path whose root is a folder.
fn open_within(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a structure of numbers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: an open descriptor, a name, and a structure of the size given.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of_val(&how),
        )
    };
    match RawFd::try_from(opened) {
        // SAFETY: fresh, and nobody else's.
        Ok(file @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(file) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does something, which is short, as a user that a process with users of its own (in a
/// user namespace) knows: there, root of this machine is nobody.
///
/// # Errors
/// Those of the work; if this process is not root, it is done as its own user.
pub(super) fn as_known_user<T>(
    process: &Path,
    uid: u32,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let users = |process: &Path| fs::read_link(process.join("ns/user")).ok();
    let its = users(process);
    let is_stranger = its.is_some() && its != users(Path::new("/proc/self"));
    if !is_stranger || uid == 0 || effective_uid() != 0 {
        return work();
    }
    become_user(uid)?;
    let done = work();
    if become_user(0).is_err() {
        // Nothing that follows is meant for that user.
        process::abort();
    }
    done
}

/// This thread's effective user alone: the C library's function is for all threads.
fn become_user(uid: u32) -> io::Result<()> {
    const SAME: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: numbers only.
    match unsafe { libc::syscall(libc::SYS_setresuid, SAME, uid, SAME) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
