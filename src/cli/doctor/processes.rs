//! What checkpoints of whole processes need, apart from GPUs.

use super::features::{Problem, problem};
use rewarm::criu::pages::can_serve;
use rewarm::criu::tool::{Criu, CriuError};
use rewarm::driver::{CheckpointDriver, OpenError};
use serde::Serialize;
use std::fs;

/// Rights that CRIU uses, with their numbers in `linux/capability.h`.
const RIGHTS: [(u32, &str); 5] = [
    (12, "NET_ADMIN"),
    (19, "SYS_PTRACE"),
    (21, "SYS_ADMIN"),
    (24, "SYS_RESOURCE"),
    (40, "CHECKPOINT_RESTORE"),
];

/// CRIU, the kernel's part and the driver's part.
#[derive(Serialize)]
pub(super) struct Processes {
    /// The program and its version.
    criu: Option<String>,
    /// Why it cannot be used.
    criu_problem: Option<String>,
    /// Why memory cannot come behind restored processes.
    userfaultfd_problem: Option<String>,
    /// Why the driver cannot save processes. Without a driver it need not.
    driver_problem: Option<String>,
    is_root: bool,
    /// Those of [`RIGHTS`] that this command does not have.
    missing_capabilities: Vec<&'static str>,
}

impl Processes {
    pub(super) fn look() -> Processes {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let is_root = effective_user(&status) == Some(0);
        let found = Criu::find(None);
        let told = |criu: &Criu| format!("{}, version {}", criu.path().display(), criu.version());
        Processes {
            criu: found.as_ref().ok().map(told),
            criu_problem: usable(found, is_root).err().map(|error| error.to_string()),
            userfaultfd_problem: can_serve().err(),
            driver_problem: match CheckpointDriver::open() {
                Err(OpenError::Lacks(lacks)) => Some(OpenError::Lacks(lacks).to_string()),
                Ok(_) | Err(OpenError::Absent(_)) => None,
            },
            is_root,
            missing_capabilities: missing_in(&status),
        }
    }

    /// What stands in the way of `rewarm checkpoint` and `rewarm restore`.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(why) = &self.criu_problem {
            let advice = "Install CRIU 4.0 or newer (4.2 for TCP sockets), or name it with REWARM_CRIU; on Debian scripts/criu unpacks one";
            problems.push(problem(why, advice));
        }
        if !self.is_root {
            let advice = "Checkpoint and restore as root; everything else needs no rights";
            problems.push(problem("this is not root", advice));
        }
        if let Some(why) = &self.driver_problem {
            let advice = "Install an NVIDIA driver of release 570 or later; processes without CUDA need none";
            problems.push(problem(why, advice));
        }
        problems
    }

    pub(super) fn rows(&self, row: &mut impl FnMut(&str, String)) {
        let criu = self.criu.clone();
        row(
            "criu",
            criu.unwrap_or_else(|| "none that can be used".into()),
        );
        row(
            "userfaultfd",
            match &self.userfaultfd_problem {
                None => "can be used".into(),
                Some(why) => format!("restores read all memory first: {why}"),
            },
        );
        row(
            "rights",
            match (self.is_root, self.missing_capabilities.as_slice()) {
                (true, []) => "root".into(),
                (true, missing) => format!("root without {}", missing.join(", ")),
                (false, _) => "not root".into(),
            },
        );
    }
}

/// Without root it would only say that it takes root.
fn usable(found: Result<Criu, CriuError>, is_root: bool) -> Result<(), CriuError> {
    let criu = found?;
    if is_root { criu.check_all() } else { Ok(()) }
}

/// Value of a line of `/proc/PID/status`, see proc_pid_status(5).
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn effective_user(status: &str) -> Option<u32> {
    let users = field(status, "Uid:")?;
    users.split_whitespace().nth(1)?.parse().ok()
}

fn missing_in(status: &str) -> Vec<&'static str> {
    let rights = field(status, "CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let rights = rights.unwrap_or(0);
    let missing = RIGHTS
        .iter()
        .filter(|(number, _)| rights >> number & 1 == 0);
    missing.map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_the_kernel_tells_them() {
        let status = "Name:\tx\nUid:\t1000\t0\t1000\t1000\nCapEff:\t000001fffeffffff\n";
        assert_eq!(effective_user(status), Some(0));
        assert_eq!(missing_in(status), ["SYS_RESOURCE"]);
        assert_eq!(effective_user(""), None);
        assert_eq!(missing_in("").len(), RIGHTS.len());
    }
}
