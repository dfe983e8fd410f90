//! Processes that must not live on when their pages cannot come.

use crate::proc::{Stat, numbers_in, parents};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

/// How long processes take to die, at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long they take to stop, at most, and how often it is looked.
const LAST_STEPS: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

/// A process, whatever becomes of its number. Most are to be killed if all goes wrong.
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

    /// Whether it has ended within the limit.
    pub(super) fn has_died(&self, limit: Duration) -> bool {
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
/// They are stopped first, so that none has another child meanwhile. Nobody may read
/// their events any more: a fork that is under way waits for that, and fails when its
/// process is killed.
pub(super) fn kill(victims: &[Victim]) {
    let mut descendants: Vec<Victim> = Vec::new();
    let mut known: HashSet<_> = victims
        .iter()
        .filter(|victim| victim.signal(libc::SIGSTOP))
        .map(|victim| victim.pid)
        .collect();
    loop {
        settle(&known);
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

/// Waits until stopped processes do nothing any more: what one forks just now could
/// not be seen. A thread that the kernel has wait for a page with a signal pending may
/// never stop.
fn settle(stopped: &HashSet<u32>) {
    let until = Instant::now() + LAST_STEPS;
    while Instant::now() < until && stopped.iter().any(|pid| runs(*pid)) {
        thread::sleep(PAUSE);
    }
}

/// Whether a thread of a process runs, or sleeps so that its stop will wake it.
fn runs(pid: u32) -> bool {
    let folder = format!("/proc/{pid}/task");
    numbers_in(&folder).into_iter().any(|thread| {
        let stat = Stat::read(format!("{folder}/{thread}/stat").as_ref());
        stat.is_ok_and(|stat| matches!(stat.state, 'R' | 'S'))
    })
}

/// Children of the processes that are not among them.
fn children_of(known: &HashSet<u32>) -> Vec<u32> {
    let everybody = parents().into_iter();
    everybody
        .filter(|(pid, parent)| known.contains(parent) && !known.contains(pid))
        .map(|(pid, _)| pid)
        .collect()
}
