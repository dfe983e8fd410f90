//! What std lacks of unix sockets.

use crate::descriptors::out_of_the_way;
use std::io::{self, Read, Write};
use std::mem::{ManuallyDrop, MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// The process at the other end, as it was when it connected or began to listen.
pub(crate) fn peer(stream: &UnixStream) -> io::Result<libc::ucred> {
    let mut peer = MaybeUninit::<libc::ucred>::uninit();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel fills at most `length` bytes of `peer`.
    let failed = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            peer.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the successful call.
    Ok(unsafe { peer.assume_init() })
}

/// Connects, and gives up after a while: the queue of a stopped process fills up.
pub(super) fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let name = path.as_os_str().as_bytes();
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    if name.len() >= address.sun_path.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path is too long for a socket",
        ));
    }
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    // SAFETY: has no requirements.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    stream.set_write_timeout(Some(limit))?;
    // SAFETY: a whole address of the size given.
    let failed = unsafe {
        libc::connect(
            fd,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if failed == 0 {
        Ok(stream)
    } else {
        Err(named(io::Error::last_os_error()))
    }
}

/// A descriptor in a process that may close any descriptor it did not open
/// itself, and then use its number for something else.
#[derive(Debug)]
pub(super) struct Guarded<T: AsRawFd> {
    file: ManuallyDrop<T>,
    identity: Option<Identity>,
}

impl<T: AsRawFd + From<OwnedFd> + Into<OwnedFd>> Guarded<T> {
    /// Moves it out of the application's way, too.
    pub(super) fn new(file: T) -> Guarded<T> {
        let file = T::from(out_of_the_way(file.into()));
        Guarded {
            identity: identity(file.as_raw_fd()),
            file: ManuallyDrop::new(file),
        }
    }
}

impl<T: AsRawFd> Guarded<T> {
    /// The file, if the number still stands for it.
    pub(super) fn get(&self) -> Option<&T> {
        let is_ours = self.identity.is_some() && identity(self.fd()) == self.identity;
        is_ours.then(|| &*self.file)
    }

    fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Closes the descriptor. A socket goes on in processes that share it.
    pub(super) fn close(&self) {
        if self.get().is_some() {
            // SAFETY: our own open descriptor; nobody uses it any more.
            unsafe { libc::close(self.fd()) };
        }
    }
}

impl<T: AsRawFd> Drop for Guarded<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener(Guarded<UnixListener>);

/// What [`Listener::wait`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// A client waits to be accepted.
    Client,
    /// The time is over.
    Nothing,
    /// The socket was shut down, or is no longer ours.
    Closed,
}

impl Listener {
    pub(super) fn new(listener: UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener(Guarded::new(listener)))
    }

    /// Waits for a client, for as long as it takes without a limit.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Wait {
        let limit = limit.map_or(-1, |limit| limit.as_millis().min(1 << 30) as libc::c_int);
        let (ready, found) = poll(self.0.fd(), libc::POLLIN, limit);
        if self.0.get().is_none() || found & (libc::POLLHUP | libc::POLLERR) != 0 {
            Wait::Closed
        } else if ready {
            Wait::Client
        } else {
            Wait::Nothing
        }
    }

    /// Takes a client off the queue.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept4(self.0.fd(), null_mut(), null_mut(), libc::SOCK_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(unsafe { UnixStream::from_raw_fd(fd) })
    }

    /// Wakes a [`Listener::wait`], and ends the service for all who share it.
    pub(super) fn shut_down(&self) {
        if let Some(listener) = self.0.get() {
            // SAFETY: our own open descriptor.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
    }

    /// Closes the descriptor. The socket goes on in processes that share it.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

/// What the other end of a connection that is only written to would do with a
/// message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A small message fits, and leaves room for more.
    Ready,
    /// It has not read for long.
    Full,
    /// It is gone, or the descriptor is no longer ours.
    Gone,
}

pub(super) fn reach(client: &Guarded<UnixStream>) -> Reach {
    let (_, found) = poll(client.fd(), libc::POLLOUT, 0);
    if client.get().is_none() || found & (libc::POLLHUP | libc::POLLERR) != 0 {
        Reach::Gone
    } else if found & libc::POLLOUT != 0 {
        Reach::Ready
    } else {
        Reach::Full
    }
}

/// Whether something happened within so many milliseconds (negative: no limit), and what.
fn poll(fd: RawFd, events: libc::c_short, limit: libc::c_int) -> (bool, libc::c_short) {
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one valid entry.
    let ready = unsafe { libc::poll(&mut entry, 1, limit) };
    (ready > 0, entry.revents)
}

/// Tells one open file from another.
#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// By the name that it listens under: a socket that CRIU restores has another
    /// inode than before.
    Listener(PathBuf),
    /// By device and inode.
    Inode(u64, u64),
}

fn identity(fd: RawFd) -> Option<Identity> {
    if let Some(path) = listens_under(fd) {
        return Some(Identity::Listener(path));
    }
    let mut found = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: filled by the call; a closed descriptor is an error.
    if unsafe { libc::fstat(fd, found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: filled by the successful call.
    let found = unsafe { found.assume_init() };
    Some(Identity::Inode(found.st_dev, found.st_ino))
}

/// The path of a unix socket that listens. Those that it accepts have the same.
fn listens_under(fd: RawFd) -> Option<PathBuf> {
    let mut listens: libc::c_int = 0;
    let mut length = size_of_val(&listens) as libc::socklen_t;
    // SAFETY: the kernel fills at most `length` bytes; what is no socket is an error.
    let failed = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut listens).cast(),
            &mut length,
        )
    };
    if failed != 0 || listens == 0 {
        return None;
    }
    // SAFETY: open, as just seen; never closed from here.
    let listener = ManuallyDrop::new(unsafe { UnixListener::from_raw_fd(fd) });
    Some(listener.local_addr().ok()?.as_pathname()?.to_owned())
}

/// Whether a process of that pid exists.
pub(super) fn is_alive(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: signal 0 only asks whether the process exists.
    let found = unsafe { libc::kill(pid, 0) } == 0;
    found || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// A conversation that ends in time, however slowly the other side speaks.
pub(super) struct Timed<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl<'a> Timed<'a> {
    pub(super) fn new(stream: &'a UnixStream, limit: Duration) -> Timed<'a> {
        Timed {
            stream,
            end: Instant::now() + limit,
        }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(Some(left))
        }
    }
}

/// The kernel's word for a socket's timeout is "try again".
fn named(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(named)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
