//! userfaultfd: the system calls (ioctl_userfaultfd(2), `linux/userfaultfd.h`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub(super) const API: libc::c_ulong = 0xc018_aa3f;
const WAKE: libc::c_ulong = 0x8010_aa02;
const COPY: libc::c_ulong = 0xc028_aa03;
const ZEROPAGE: libc::c_ulong = 0xc020_aa04;

/// `UFFD_API`.
const VERSION: u64 = 0xaa;

/// Events of fork, remap, remove and unmap, as CRIU asks for them.
const EVENTS: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

/// Size of a message, in bytes.
const MESSAGE: usize = 32;

/// Messages that are read at once. More than one: the system gives faults first,
/// and an event behind them must not starve.
const MESSAGES: usize = 64;

/// What a process whose pages are missing has to say.
#[derive(Debug)]
pub(super) enum Message {
    /// A thread waits for the page at an address.
    Fault(u64),
    /// It forked; the child's own descriptor.
    Fork(OwnedFd),
    /// Pages moved.
    Remap { from: u64, to: u64, bytes: u64 },
    /// Pages were given back, or their mapping is gone: what comes there next is
    /// zero.
    Gone { begin: u64, end: u64 },
}

/// A process's descriptor.
#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

/// What became of a request to fill pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// So many bytes were.
    Bytes(u64),
    /// The address space is changing: read what it says, then ask again.
    Changing,
    /// The first page is there already.
    Present,
    /// No mapping that this descriptor serves, or more than one.
    NotOneMapping,
    /// The process has ended.
    Ended,
}

impl Uffd {
    /// Takes a descriptor, and has reading from it never wait.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Uffd> {
        let raw = descriptor.as_raw_fd();
        // SAFETY: an open descriptor, integers only.
        let done = unsafe {
            let flags = libc::fcntl(raw, libc::F_GETFL);
            libc::fcntl(raw, libc::F_SETFL, flags | libc::O_NONBLOCK)
        };
        match done {
            0 => Ok(Uffd(descriptor)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// Copies bytes to missing pages, and wakes who waits for them.
    ///
    /// # Errors
    /// What says nothing about the pages: no memory, for one.
    pub(super) fn copy(&self, to: u64, bytes: &[u8]) -> io::Result<Filled> {
        #[repr(C)]
        struct Copy {
            to: u64,
            from: u64,
            bytes: u64,
            mode: u64,
            copied: i64,
        }
        let mut request = Copy {
            to,
            from: bytes.as_ptr() as u64,
            bytes: bytes.len() as u64,
            mode: 0,
            copied: 0,
        };
        let error = self.ask(COPY, &mut request).err();
        outcome(error, request.copied, request.bytes)
    }

    /// Makes missing pages zero, and wakes who waits for them.
    ///
    /// # Errors
    /// As [`Uffd::copy`].
    pub(super) fn zero(&self, begin: u64, bytes: u64) -> io::Result<Filled> {
        #[repr(C)]
        struct Zero {
            begin: u64,
            bytes: u64,
            mode: u64,
            done: i64,
        }
        let mut request = Zero {
            begin,
            bytes,
            mode: 0,
            done: 0,
        };
        let error = self.ask(ZEROPAGE, &mut request).err();
        outcome(error, request.done, bytes)
    }

    /// Has who waits for pages look again.
    pub(super) fn wake(&self, begin: u64, bytes: u64) {
        // Of a process that has ended, nobody waits.
        let _ = self.ask(WAKE, &mut [begin, bytes]);
    }

    fn ask<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        ask(self.0.as_raw_fd(), request, argument)
    }

    /// Takes what there is to read, at most so much that more may be left.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn read(&self) -> io::Result<Vec<Message>> {
        let mut buffer = [0u8; MESSAGE * MESSAGES];
        // SAFETY: the system writes into the buffer, at most its length.
        let got = unsafe { libc::read(self.raw(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(Vec::new()),
                _ => Err(error),
            };
        }
        let messages = buffer[..got as usize].chunks_exact(MESSAGE);
        messages.map(parse).collect()
    }
}

/// A message, from `struct uffd_msg`: a byte that says what it is, and three
/// numbers from the eighth byte on.
fn parse(message: &[u8]) -> io::Result<Message> {
    let number = |index: usize| {
        let bytes = &message[8 + 8 * index..][..8];
        u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
    };
    match message[0] {
        0x12 => Ok(Message::Fault(number(1))),
        0x13 => {
            let descriptor = number(0) as u32 as RawFd;
            // SAFETY: the system opened it for this message alone.
            Ok(Message::Fork(unsafe { OwnedFd::from_raw_fd(descriptor) }))
        }
        0x14 => Ok(Message::Remap {
            from: number(0),
            to: number(1),
            bytes: number(2),
        }),
        0x15 | 0x16 => Ok(Message::Gone {
            begin: number(0),
            end: number(1),
        }),
        event => Err(io::Error::other(format!(
            "userfaultfd: unknown event {event:#x}"
        ))),
    }
}

fn outcome(error: Option<io::Error>, done: i64, asked: u64) -> io::Result<Filled> {
    let Some(error) = error else {
        return Ok(Filled::Bytes(asked));
    };
    if done > 0 {
        return Ok(Filled::Bytes(done as u64));
    }
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => Ok(Filled::Changing),
        Some(libc::EEXIST) => Ok(Filled::Present),
        Some(libc::ENOENT) => Ok(Filled::NotOneMapping),
        // ENOSPC: before Linux 4.13.
        Some(libc::ESRCH | libc::ENOSPC) => Ok(Filled::Ended),
        _ => Err(error),
    }
}

pub(super) fn ask<T>(
    descriptor: RawFd,
    request: libc::c_ulong,
    argument: &mut T,
) -> io::Result<()> {
    // SAFETY: every request here is given the structure that it is defined with.
    match unsafe { libc::ioctl(descriptor, request, argument as *mut T) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether processes can be restored with pages to come later, here and by this
/// user.
///
/// # Errors
/// Why not.
pub fn can_serve() -> Result<(), String> {
    let descriptor = open().map_err(|error| {
        let advice = match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel has none",
            Some(libc::EPERM | libc::EACCES) => {
                "it takes root or CAP_SYS_PTRACE, and a container's seccomp profile that allows it"
            }
            _ => "the system refuses it",
        };
        format!("userfaultfd cannot be used here ({error}): {advice}")
    })?;
    let mut api = [VERSION, EVENTS, 0];
    ask(descriptor.as_raw_fd(), API, &mut api)
        .map_err(|error| format!("userfaultfd has no events of address spaces here ({error})"))
}

/// As CRIU does: it does not know `/dev/userfaultfd`.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: a system call with integers.
    let opened = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) } as RawFd;
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}
