//! Whether the numbers that the tree needs are free.

use super::Misfit;
use crate::checkpoint::Manifest;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How long to wait for those who have it to be gone, when they are on their way:
/// large processes take a while, and so do some parents.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Flag of a task that is ending, see `PF_EXITING` in `linux/sched.h`.
const EXITING: u64 = 0x4;

pub(super) fn check(manifest: &Manifest) -> Vec<Misfit> {
    let wanted = wanted(manifest);
    let begun = Instant::now();
    loop {
        let taken = taken(&wanted);
        let may_end = taken.keys().all(|holder| holder.is_ending);
        if taken.is_empty() || !may_end || begun.elapsed() > PATIENCE {
            let misfit = |(holder, pids): (Holder, Vec<u32>)| Misfit::Pid {
                pids,
                holder: holder.described,
            };
            return taken.into_iter().map(misfit).collect();
        }
        thread::sleep(PAUSE);
    }
}

/// The ids of threads, and the sessions and groups that are made again.
fn wanted(manifest: &Manifest) -> BTreeSet<u32> {
    let shell_job = manifest
        .restore_options
        .iter()
        .any(|one| one == "--shell-job");
    let mut wanted = BTreeSet::new();
    for process in &manifest.processes {
        wanted.extend(&process.threads);
    }
    // What lies outside of the tree is left out with this option.
    if !shell_job {
        let processes = manifest.processes.iter();
        wanted.extend(processes.flat_map(|process| [process.session, process.group]));
    }
    wanted.remove(&0);
    wanted
}

/// Who has a number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    described: String,
    is_ending: bool,
}

/// Who has which of the numbers.
fn taken(wanted: &BTreeSet<u32>) -> BTreeMap<Holder, Vec<u32>> {
    let mut holders = BTreeMap::new();
    // Threads of others are not listed, but are there when asked for.
    for &pid in wanted {
        let leader = leader_of(pid);
        // Those that look at the checkpoint end before anything starts.
        let own = std::process::id();
        if leader == Some(own) && pid != own {
            continue;
        }
        if let Some(stat) = leader.and_then(Stat::read) {
            holders.insert(pid, stat.holder(leader.unwrap_or(pid)));
        }
    }
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let Some(stat) = Stat::read(pid) else {
            continue;
        };
        for (number, what) in [(stat.group, "group"), (stat.session, "session")] {
            if wanted.contains(&number) {
                holders.entry(number).or_insert_with(|| Holder {
                    described: format!("the {what} of process {pid} ({})", stat.name),
                    is_ending: stat.is_ending(),
                });
            }
        }
    }
    let mut taken: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, holder) in holders {
        taken.entry(holder).or_default().push(number);
    }
    taken
}

/// The process that a thread belongs to.
fn leader_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

/// What `/proc/PID/stat` tells.
#[derive(Debug, PartialEq)]
struct Stat {
    name: String,
    state: char,
    parent: u32,
    group: u32,
    session: u32,
    flags: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Stat::parse(&String::from_utf8_lossy(&text))
    }

    /// The name in the middle may hold anything.
    fn parse(text: &str) -> Option<Stat> {
        let (begin, rest) = text.rsplit_once(')')?;
        let (_, name) = begin.split_once('(')?;
        let mut fields = rest.split_whitespace();
        Some(Stat {
            name: name.to_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
            session: fields.next()?.parse().ok()?,
            flags: fields.nth(2)?.parse().ok()?,
        })
    }

    fn is_ending(&self) -> bool {
        matches!(self.state, 'Z' | 'X') || self.flags & EXITING != 0
    }

    fn holder(&self, pid: u32) -> Holder {
        let described = match self.state {
            'Z' => format!(
                "process {pid} ({}), which has ended, but process {}, its parent, has not taken note of it",
                self.name, self.parent
            ),
            _ => format!("process {pid} ({})", self.name),
        };
        Holder {
            described,
            is_ending: self.is_ending() || is_killed(pid),
        }
    }
}

/// Whether a process was sent SIGKILL, which it has yet to follow.
fn is_killed(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    };
    let kill = 1 << (libc::SIGKILL - 1);
    ["SigPnd:", "ShdPnd:"]
        .iter()
        .any(|name| pending(name).unwrap_or(0) & kill != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_behind_any_name() {
        let stat = Stat::parse("7 (a) S (b) R 5 6 4 0 -1 4194304 1 2").unwrap();
        assert_eq!((&*stat.name, stat.state), ("a) S (b", 'R'));
        assert_eq!((stat.parent, stat.group, stat.session), (5, 6, 4));
        assert_eq!(stat.flags, 4_194_304);
        assert!(!stat.is_ending());
        assert_eq!(Stat::parse("7 (x"), None);
    }

    #[test]
    fn this_process_is_in_the_way() {
        let own = std::process::id();
        // SAFETY: numbers only.
        let group = unsafe { libc::getpgrp() } as u32;
        let taken = taken(&[own, group].into());
        let numbers: BTreeSet<_> = taken.values().flatten().copied().collect();
        assert_eq!(numbers, [own, group].into());
        assert!(taken.keys().all(|holder| !holder.is_ending));
    }

    #[test]
    fn a_thread_of_this_process_is_not() {
        // SAFETY: no arguments.
        let found = thread::spawn(|| taken(&[unsafe { libc::gettid() } as u32].into()).len());
        assert_eq!(found.join().unwrap(), 0);
    }
}
