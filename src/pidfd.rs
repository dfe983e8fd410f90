//! A process that stays the same whatever becomes of its number: pidfd_open(2).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// A process.
#[derive(Debug)]
pub struct Pidfd {
    pid: u32,
    descriptor: OwnedFd,
}

impl Pidfd {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// The system's: there is no such process.
    pub fn open(pid: u32) -> io::Result<Pidfd> {
        // SAFETY: a system call with integers.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh, and nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(opened) };
        Ok(Pidfd { pid, descriptor })
    }

    /// What somebody else has opened.
    pub fn from_descriptor(pid: u32, descriptor: OwnedFd) -> Pidfd {
        Pidfd { pid, descriptor }
    }

    /// Its number here, as long as it is there.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The descriptor.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Sends it a signal, and tells whether it lives.
    pub fn signal(&self, signal: libc::c_int) -> bool {
        let (raw, none) = (
            self.descriptor.as_raw_fd(),
            std::ptr::null::<libc::siginfo_t>(),
        );
        // SAFETY: an open descriptor, no information.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw, signal, none, 0) == 0 }
    }

    /// Whether it has ended within the limit.
    pub fn has_ended(&self, limit: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.descriptor.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure.
        unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as libc::c_int) == 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_signal_goes_to_nobody_else() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Pidfd::open(child.id()).unwrap();
        assert!(!process.has_ended(Duration::ZERO));
        assert!(process.signal(libc::SIGKILL));
        assert!(process.has_ended(Duration::from_secs(60)));
        child.wait().unwrap();
        assert!(!process.signal(0) && Pidfd::open(child.id()).is_err());
    }
}
