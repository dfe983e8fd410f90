//! Files as the page reader sees them.

use super::view::View;
use super::{PageError, Reason};
use crate::descriptors::out_of_the_way;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where a file's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// In memory: tmpfs, ramfs.
    Memory,
    /// On a disk of this machine, as far as can be told.
    Local,
    /// Behind a server or a process: NFS, SMB, FUSE, 9P and the like.
    Remote,
}

/// Magic numbers of statfs(2), from `linux/magic.h` and the file systems'
/// sources. What is not listed counts as local.
const STORES: [(u32, Store); 14] = [
    (0x0102_1994, Store::Memory), // tmpfs
    (0x8584_58f6, Store::Memory), // ramfs
    (0x6969, Store::Remote),      // NFS
    (0x517b, Store::Remote),      // SMB
    (0xff53_4d42, Store::Remote), // CIFS
    (0xfe53_4d42, Store::Remote), // SMB2
    (0x6573_5546, Store::Remote), // FUSE, virtiofs
    (0x0102_1997, Store::Remote), // 9P
    (0x00c3_6400, Store::Remote), // Ceph
    (0x0bd0_0bd0, Store::Remote), // Lustre
    (0x4750_4653, Store::Remote), // GPFS
    (0x1983_0326, Store::Remote), // BeeGFS
    (0x5346_414f, Store::Remote), // AFS
    (0x6b41_4653, Store::Remote), // kAFS
];

/// What O_DIRECT asks of a file.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) file: File,
    /// Offsets and lengths are multiples of this, in bytes.
    pub(super) alignment: u64,
}

/// An open regular file.
#[derive(Debug)]
pub struct PageFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    store: Store,
    direct: OnceLock<Option<Direct>>,
    view: OnceLock<Option<View>>,
    hint_bytes: OnceLock<u64>,
}

impl PageFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// If it cannot be opened or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<PageFile>, PageError> {
        let path = path.as_ref();
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| PageError::new(path, error))?;
        PageFile::from_file(file, path.to_owned())
    }

    /// Takes a file that is open for reading; `path` is its name in messages.
    ///
    /// # Errors
    /// If it is not a regular file.
    pub fn from_file(file: File, path: PathBuf) -> Result<Arc<PageFile>, PageError> {
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Err(PageError::new(path, error)),
        };
        if !metadata.is_file() {
            return Err(PageError::new(path, Reason::NotRegular));
        }
        Ok(Arc::new(PageFile {
            store: store(&file),
            bytes: metadata.len(),
            file,
            path,
            direct: OnceLock::new(),
            view: OnceLock::new(),
            hint_bytes: OnceLock::new(),
        }))
    }

    /// Its name, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size when it was opened, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where its bytes are kept.
    pub fn store(&self) -> Store {
        self.store
    }

    /// Reads exactly `to.len()` bytes from `offset` on, through the page cache.
    ///
    /// # Errors
    /// The system's, or [`Reason::Ended`]; with the offset where it happened.
    pub fn read_exact_at(&self, to: &mut [u8], offset: u64) -> Result<(), PageError> {
        let mut done = 0;
        while done < to.len() {
            match self.file.read_at(&mut to[done..], offset + done as u64) {
                Ok(0) => return Err(self.ended(offset + done as u64)),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(offset + done as u64, error)),
            }
        }
        Ok(())
    }

    pub(super) fn ended(&self, offset: u64) -> PageError {
        self.failed(offset, Reason::Ended(self.bytes))
    }

    pub(super) fn failed(&self, offset: u64, reason: impl Into<Reason>) -> PageError {
        PageError {
            offset: Some(offset),
            ..PageError::new(&self.path, reason)
        }
    }

    /// How many bytes one hint may ask for; of more, the system takes the first
    /// part alone.
    pub(super) fn hint_bytes(&self) -> u64 {
        *self.hint_bytes.get_or_init(|| hint_bytes(&self.file))
    }

    /// The file opened for O_DIRECT, if its file system can. It is opened at the
    /// first call, so only who will read by it calls this, and stays open as long
    /// as the file.
    pub(super) fn direct(&self) -> Option<&Direct> {
        self.direct.get_or_init(|| open_direct(&self.file)).as_ref()
    }

    /// The file as a mapping, which stays as long as the file is open; `None` if it
    /// cannot be mapped.
    pub(super) fn view(&self) -> Option<&View> {
        let map = || View::of(&self.file, self.bytes);
        self.view.get_or_init(map).as_ref()
    }
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file.
    pub file: Arc<PageFile>,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

