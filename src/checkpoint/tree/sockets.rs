//! The sockets of network namespaces: `/proc/PID/net`, see proc_pid_net(5).

use super::peers;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A socket, by what decides how CRIU saves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// TCP, waiting for connections.
    TcpListening,
    /// TCP, connected or in between.
    TcpConnected {
        /// Address and port of this end, in the kernel's hexadecimal digits.
        local: String,
        /// The same of the other end.
        remote: String,
    },
    /// A unix socket.
    Unix {
        /// Whether it is a stream or a sequence of packets, which cannot be cut.
        is_stream: bool,
        /// Inode of the other end, if it is connected and the kernel tells.
        peer: Option<u64>,
    },
}

/// See tcp_states.h of the kernel.
const TCP_CLOSE: u8 = 7;
const TCP_LISTEN: u8 = 10;

/// The sockets that the processes' network namespaces have, by inode.
pub(super) fn of(pids: &[u32]) -> HashMap<u64, Socket> {
    let mut seen = HashSet::new();
    let mut found = HashMap::new();
    for pid in pids {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/net"));
        let Ok(namespace) = namespace.map(|found| found.ino()) else {
            continue;
        };
        if !seen.insert(namespace) {
            continue;
        }
        let read = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}"));
        for name in ["tcp", "tcp6"] {
            let text = read(name).unwrap_or_default();
            found.extend(text.lines().skip(1).filter_map(tcp));
        }
        let text = read("unix").unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(unix));
    }
    // Who is connected with whom is only told in the own namespace.
    for (inode, other) in peers::unix().unwrap_or_default() {
        if let Some(Socket::Unix { peer, .. }) = found.get_mut(&inode) {
            *peer = Some(other);
        }
    }
    found
}

fn tcp(line: &str) -> Option<(u64, Socket)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    let inode = fields.get(9)?.parse().ok()?;
    match state {
        TCP_LISTEN => Some((inode, Socket::TcpListening)),
        TCP_CLOSE => None,
        _ => {
            let (local, remote) = (address(fields[1]), address(fields[2]));
            Some((inode, Socket::TcpConnected { local, remote }))
        }
    }
}

/// Of IPv4 in IPv6, that of IPv4: the other end may be a socket of either.
fn address(told: &str) -> String {
    const MAPPED: &str = "0000000000000000FFFF0000";
    told.strip_prefix(MAPPED).unwrap_or(told).to_owned()
}

fn unix(line: &str) -> Option<(u64, Socket)> {
    const DATAGRAM: u32 = 2;
    let mut fields = line.split_whitespace();
    let kind = u32::from_str_radix(fields.nth(4)?, 16).ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let socket = Socket::Unix {
        is_stream: kind != DATAGRAM,
        peer: None,
    };
    Some((inode, socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn own(descriptor: &impl AsRawFd) -> (u64, Option<Socket>) {
        let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let inode = fs::metadata(path).unwrap().ino();
        (inode, of(&[std::process::id()]).remove(&inode))
    }

    #[test]
    fn tcp_sockets_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(own(&listener).1, Some(Socket::TcpListening));
        let (accepted, _) = listener.accept().unwrap();
        let ends = |stream| match own(stream).1 {
            Some(Socket::TcpConnected { local, remote }) => (local, remote),
            other => panic!("{other:?}"),
        };
        let ((one, other), (far, near)) = (ends(&stream), ends(&accepted));
        assert_eq!((one, other), (near, far));
    }

    #[test]
    fn ends_of_both_families_find_each_other() {
        let old = address("0100007F:1F90");
        assert_eq!(address("0000000000000000FFFF00000100007F:1F90"), old);
    }

    #[test]
    fn the_other_end_of_a_unix_socket_is_found() {
        let (one, other) = UnixStream::pair().unwrap();
        let socket = Socket::Unix {
            is_stream: true,
            peer: Some(own(&other).0),
        };
        assert_eq!(own(&one).1, Some(socket));
    }
}
