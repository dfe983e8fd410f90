//! The folder of a snapshot, and files in it.
//!
//! Files are reached from the open folder by plain names, links are not followed,
//! and only regular files of one user or root are opened, so that nobody else's
//! names lead anywhere else.

use super::{Cause, SnapshotError, names};
use crate::config::effective_uid;
use crate::descriptors::out_of_the_way;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, SnapshotError>;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    file: File,
    path: PathBuf,
    /// The user whose it is with all that is in it, unless that is root.
    user: u32,
}

impl Folder {
    /// Opens a folder of this user or root.
    pub(super) fn open(path: &Path) -> Result<Folder> {
        Folder::open_of(path, effective_uid())
    }

    /// Opens a folder of a user or root.
    pub(super) fn open_of(path: &Path, user: u32) -> Result<Folder> {
        let file = open_folder(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTDIR) => SnapshotError::new(path, Cause::NotAFolder),
            _ => SnapshotError::io(path, "open the folder", error),
        })?;
        let folder = Folder {
            file: File::from(out_of_the_way(file.into())),
            path: path.to_owned(),
            user,
        };
        let metadata = folder.file.metadata();
        let metadata = metadata.map_err(|error| SnapshotError::io(path, "look at it", error))?;
        folder.check_owner(path, &metadata)?;
        Ok(folder)
    }

    /// Opens a folder to write in, which is made for this user alone if it is not
    /// there.
    pub(super) fn make(path: &Path) -> Result<Folder> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => sync_parent(path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && !parent_of(path).exists() => {
                return Err(SnapshotError::new(parent_of(path), Cause::NoParent));
            }
            Err(error) => return Err(SnapshotError::io(path, "make the folder", error)),
        }
        let folder = Folder::open(path)?;
        let metadata = folder.file.metadata();
        let metadata = metadata.map_err(|error| SnapshotError::io(path, "look at it", error))?;
        // In a sticky folder everybody has only files of their own.
        let rights = metadata.mode() & (libc::S_IWOTH | libc::S_ISVTX);
        if rights == libc::S_IWOTH {
            return Err(SnapshotError::new(path, Cause::Open));
        }
        Ok(folder)
    }

    /// Keeps others from writing here.
    pub(super) fn lock(&self) -> Result<Lock> {
        // SAFETY: an open descriptor.
        if unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EWOULDBLOCK) => SnapshotError::new(&self.path, Cause::Locked),
                // NFS takes them for locks of ranges, which need a file to write to.
                Some(libc::EBADF | libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => {
                    SnapshotError::new(&self.path, Cause::NoLocks(error))
                }
                _ => SnapshotError::io(&self.path, "lock the folder", error),
            });
        }
        // Another descriptor of the same open folder.
        let same = self.file.try_clone();
        let same = same.map_err(|error| SnapshotError::io(&self.path, "lock the folder", error))?;
        Ok(Lock(File::from(out_of_the_way(same.into()))))
    }

    /// Its path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, for messages.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file for reading. `None` if there is none of that name.
    pub(super) fn read(&self, name: &str) -> Result<Option<(File, Metadata)>> {
        self.existing(name, libc::O_RDONLY)
    }

    /// Opens a file to write over it. `None` if there is none of that name.
    pub(super) fn write_over(&self, name: &str) -> Result<Option<(File, Metadata)>> {
        let found = self.existing(name, libc::O_RDWR)?;
        match &found {
            Some((_, metadata)) if metadata.nlink() != 1 => {
                Err(SnapshotError::new(self.file(name), Cause::Linked))
            }
            _ => Ok(found),
        }
    }

    fn existing(&self, name: &str, access: libc::c_int) -> Result<Option<(File, Metadata)>> {
        let path = self.file(name);
        // Without O_NONBLOCK, opening a pipe would wait for its other end.
        let flags = access | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = match self.open_at(name, flags) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(match error.raw_os_error() {
                    Some(libc::ELOOP | libc::EISDIR | libc::ENXIO) => {
                        SnapshotError::new(path, Cause::NotRegular)
                    }
                    _ => SnapshotError::io(path, "open it", error),
                });
            }
        };
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| SnapshotError::io(&path, "look at it", error))?;
        if !metadata.is_file() {
            return Err(SnapshotError::new(path, Cause::NotRegular));
        }
        self.check_owner(&path, &metadata)?;
        Ok(Some((file, metadata)))
    }

    fn check_owner(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        match metadata.uid() {
            owner if owner == 0 || owner == self.user => Ok(()),
            other => Err(SnapshotError::new(path, Cause::Foreign(other))),
        }
    }

    /// Makes a file that is not there yet.
    pub(super) fn create(&self, name: &str) -> Result<File> {
        self.open_at(name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)
            .map_err(|error| SnapshotError::io(self.file(name), "make it", error))
    }

    fn open_at(&self, name: &str, flags: libc::c_int) -> io::Result<File> {
        let name = CString::new(name)?;
        let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        // SAFETY: an open descriptor and a string that ends.
        let file = unsafe { libc::openat(self.fd(), name.as_ptr(), flags, 0o600) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        Ok(File::from(out_of_the_way(file)))
    }

    /// Gives a file another name, and takes the place of a file that had it.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let renamed = || {
            let (from, to) = (CString::new(from)?, CString::new(to)?);
            // SAFETY: open descriptors and strings that end.
            match unsafe { libc::renameat(self.fd(), from.as_ptr(), self.fd(), to.as_ptr()) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        renamed().map_err(|error| {
            SnapshotError::io(self.file(from), format!("rename it to {to}"), error)
        })
    }

    /// Removes a file. That there is none is no error.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let removed = || {
            let name = CString::new(name)?;
            // SAFETY: an open descriptor and a string that ends.
            match unsafe { libc::unlinkat(self.fd(), name.as_ptr(), 0) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        match removed() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SnapshotError::io(self.file(name), "remove it", error))
            }
            _ => Ok(()),
        }
    }

    /// Brings names to safety.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| {
            SnapshotError::io(&self.path, "bring the folder to safety (fsync)", error)
        })
    }

    /// The files that are ours by their names.
    pub(super) fn list(&self) -> Result<Vec<(String, names::Kind)>> {
        let listed = || {
            let mut found = Vec::new();
            for entry in fs::read_dir(format!("/proc/self/fd/{}", self.fd()))? {
                let Ok(name) = entry?.file_name().into_string() else {
                    continue;
                };
                if let Some(kind) = names::kind(&name) {
                    found.push((name, kind));
                }
            }
            found.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            Ok(found)
        };
        listed().map_err(|error| SnapshotError::io(&self.path, "list the folder", error))
    }

    /// What its file system has free for this user, in bytes.
    pub(super) fn free(&self) -> io::Result<u64> {
        let mut found = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: an open descriptor; filled by the call.
        if unsafe { libc::fstatvfs(self.fd(), found.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: filled by the successful call.
        let found = unsafe { found.assume_init() };
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Keeps others from writing in a folder, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was forked meanwhile has it open too.
        // SAFETY: an open descriptor.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// A folder's own name is only safe when the folder above is.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = parent_of(path);
    match open_folder(parent).and_then(|parent| parent.sync_all()) {
        // Whoever may make a folder there need not be allowed to list it.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(SnapshotError::io(
            parent,
            "bring the folder to safety (fsync)",
            error,
        )),
        _ => Ok(()),
    }
}
