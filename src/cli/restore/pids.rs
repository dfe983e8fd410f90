//! Numbers that this command's own processes must not take.

use rewarm::checkpoint::Manifest;
use std::collections::BTreeSet;
use std::fs;

/// The number that the last process or thread of this pid namespace got.
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// No number is as large.
const LIMIT: &str = "/proc/sys/kernel/pid_max";

/// Where numbers begin again behind the largest (`RESERVED_PIDS`, kernel/pid.c).
const FIRST: u32 = 300;

/// More processes and threads than a restore starts itself, and some of others.
const OWN: u32 = 1024;

/// Has processes that are started from now on get none of the numbers of the
/// checkpoint: in a fresh container, and where numbers begin again, this command's own
/// would take the very ones that are needed.
pub(super) fn keep_clear(manifest: &Manifest) {
    let numbers = manifest.processes.iter().flat_map(|process| {
        let own = [process.pid, process.group, process.session];
        own.into_iter().chain(process.threads.iter().copied())
    });
    let wanted: BTreeSet<u32> = numbers.collect();
    let (Some(last), Some(limit)) = (number(LAST), number(LIMIT)) else {
        return;
    };
    let clear = clear(last, limit, &wanted);
    if clear != last {
        // Where that is not allowed, a number that is taken is found later.
        let _ = fs::write(LAST, clear.to_string());
    }
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number that is to have been the last one, so that none of those that follow is
/// wanted: this one where that is so already.
fn clear(last: u32, limit: u32, wanted: &BTreeSet<u32>) -> u32 {
    let following = |last: u32| {
        let numbers = (last.saturating_add(1)..limit).chain(FIRST..limit);
        numbers.take(OWN as usize)
    };
    let mut clear = last;
    // Two turns go on by OWN at least, and once around is enough.
    for _ in 0..2 * (limit / OWN + 1) {
        match following(clear).filter(|one| wanted.contains(one)).last() {
            Some(behind) => clear = behind,
            None => break,
        }
    }
    clear
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 32768;

    fn behind(last: u32, wanted: &[u32]) -> u32 {
        clear(last, LIMIT, &wanted.iter().copied().collect())
    }

    #[test]
    fn numbers_that_come_soon_are_left_behind() {
        let low: Vec<u32> = (7..=40).collect();
        assert_eq!(behind(5, &low), 40);
        assert_eq!(behind(5, &[7, 1030, 2050]), 2050);
        assert_eq!(behind(LIMIT - 8, &[LIMIT - 3, 301, 310]), 310);
    }

    #[test]
    fn others_are_no_reason_to_change_anything() {
        assert_eq!(behind(5, &[5000]), 5);
        assert_eq!(behind(310, &[LIMIT - 100]), 310);
        assert_eq!(behind(700, &[1, 7, 699, 700]), 700);
        assert_eq!(behind(LIMIT - 1, &[299, 5000]), LIMIT - 1);
    }

    #[test]
    fn where_all_are_wanted_it_ends() {
        let all: Vec<u32> = (1..LIMIT).collect();
        assert!(behind(5, &all) < LIMIT);
    }
}
