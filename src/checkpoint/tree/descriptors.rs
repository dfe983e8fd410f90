//! What a process has open: `/proc/PID/fd`.

use crate::proc::numbers_in;
use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An open file of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number.
    pub number: u32,
    /// What `/proc` names it.
    pub link: PathBuf,
    /// Its inode.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// What it is open for.
    pub access: Access,
}

/// What a file is open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading alone.
    Read,
    /// Writing, and maybe reading.
    Write,
    /// Writing at its end alone, as to a log.
    Append,
}

/// Kinds of open files, as far as CRIU tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file or folder that has its name.
    File,
    /// A regular file that has lost it.
    Deleted {
        /// Its length in bytes.
        bytes: u64,
        /// Whether it has other names.
        is_linked: bool,
    },
    /// Memory without a file, see memfd_create(2).
    Memory,
    /// Memory in huge pages.
    HugeMemory,
    /// A pipe, with a name or without.
    Pipe,
    /// A socket, and its protocol's name.
    Socket {
        /// Such as `TCP` or `UNIX-STREAM`.
        protocol: String,
    },
    /// A character or block device.
    Device {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// What is in no file system, such as `[eventfd]`.
    Anonymous(String),
}

const DELETED: &str = " (deleted)";

/// See statfs(2).
const HUGETLBFS_MAGIC: i64 = 0x958458f6;

/// Everything that a process has open.
pub(super) fn of(pid: u32) -> Vec<Descriptor> {
    let folder = format!("/proc/{pid}/fd");
    let numbers = numbers_in(&folder);
    let look = |number: u32| {
        let path = PathBuf::from(format!("{folder}/{number}"));
        let link = fs::read_link(&path).ok()?;
        let (kind, inode) = kind(&path, &link)?;
        let access = access(&format!("/proc/{pid}/fdinfo/{number}"))?;
        Some(Descriptor {
            number,
            link,
            inode,
            kind,
            access,
        })
    };
    numbers.into_iter().filter_map(look).collect()
}

/// From the flags that a file was opened with, see proc_pid_fdinfo(5).
fn access(path: &str) -> Option<Access> {
    let text = fs::read_to_string(path).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    Some(match flags & libc::O_ACCMODE {
        libc::O_RDONLY => Access::Read,
        libc::O_WRONLY if flags & libc::O_APPEND != 0 => Access::Append,
        _ => Access::Write,
    })
}

/// What a link of `/proc` leads to, and its inode.
pub(super) fn kind(path: &Path, link: &Path) -> Option<(Kind, u64)> {
    let name = link.to_string_lossy();
    let found = fs::metadata(path).ok()?;
    let inode = found.ino();
    if let Some(kind) = name.strip_prefix("anon_inode:") {
        return Some((Kind::Anonymous(kind.to_owned()), inode));
    }
    let file_type = found.file_type();
    let kind = if file_type.is_socket() {
        let protocol = protocol(path).unwrap_or_default();
        Kind::Socket { protocol }
    } else if file_type.is_fifo() {
        Kind::Pipe
    } else if file_type.is_char_device() || file_type.is_block_device() {
        let device = found.rdev();
        Kind::Device {
            major: libc::major(device),
            minor: libc::minor(device),
        }
    } else if name.starts_with("/memfd:") || name.starts_with("/anon_hugepage") {
        match is_huge(path) {
            true => Kind::HugeMemory,
            false => Kind::Memory,
        }
    } else if name.ends_with(DELETED) {
        Kind::Deleted {
            bytes: found.len(),
            is_linked: found.nlink() > 0,
        }
    } else {
        Kind::File
    };
    Some((kind, inode))
}

/// The protocol of a socket, as the kernel names it.
fn protocol(path: &Path) -> Option<String> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut name = [0u8; 64];
    let attribute = c"system.sockprotoname";
    // SAFETY: two strings, and a buffer with its length.
    let bytes = unsafe {
        let buffer = name.as_mut_ptr().cast();
        libc::getxattr(path.as_ptr(), attribute.as_ptr(), buffer, name.len())
    };
    let name = name.get(..usize::try_from(bytes).ok()?)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn is_huge(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut found = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: a string, and a structure that the call fills.
    let code = unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) };
    // SAFETY: valid when zeroed, and filled since.
    code == 0 && unsafe { found.assume_init() }.f_type == HUGETLBFS_MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::fd::{AsRawFd, RawFd};

    fn own(descriptor: RawFd) -> Descriptor {
        let all = of(std::process::id());
        let is_it = |one: &Descriptor| one.number == descriptor as u32;
        all.into_iter().find(is_it).unwrap()
    }

    #[test]
    fn open_files_are_told_apart() {
        let null = File::open("/dev/null").unwrap();
        let is = Kind::Device { major: 1, minor: 3 };
        assert_eq!(own(null.as_raw_fd()).kind, is);
        let folder = File::open("/proc/self").unwrap();
        assert_eq!(own(folder.as_raw_fd()).kind, Kind::File);
        let (end, _other) = std::io::pipe().unwrap();
        assert_eq!(own(end.as_raw_fd()).kind, Kind::Pipe);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let protocol = "UDP".to_owned();
        assert_eq!(own(socket.as_raw_fd()).kind, Kind::Socket { protocol });
    }

    #[test]
    fn a_file_that_is_removed_is_told_with_its_length() {
        let path = std::env::temp_dir().join(format!("rewarm-removed-{}", std::process::id()));
        fs::write(&path, b"12345").unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let is = Kind::Deleted {
            bytes: 5,
            is_linked: false,
        };
        assert_eq!(own(file.as_raw_fd()).kind, is);
    }

    #[test]
    fn what_a_file_is_open_for_is_told() {
        let path = std::env::temp_dir().join(format!("rewarm-access-of-{}", std::process::id()));
        let written = File::create(&path).unwrap();
        let appended = File::options().append(true).open(&path).unwrap();
        let read = File::open(&path).unwrap();
        let both = File::options().append(true).read(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let access = |file: &File| own(file.as_raw_fd()).access;
        assert_eq!(access(&written), Access::Write);
        assert_eq!(access(&appended), Access::Append);
        assert_eq!(access(&read), Access::Read);
        assert_eq!(access(&both), Access::Write);
    }
}