impl FileRange {
    /// All of a file.
    pub fn whole(file: Arc<PageFile>) -> FileRange {
        FileRange {
            offset: 0,
            bytes: file.bytes(),
            file,
        }
    }

    /// # Errors
    /// If the file was shorter when it was opened.
    pub(super) fn check(&self) -> Result<(), PageError> {
        match self.offset.checked_add(self.bytes) {
            Some(end) if end <= self.file.bytes() => Ok(()),
            _ => Err(self
                .file
                .failed(self.offset, Reason::BeyondEnd(self.file.bytes()))),
        }
    }
}

fn store(file: &File) -> Store {
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: filled by the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return Store::Local;
    }
    // SAFETY: valid when zeroed, and filled since.
    let magic = unsafe { found.assume_init() }.f_type as u32;
    STORES
        .iter()
        .find(|(known, _)| *known == magic)
        .map_or(Store::Local, |(_, store)| *store)
}

/// The most that the system takes of one hint is what its device is asked for at
/// once, or reads ahead, whichever is more.
fn hint_bytes(file: &File) -> u64 {
    const UNKNOWN: u64 = 128 << 10;
    const MOST: u64 = 1 << 20;
    let Ok(metadata) = file.metadata() else {
        return UNKNOWN;
    };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let kibibytes = [
        format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
        format!("/sys/dev/block/{major}:{minor}/queue/max_sectors_kb"),
        // Of a partition, its disk's.
        format!("/sys/dev/block/{major}:{minor}/../queue/max_sectors_kb"),
    ];
    let known = kibibytes
        .iter()
        .filter_map(|name| fs::read_to_string(name).ok()?.trim().parse::<u64>().ok());
    match known.max() {
        None | Some(0) => UNKNOWN,
        Some(most) => most.saturating_mul(1 << 10).min(MOST),
    }
}

/// Reopens the same inode whatever its name leads to by now.
///
/// Closing any descriptor of a file takes the process's POSIX locks on it away
/// (fcntl(2)), so a file that is locked is not opened again.
fn open_direct(file: &File) -> Option<Direct> {
    if is_locked(file) {
        return None;
    }
    let direct = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()?;
    let direct = File::from(out_of_the_way(direct.into()));
    let alignment = alignment(&direct)?;
    Some(Direct {
        file: direct,
        alignment,
    })
}

/// Whether anyone holds a POSIX lock on a part of a file; locks of this process
/// are seen too, as the question is asked for the open file and not for the
/// process.
fn is_locked(file: &File) -> bool {
    // SAFETY: plain integers.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: an open descriptor, and a structure as the call has it.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    asked == 0 && lock.l_type != libc::F_UNLCK as libc::c_short
}

/// The alignment that O_DIRECT needs (statx(2), `STATX_DIOALIGN`, Linux 6.1). At
/// least a page, which also suits older kernels and every common disk. `None` if
/// the file system says that it cannot.
fn alignment(file: &File) -> Option<u64> {
    const PAGE: u64 = 4096;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path means the descriptor itself; filled by the call.
    let asked = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            found.as_mut_ptr(),
        )
    };
    // SAFETY: valid when zeroed.
    let found = unsafe { found.assume_init() };
    if asked != 0 || found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Some(PAGE);
    }
    let needed = found.stx_dio_offset_align.max(found.stx_dio_mem_align);
    (needed != 0).then(|| PAGE.max(needed.into()))
}
