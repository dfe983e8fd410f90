//! CRIU's side: `lazy-pages.socket` (`criu/uffd.c`).
//!
//! One connection. For each process its number as the images have it, in 32 bits
//! with a sign: negative for a zombie, of which nothing more comes. Then one byte
//! with the process's userfaultfd. After all of them, a last word. No answer is
//! expected.

use super::PagesError;
use super::link;
use crate::config::effective_uid;
use crate::control;
use crate::pidfd::Pidfd;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "lazy-pages.socket";

/// The word after the last process (`LAZY_PAGES_RESTORE_FINISHED`).
const FINISHED: u32 = 0x5253_5446;

/// Where CRIU finds its page server.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    path: PathBuf,
}

/// What CRIU says.
#[derive(Debug)]
pub(super) enum Said {
    /// A process to fill.
    Task {
        /// As the images have it.
        pid: i32,
        /// As it is called here.
        real: u32,
        uffd: OwnedFd,
    },
    /// All processes are at their place.
    Finished,
}

impl Door {
    /// Opens it in CRIU's work folder, in place of one that is left there.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(work: &Path) -> Result<Door, PagesError> {
        let path = work.join(NAME);
        let listener = bind(work, &path);
        let listener =
            listener.map_err(|error| PagesError::system(path.display().to_string(), error))?;
        Ok(Door { listener, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Whether somebody has come within the limit.
    pub(super) fn waits(&self, limit: Duration) -> bool {
        is_readable(&self.listener, limit)
    }

    /// Lets CRIU in, and tells which process that is; `None` if it cannot be seen.
    ///
    /// # Errors
    /// The system's; and somebody who is neither root nor this process's user: what he
    /// hands over would be filled with others' memory.
    pub(super) fn accept(&self) -> io::Result<(UnixStream, Option<Pidfd>)> {
        let (stream, _) = self.listener.accept()?;
        let peer = control::socket::peer(&stream)?;
        if peer.uid != 0 && peer.uid != effective_uid() {
            let text = format!("user {} has connected, who may not", peer.uid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let pid = u32::try_from(peer.pid).ok().filter(|pid| *pid > 0);
        Ok((stream, pid.and_then(|pid| Pidfd::open(pid).ok())))
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Who has come to a listening socket and was not let in.
pub(super) fn accept_waiting(listener: OwnedFd) -> Option<UnixStream> {
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true).ok()?;
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// Has its name only when it listens: who sees it may connect.
fn bind(work: &Path, path: &Path) -> io::Result<UnixListener> {
    let is_taken = |found: fs::Metadata| !found.file_type().is_socket();
    if fs::symlink_metadata(path).is_ok_and(is_taken) {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    let name = format!(".{NAME}.{}", std::process::id());
    let made = work.join(&name);
    let _ = fs::remove_file(&made);
    let listener = bind_in(work, &name)?;
    let named = fs::set_permissions(&made, PermissionsExt::from_mode(0o600))
        .and_then(|()| have_credentials_passed(&listener))
        .and_then(|()| fs::rename(&made, path));
    if named.is_err() {
        let _ = fs::remove_file(&made);
    }
    named.map(|()| listener)
}

/// By way of the open folder: names of sockets are short.
fn bind_in(work: &Path, name: &str) -> io::Result<UnixListener> {
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(work)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Connections inherit it.
fn have_credentials_passed(listener: &UnixListener) -> io::Result<()> {
    let yes: libc::c_int = 1;
    // SAFETY: an open socket, an integer.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSCRED,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until there is something to read.
pub(super) fn is_readable(socket: &impl AsRawFd, limit: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure.
    unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as libc::c_int) == 1 }
}

/// The next thing that CRIU says; zombies are passed over.
///
/// # Errors
/// The system's, an early end, and what is not the protocol.
pub(super) fn next(stream: &UnixStream) -> Result<Said, PagesError> {
    loop {
        let word = word(stream)?;
        if word == FINISHED {
            return Ok(Said::Finished);
        }
        let pid = word as i32;
        if pid < 0 {
            continue;
        }
        let mut byte = [0];
        let mut received = link::receive(stream.as_fd(), &mut byte).map_err(failed)?;
        let real = received.sender.and_then(|pid| u32::try_from(pid).ok());
        let (1, Some(uffd), true, Some(real @ 1..)) = (
            received.bytes,
            received.descriptors.pop(),
            received.descriptors.is_empty(),
            real,
        ) else {
            let text = format!("process {pid} comes without its userfaultfd");
            return Err(PagesError::Protocol(text));
        };
        return Ok(Said::Task { pid, real, uffd });
    }
}

fn word(stream: &UnixStream) -> Result<u32, PagesError> {
    let mut word = [0; 4];
    let mut got = 0;
    while got < word.len() {
        let received = link::receive(stream.as_fd(), &mut word[got..]).map_err(failed)?;
        if received.bytes == 0 {
            return Err(PagesError::CriuEnded);
        }
        if !received.descriptors.is_empty() {
            let text = "a userfaultfd of no process";
            return Err(PagesError::Protocol(text.into()));
        }
        got += received.bytes;
    }
    Ok(u32::from_ne_bytes(word))
}

fn failed(error: io::Error) -> PagesError {
    PagesError::system("lazy-pages.socket", error)
}
