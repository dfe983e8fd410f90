//! Whose memory a snapshot is.

use crate::proc::Stat;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// A process, told from all others that had or will have its pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its pid, as it sees it itself.
    pub pid: u32,
    /// When it began, in clock ticks since the system did.
    pub start_time: u64,
    /// Path of its program.
    pub executable: String,
    /// Id of the system's run, see random(4).
    pub boot_id: String,
    /// Inode of its PID namespace: elsewhere its pid stands for another process.
    pub pid_namespace: u64,
}

/// Whether a process is still there, as far as can be seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It is this one.
    This,
    /// It is there.
    Alive,
    /// It has ended.
    Gone,
    /// It is, or was, in another container, whose processes cannot be seen.
    Hidden,
}

impl Process {
    /// This process.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn current() -> io::Result<Process> {
        let pid = std::process::id();
        let executable = fs::read_link("/proc/self/exe").unwrap_or_default();
        Ok(Process {
            pid,
            start_time: start_time(pid)?,
            executable: executable.to_string_lossy().into_owned(),
            boot_id: boot_id()?,
            pid_namespace: pid_namespace()?,
        })
    }

    /// Whether it is still there. Of the same machine: after its restart all are gone.
    pub(super) fn life(&self) -> io::Result<Life> {
        let this = Process::current()?;
        if self.boot_id != this.boot_id {
            return Ok(Life::Gone);
        }
        if self.pid_namespace != this.pid_namespace {
            return Ok(Life::Hidden);
        }
        Ok(match start_time(self.pid) {
            Ok(start) if start != self.start_time => Life::Gone,
            Ok(_) if self.pid == this.pid => Life::This,
            Ok(_) => Life::Alive,
            Err(_) => Life::Gone,
        })
    }
}

fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process began. One that has ended, and that nobody has asked for yet, is gone.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = Stat::of(pid)?;
    match stat.has_ended() {
        true => Err(io::ErrorKind::NotFound.into()),
        false => Ok(stat.start_time),
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_others_of_its_pid() {
        let this = Process::current().unwrap();
        assert_eq!(this.life().unwrap(), Life::This);
        let earlier = Process {
            start_time: this.start_time + 1,
            ..this.clone()
        };
        assert_eq!(earlier.life().unwrap(), Life::Gone);
        let before_the_boot = Process {
            boot_id: "x".to_owned(),
            ..this.clone()
        };
        assert_eq!(before_the_boot.life().unwrap(), Life::Gone);
        let of_another_container = Process {
            pid_namespace: this.pid_namespace + 1,
            ..this
        };
        assert_eq!(of_another_container.life().unwrap(), Life::Hidden);
    }
}
