//! Whose memory a snapshot is.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;

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
        })
    }

    /// Whether it is still there, as far as can be seen from here.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid).is_ok_and(|start| start == self.start_time)
            && boot_id().is_ok_and(|boot| boot == self.boot_id)
    }
}

/// The 22nd field of `/proc/PID/stat`; the second may hold spaces and parentheses.
/// A process that has ended, and that nobody has asked for yet, is gone.
fn start_time(pid: u32) -> io::Result<u64> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    let behind_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = behind_name.split_ascii_whitespace().collect();
    match fields.first() {
        Some(&("Z" | "X")) => Err(io::ErrorKind::NotFound.into()),
        _ => fields
            .get(19)
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be understood"))),
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
        assert!(this.is_alive());
        let earlier = Process {
            start_time: this.start_time + 1,
            ..this.clone()
        };
        assert!(!earlier.is_alive());
        let before_the_boot = Process {
            boot_id: "x".to_owned(),
            ..this
        };
        assert!(!before_the_boot.is_alive());
    }
}
