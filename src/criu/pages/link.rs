//! Messages with descriptors over unix sockets (unix(7)).

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// Most descriptors of one message.
const MOST: usize = 4;

/// Longest message between our own processes, in bytes.
const LONGEST: usize = 16 << 10;

/// What arrived.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) bytes: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// The process that sent it, as it is called here; where the socket asks for it.
    pub(super) sender: Option<libc::pid_t>,
}

/// Receives at most a buffer's length; no bytes are the end.
///
/// # Errors
/// The system's; and more descriptors than anybody sends here.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u64; 32];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut header = header(&mut part);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control);
    let got = loop {
        // SAFETY: the header names buffers that live here.
        let got =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        if got >= 0 {
            break got as usize;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let mut received = Received {
        bytes: got,
        ..Received::default()
    };
    // SAFETY: the system filled the header and the control buffer.
    unsafe { take_control(&header, &mut received) };
    if header.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
        return Err(io::Error::other("a message longer than any that is sent"));
    }
    Ok(received)
}

/// # Safety
/// The header is one that `recvmsg` filled, and its buffers live.
unsafe fn take_control(header: &libc::msghdr, received: &mut Received) {
    // SAFETY: as the caller says; the macros stay within the control buffer.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            let bytes = (*control).cmsg_len - libc::CMSG_LEN(0) as usize;
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for index in 0..bytes / mem::size_of::<RawFd>() {
                        let raw = ptr::read_unaligned(data.cast::<RawFd>().add(index));
                        received.descriptors.push(OwnedFd::from_raw_fd(raw));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
                    if bytes >= mem::size_of::<libc::ucred>() =>
                {
                    let sender = ptr::read_unaligned(data.cast::<libc::ucred>());
                    received.sender = Some(sender.pid);
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}

fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: numbers and null pointers.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header
}

/// One end between two processes of ours: whole messages, in order.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn pair() -> io::Result<(Link, Link)> {
        let mut ends = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: room for two descriptors.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh, and nobody else's.
        Ok(unsafe { ends.map(|end| Link(OwnedFd::from_raw_fd(end))) }.into())
    }

    /// Takes a descriptor that is one end.
    pub(super) fn new(end: OwnedFd) -> Link {
        Link(end)
    }

    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The system's; `EPIPE` if the other end is gone.
    pub(super) fn send(
        &self,
        message: &impl serde::Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        assert!(descriptors.len() <= MOST);
        let mut bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST {
            return Err(io::Error::other("a message that is too long"));
        }
        let mut part = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut control = [0u64; 32];
        let mut header = header(&mut part);
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        if !raw.is_empty() {
            let length = mem::size_of_val(raw.as_slice()) as u32;
            header.msg_control = control.as_mut_ptr().cast();
            // SAFETY: the control buffer has room for `MOST` descriptors.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(length) as usize;
                let first = libc::CMSG_FIRSTHDR(&header);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(length) as usize;
                ptr::copy_nonoverlapping(
                    raw.as_ptr().cast::<u8>(),
                    libc::CMSG_DATA(first),
                    length as usize,
                );
            }
        }
        loop {
            // SAFETY: the header names buffers that live here.
            let sent =
                unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Receives one message; `None` when the other end is gone.
    ///
    /// # Errors
    /// The system's, and what is not such a message.
    pub(super) fn receive<T: serde::de::DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut buffer = vec![0; LONGEST];
        let received = receive(self.0.as_fd(), &mut buffer)?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&buffer[..received.bytes])?;
        Ok(Some((message, received.descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (one, other) = Link::pair().unwrap();
        let file = File::open("Cargo.toml").unwrap();
        one.send(&"hello", &[file.as_fd()]).unwrap();
        one.send(&7u32, &[]).unwrap();
        drop(one);
        let (text, mut descriptors) = other.receive::<String>().unwrap().unwrap();
        assert_eq!(text, "hello");
        let mut read = String::new();
        let mut sent = File::from(descriptors.pop().unwrap());
        sent.read_to_string(&mut read).unwrap();
        assert!(read.contains("rewarm"));
        assert_eq!(other.receive::<u32>().unwrap().unwrap().0, 7);
        assert!(other.receive::<u32>().unwrap().is_none());
    }

    #[test]
    fn garbage_is_an_error() {
        let (one, other) = Link::pair().unwrap();
        one.send(&"x", &[]).unwrap();
        assert!(other.receive::<u32>().is_err());
    }
}
