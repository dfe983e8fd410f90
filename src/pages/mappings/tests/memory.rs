//! Files and mappings to look up.

use super::PAGE;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder for files, removed in the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// On a disk, if there is one that is no overlay: files that were just made
    /// there are not taken.
    pub(super) fn new() -> Folder {
        let place = std::env::temp_dir();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let file_system = |path: &Path| {
            let under = |line: &&str| path.starts_with(line.split(' ').nth(1).unwrap());
            let mount = mounts
                .lines()
                .filter(under)
                .max_by_key(|line| line.split(' ').nth(1).unwrap().len());
            mount.unwrap().split(' ').nth(2).unwrap().to_owned()
        };
        match file_system(&place).as_str() {
            "overlay" => Folder::in_memory(),
            _ => Folder::under(&place),
        }
    }

    /// On tmpfs.
    pub(super) fn in_memory() -> Folder {
        Folder::under(Path::new("/dev/shm"))
    }

    fn under(place: &Path) -> Folder {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("rewarm-maps-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Folder(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A new file of so many bytes, each page another.
    pub(super) fn file(&self, name: &str, bytes: usize) -> File {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))
            .unwrap();
        let content: Vec<u8> = (0..bytes).map(|at| (at % 251 + at / PAGE) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A mapping, unmapped in the end.
pub(super) struct Map {
    pub(super) start: usize,
    pub(super) bytes: usize,
}

pub(super) const READ: i32 = libc::PROT_READ;
pub(super) const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

impl Map {
    /// Maps a file from an offset on.
    pub(super) fn of(file: &File, offset: usize, bytes: usize, rights: i32, flags: i32) -> Map {
        Map::new(bytes, rights, flags, file.as_raw_fd(), offset)
    }

    pub(super) fn private(file: &File, bytes: usize) -> Map {
        Map::of(file, 0, bytes, READ_WRITE, libc::MAP_PRIVATE)
    }

    pub(super) fn shared(file: &File, bytes: usize) -> Map {
        Map::of(file, 0, bytes, READ, libc::MAP_SHARED)
    }

    pub(super) fn anonymous(bytes: usize, rights: i32) -> Map {
        Map::new(
            bytes,
            rights,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    }

    fn new(bytes: usize, rights: i32, flags: i32, file: i32, offset: usize) -> Map {
        let start = map_at(0, bytes, rights, flags, file, offset);
        Map { start, bytes }
    }

    /// Maps a file over a part of this.
    pub(super) fn over(&self, at: usize, file: &File, offset: usize, bytes: usize, flags: i32) {
        assert!(at + bytes <= self.bytes);
        let flags = flags | libc::MAP_FIXED;
        map_at(
            self.start + at,
            bytes,
            READ_WRITE,
            flags,
            file.as_raw_fd(),
            offset,
        );
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.part(0..self.bytes)
    }

    pub(super) fn part(&self, part: Range<usize>) -> Range<usize> {
        assert!(part.end <= self.bytes);
        self.start + part.start..self.start + part.end
    }

    pub(super) fn write(&self, at: usize, byte: u8) {
        assert!(write(self.start + at, &[byte]), "not writable at {at}");
    }

    pub(super) fn read(&self) {
        assert!(read(self.range()).is_some());
    }

    pub(super) fn protect(&self, part: Range<usize>, rights: i32) {
        let part = self.part(part);
        // SAFETY: a mapping of ours.
        let failed = unsafe { libc::mprotect(part.start as *mut _, part.len(), rights) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    }

    /// Gives the pages of a part back.
    pub(super) fn drop_pages(&self, part: Range<usize>) {
        let part = self.part(part);
        // SAFETY: a mapping of ours, which no reference points to.
        let failed =
            unsafe { libc::madvise(part.start as *mut _, part.len(), libc::MADV_DONTNEED) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: a mapping of ours, which no reference points to.
        unsafe { libc::munmap(self.start as *mut _, self.bytes) };
    }
}

/// Maps at an address, or anywhere for 0.
pub(super) fn map_at(
    start: usize,
    bytes: usize,
    rights: i32,
    flags: i32,
    file: i32,
    offset: usize,
) -> usize {
    // SAFETY: anywhere, or over a mapping of ours.
    let at = unsafe {
        libc::mmap(
            start as *mut _,
            bytes,
            rights,
            flags,
            file,
            offset as libc::off_t,
        )
    };
    let error = std::io::Error::last_os_error();
    assert_ne!(at, libc::MAP_FAILED, "{error}");
    at as usize
}

/// The bytes of memory; `None` where some cannot be read, which would end the
/// process otherwise.
pub(super) fn read(memory: Range<usize>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; memory.len()];
    let here = vector(bytes.as_mut_ptr() as usize, memory.len());
    let there = vector(memory.start, memory.len());
    // SAFETY: the kernel checks both.
    let read = unsafe { libc::process_vm_readv(libc::getpid(), &here, 1, &there, 1, 0) };
    (read == memory.len() as isize).then_some(bytes)
}

/// Writes to memory, if that is possible.
pub(super) fn write(at: usize, bytes: &[u8]) -> bool {
    let here = vector(bytes.as_ptr() as usize, bytes.len());
    let there = vector(at, bytes.len());
    // SAFETY: the kernel checks both; the memory is a mapping for tests.
    let written = unsafe { libc::process_vm_writev(libc::getpid(), &here, 1, &there, 1, 0) };
    written == bytes.len() as isize
}

fn vector(start: usize, bytes: usize) -> libc::iovec {
    libc::iovec {
        iov_base: start as *mut _,
        iov_len: bytes,
    }
}
