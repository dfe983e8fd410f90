//! Numbers that this command's own processes must not take.

use rewarm::checkpoint::Manifest;
use std::fs;

/// The number that the last process of this pid namespace got.
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// Has processes that are started from now on get numbers behind those of the
/// checkpoint. In a fresh container the numbers are low, and this command's own
/// processes would take the very ones that are needed.
pub(super) fn keep_clear(manifest: &Manifest) {
    let numbers = manifest.processes.iter().flat_map(|process| {
        let own = [process.pid, process.group, process.session];
        own.into_iter().chain(process.threads.iter().copied())
    });
    let most = numbers.max().unwrap_or(0);
    let last = fs::read_to_string(LAST).ok();
    let last = last.and_then(|text| text.trim().parse::<u32>().ok());
    if last.is_some_and(|last| last < most) {
        // Where that is not allowed, a number that is taken is found later.
        let _ = fs::write(LAST, most.to_string());
    }
}
