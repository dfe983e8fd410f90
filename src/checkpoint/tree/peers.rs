//! Which unix sockets are connected with each other: sock_diag(7).

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Constants and structures of `linux/sock_diag.h` and `linux/unix_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_PEER: u16 = 2;
const ALL_STATES: u32 = u32::MAX;
const HEADER: usize = size_of::<libc::nlmsghdr>();
/// Length of `struct unix_diag_msg`, and where its inode is.
const MESSAGE: usize = 16;
const INODE_AT: usize = 4;

#[repr(C)]
struct Request {
    header: libc::nlmsghdr,
    family: u8,
    protocol: u8,
    pad: u16,
    states: u32,
    inode: u32,
    show: u32,
    cookie: [u32; 2],
}

/// Inodes of connected unix sockets of this network namespace, and of their peers.
pub(super) fn unix() -> io::Result<Vec<(u64, u64)>> {
    // SAFETY: no pointers.
    let socket = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG)
    };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    ask(&socket)?;
    let mut found = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        // SAFETY: a buffer with its length.
        let bytes = unsafe {
            let start = buffer.as_mut_ptr().cast();
            libc::recv(socket.as_raw_fd(), start, buffer.len(), 0)
        };
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
        if bytes == 0 || !read_messages(&buffer[..bytes], &mut found) {
            return Ok(found);
        }
    }
}

fn ask(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: a structure of numbers.
    let mut request: Request = unsafe { zeroed() };
    request.header.nlmsg_len = size_of::<Request>() as u32;
    request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
    request.header.nlmsg_flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request.family = libc::AF_UNIX as u8;
    request.states = ALL_STATES;
    request.show = UDIAG_SHOW_PEER;
    // SAFETY: a structure with its length.
    let sent = unsafe {
        let start = (&raw const request).cast();
        libc::send(socket.as_raw_fd(), start, size_of::<Request>(), 0)
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether more is to come.
fn read_messages(mut bytes: &[u8], found: &mut Vec<(u64, u64)>) -> bool {
    while bytes.len() >= HEADER {
        let (length, kind) = (u32_at(bytes, 0) as usize, u16_at(bytes, 4));
        if length < HEADER || length > bytes.len() || kind != SOCK_DIAG_BY_FAMILY {
            return false;
        }
        let message = &bytes[HEADER..length];
        if message.len() >= MESSAGE {
            let inode = u32_at(message, INODE_AT);
            let peer = peer_in(&message[MESSAGE..]);
            found.extend(peer.map(|peer| (u64::from(inode), u64::from(peer))));
        }
        bytes = &bytes[aligned(length).min(bytes.len())..];
    }
    true
}

fn peer_in(mut attributes: &[u8]) -> Option<u32> {
    const HEAD: usize = 4;
    while attributes.len() >= HEAD {
        let (length, kind) = (u16_at(attributes, 0) as usize, u16_at(attributes, 2));
        let value = attributes.get(HEAD..length)?;
        if kind == UNIX_DIAG_PEER && value.len() >= 4 {
            return Some(u32_at(value, 0));
        }
        attributes = &attributes[aligned(length).min(attributes.len())..];
    }
    None
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
