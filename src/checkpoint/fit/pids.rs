//! Whether the numbers that the tree needs are free.

use super::Misfit;
use crate::checkpoint::Manifest;
use crate::proc::{Stat, numbers_in, status_line};
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

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
        if let Some((leader, stat)) = leader.and_then(|one| Some((one, Stat::of(one).ok()?))) {
            holders.insert(pid, Holder::of(leader, &stat));
        }
    }
    for pid in numbers_in("/proc") {
        let Ok(stat) = Stat::of(pid) else {
            continue;
        };
        for (number, what) in [(stat.group, "group"), (stat.session, "session")] {
            if wanted.contains(&number) {
                holders.entry(number).or_insert_with(|| Holder {
                    described: format!("the {what} of process {pid} ({})", stat.name),
                    is_ending: is_ending(&stat),
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
    status_line(tid, "Tgid:")?.trim().parse().ok()
}

fn is_ending(stat: &Stat) -> bool {
    stat.has_ended() || stat.flags & EXITING != 0
}

impl Holder {
    fn of(pid: u32, stat: &Stat) -> Holder {
        let described = match stat.state {
            'Z' => format!(
                "process {pid} ({}), which has ended, but process {}, its parent, has not taken note of it",
                stat.name, stat.parent
            ),
            _ => format!("process {pid} ({})", stat.name),
        };
        Holder {
            described,
            is_ending: is_ending(stat) || is_killed(pid),
        }
    }
}

/// Whether a process was sent SIGKILL, which it has yet to follow.
fn is_killed(pid: u32) -> bool {
    let pending = |name: &str| {
        let mask = status_line(pid, name)?;
        u64::from_str_radix(mask.trim(), 16).ok()
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
