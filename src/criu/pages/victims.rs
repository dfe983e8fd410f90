//! Processes that must not live on when their pages cannot come.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How long processes take to die, at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process, whatever becomes of its number.
#[derive(Debug)]
pub(super) struct Victim {
    /// Its number here.
    pub(super) pid: u32,
    pidfd: OwnedFd,
}

impl Victim {
    /// # Errors
    /// The system's: there is no such process.
    pub(super) fn new(pid: u32) -> io::Result<Victim> {
        // SAFETY: a system call with integers.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd;
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fresh, and nobody else's.
        let pidfd = unsafe { OwnedFd::from_raw_fd(opened) };
        Ok(Victim { pid, pidfd })
    }

    pub(super) fn from_pidfd(pid: u32, pidfd: OwnedFd) -> Victim {
        Victim { pid, pidfd }
    }

    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Whether it lives.
    fn signal(&self, signal: libc::c_int) -> bool {
        let (raw, none) = (self.pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: an open descriptor, no information.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw, signal, none, 0) == 0 }
    }

    fn has_died(&self, limit: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.pidfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure.
        unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as libc::c_int) == 1 }
    }
}

/// Kills processes and all that descends from them, and waits until they are dead.
/// They are stopped first, so that none has another child meanwhile.
pub(super) fn kill(victims: &[Victim]) {
    let mut descendants: Vec<Victim> = Vec::new();
    let mut known: HashSet<_> = victims
        .iter()
        .filter(|victim| victim.signal(libc::SIGSTOP))
        .map(|victim| victim.pid)
        .collect();
    loop {
        let found = children_of(&known);
        if found.is_empty() {
            break;
        }
        for pid in found {
            known.insert(pid);
            if let Ok(child) = Victim::new(pid) {
                child.signal(libc::SIGSTOP);
                descendants.push(child);
            }
        }
    }
    let all = || victims.iter().chain(&descendants);
    for victim in all() {
        victim.signal(libc::SIGKILL);
    }
    let until = Instant::now() + PATIENCE;
    for victim in all() {
        victim.has_died(until.saturating_duration_since(Instant::now()));
    }
}

/// Children of the processes that are not among them.
fn children_of(known: &HashSet<u32>) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| !known.contains(pid))
        .filter(|pid| parent_of(*pid).is_some_and(|parent| known.contains(&parent)))
        .collect()
}

/// The fourth field of `/proc/PID/stat`; the second is a name in parentheses.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
