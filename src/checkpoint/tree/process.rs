//! Who a process is: `/proc/PID/stat` and `/proc/PID/status`, see proc(5).

use crate::proc::{Stat, line_of, numbers_in};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its pid.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Its controlling terminal, 0 without one.
    pub terminal: u64,
    /// When it began, in clock ticks since the system did.
    pub start_time: u64,
    /// Its state's letter, such as `R` or `Z`.
    pub state: char,
    /// Who traces it, 0 if nobody does.
    pub tracer: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its threads, its own first.
    pub threads: Vec<u32>,
    /// Its program.
    pub executable: PathBuf,
    /// Its memory that is in no file, in bytes.
    pub memory_bytes: u64,
    /// The part of it that it shares with nobody but children who have not written
    /// to it since their fork, in bytes.
    pub own_bytes: u64,
    /// Whether it is a thread of the kernel.
    pub is_kernel: bool,
    /// Namespaces in which it differs from this command, such as `pid`.
    pub elsewhere: Vec<&'static str>,
}

impl Facts {
    /// Looks at a process.
    ///
    /// # Errors
    /// If it is not there.
    pub fn look(pid: u32) -> io::Result<Facts> {
        let stat = Stat::of(pid)?;
        let status = fs::read(format!("/proc/{pid}/status"))?;
        let status = String::from_utf8_lossy(&status);
        let mut facts = Facts {
            pid,
            parent: stat.parent,
            group: stat.group,
            session: stat.session,
            terminal: stat.terminal,
            start_time: stat.start_time,
            state: stat.state,
            is_kernel: stat.flags & PF_KTHREAD != 0,
            ..Facts::default()
        };
        let number = |name, at| field(&status, name, at);
        facts.tracer = number("TracerPid:", 0).unwrap_or(0) as u32;
        facts.uid = number("Uid:", 1).unwrap_or(0) as u32;
        let bytes = |name| number(name, 0).unwrap_or(0).saturating_mul(1024);
        facts.own_bytes = bytes("RssAnon:");
        facts.memory_bytes = facts.own_bytes + bytes("RssShmem:") + bytes("VmSwap:");
        facts.threads = numbers_in(&format!("/proc/{pid}/task"));
        facts.threads.sort_by_key(|thread| *thread != pid);
        facts.executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        facts.elsewhere = elsewhere(pid);
        Ok(facts)
    }

    /// Whether it has ended, and its parent has not asked for it yet.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// See `linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// A number of a line of the status.
fn field(status: &str, name: &str, at: usize) -> Option<u64> {
    line_of(status, name)?
        .split_whitespace()
        .nth(at)?
        .parse()
        .ok()
}

fn elsewhere(pid: u32) -> Vec<&'static str> {
    let inode = |process: &str, name: &str| {
        let found = fs::metadata(format!("/proc/{process}/{name}"));
        found.map(|found| (found.dev(), found.ino())).ok()
    };
    let differs = |name: &&str| {
        let path = format!("ns/{name}");
        let its = inode(&pid.to_string(), &path);
        its.is_some() && its != inode("self", &path)
    };
    let mut found: Vec<_> = ["pid", "mnt", "user"].into_iter().filter(differs).collect();
    let root = inode(&pid.to_string(), "root");
    if root.is_some() && root != inode("self", "root") {
        found.push("root");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let own = std::process::id();
        let facts = Facts::look(own).unwrap();
        assert_eq!(facts.parent, std::os::unix::process::parent_id());
        assert_eq!(facts.threads[0], own);
        assert!(facts.memory_bytes > 0 && facts.start_time > 0);
        assert!(facts.elsewhere.is_empty());
    }
}
