//! Processes that must not live on when their pages cannot come.

use crate::pidfd::Pidfd;
use crate::proc::{Stat, numbers_in, parents};
use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

/// How long processes take to die, at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long they take to stop, at most, and how often it is looked.
const LAST_STEPS: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

/// Kills processes and all that descends from them, and waits until they are dead.
/// They are stopped first, so that none has another child meanwhile. Nobody may read
/// their events any more: a fork that is under way waits for that, and fails when its
/// process is killed.
pub(super) fn kill(victims: &[Pidfd]) {
    let mut descendants: Vec<Pidfd> = Vec::new();
    let mut known: HashSet<_> = victims
        .iter()
        .filter(|victim| victim.signal(libc::SIGSTOP))
        .map(Pidfd::pid)
        .collect();
    loop {
        settle(&known);
        let found = children_of(&known);
        if found.is_empty() {
            break;
        }
        for pid in found {
            known.insert(pid);
            if let Ok(child) = Pidfd::open(pid) {
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
        victim.has_ended(until.saturating_duration_since(Instant::now()));
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
