//! Everything that comes from this process, also what has lost its parent.

use rewarm::control::Process;
use rewarm::pidfd::Pidfd;
use rewarm::proc::{Stat, descendants, parents};
use std::time::{Duration, Instant};
use std::{fmt, io, process, ptr, thread};

/// How long killed processes may take to end: large ones give memory back first.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long threads may take to follow their process, which cannot be waited for before.
const REAPING: Duration = Duration::from_secs(5);

/// The descendants of this process. Those that lose their parent become its
/// children, so none can leave.
pub(super) struct Family {
    /// Children that there were before: whoever started this process by `exec` may
    /// have had some.
    foreign: Vec<u32>,
}

impl Family {
    /// From now on.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn begin() -> io::Result<Family> {
        // SAFETY: a system call without pointers, and the default action.
        let done = unsafe {
            // Where it is ignored, nobody could be waited for.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let own = process::id();
        let parents = parents();
        let children = parents.iter().filter(|(_, parent)| *parent == own);
        Ok(Family {
            foreign: children.map(|(pid, _)| *pid).collect(),
        })
    }

    /// Kills all of them, and waits until none lives. Tells which do.
    pub(super) fn kill(&self) -> Vec<u32> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let mut members = self.members();
            for process in members.iter().filter_map(|pid| Pidfd::open(*pid).ok()) {
                // Who descends from others may have ended since, and its number been
                // given away.
                if self.has(process.pid()) {
                    process.signal(libc::SIGKILL);
                }
            }
            members.retain(|pid| Process::find(*pid).is_ok());
            if members.is_empty() || begun.elapsed() > PATIENCE {
                return members;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Takes note of the end of those that were killed, so that their pids are free.
    pub(super) fn reap(&self) {
        let begun = Instant::now();
        loop {
            let members = self.members();
            if members.is_empty() || begun.elapsed() > REAPING {
                return;
            }
            for pid in members {
                // SAFETY: no status is asked for.
                unsafe { libc::waitpid(pid as i32, ptr::null_mut(), libc::WNOHANG) };
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether a process descends from this one.
    fn has(&self, mut pid: u32) -> bool {
        while let Ok(stat) = Stat::of(pid) {
            if stat.parent == process::id() {
                return !self.foreign.contains(&pid);
            }
            pid = stat.parent;
        }
        false
    }

    fn members(&self) -> Vec<u32> {
        let mut pairs = parents();
        pairs.retain(|(pid, _)| !self.foreign.contains(pid));
        let mut members = descendants(process::id(), &pairs);
        members.remove(0);
        members
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a status.
    Status(u8),
    /// By a signal.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Status(status) => write!(to, "status {status}"),
            End::Signal(signal) => write!(to, "signal {signal}"),
        }
    }
}

impl End {
    /// What a shell would tell.
    pub(super) fn code(self) -> u8 {
        match self {
            End::Status(status) => status,
            End::Signal(signal) => 128 + signal as u8,
        }
    }
}

/// Whether a child has ended, and how; it stays to be waited for.
pub(super) fn end_of(pid: u32) -> Option<End> {
    // SAFETY: a structure of numbers, which the call fills.
    let (result, end) = unsafe {
        let mut end: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let result = libc::waitid(libc::P_PID, pid, &raw mut end, options);
        (result, end)
    };
    // SAFETY: both are there after `waitid`.
    let (ended, status) = unsafe { (end.si_pid(), end.si_status()) };
    if result != 0 || ended == 0 {
        return None;
    }
    Some(match end.si_code {
        libc::CLD_EXITED => End::Status(status as u8),
        _ => End::Signal(status),
    })
}

/// The next child that has ended, which is then gone.
///
/// # Errors
/// If there are no children.
pub(super) fn next_end() -> io::Result<Option<(u32, End)>> {
    let mut status = 0;
    // SAFETY: an out-pointer to a local.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let end = match libc::WIFEXITED(status) {
        true => End::Status(libc::WEXITSTATUS(status) as u8),
        false => End::Signal(libc::WTERMSIG(status)),
    };
    Ok((pid > 0).then_some((pid as u32, end)))
}
