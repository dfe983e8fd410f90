//! Processes that CRIU dumps and restores: plain ones, those under rewarm, and trees
//! with everything that programs hold.

mod common;

use common::cli::number_in;
use common::live::Live;
use common::{Link, Run, app, criu, libraries, number};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Prints in any case, so that tests of whole processes are never skipped silently.
#[test]
fn it_is_told_whether_whole_processes_are_tested() {
    match criu::can_checkpoint() {
        Ok(criu) => println!("tests of whole processes use {}", criu.display()),
        Err(why) => println!("SKIPPED: all tests that checkpoint whole processes: {why}"),
    }
}

/// Does something with processes through the driver.
#[track_caller]
fn driver(actions: &str, pids: &[u32]) -> String {
    let output = Command::new(app("driver_checkpoint", Link::Dlopen))
        .arg(actions)
        .args(pids.iter().map(u32::to_string))
        .env("LD_LIBRARY_PATH", libraries().join("sim"))
        .output()
        .expect("it was just built");
    assert!(output.status.success(), "{actions} {pids:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints numbers")
}

/// A program that was dumped is killed and restored.
#[track_caller]
fn there_and_back(live: &mut Live, options: &[&str]) {
    let images = live.scratch().join("images");
    let tree = criu::tree(live.pid());
    criu::adopt();
    if let Err(error) = criu::dump(live.pid(), &images, options) {
        live.fail(&error);
    }
    live.is_gone();
    criu::gone(&tree);
    if let Err(error) = criu::restore(&images, options) {
        live.fail(&error);
    }
    live.is_back();
}

const OPTIONS: [&str; 2] = ["--shell-job", "--file-locks"];

fn program(rewarmed: bool) -> Run {
    let program = app("freeze", Link::Dlopen);
    let run = Run::either(program, rewarmed).lanes(4);
    run.arg("memory=small,plain,odd,zero,own,pool,large")
}

#[test]
fn a_plain_process_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program(false));
    live.must("check");
    driver("lock,checkpoint", &[live.pid()]);
    there_and_back(&mut live, &OPTIONS);
    assert_eq!(driver("state", &[live.pid()]), "2\n");
    driver("restore,unlock", &[live.pid()]);
    live.must("check");
    live.quit();
}

#[test]
fn a_process_under_rewarm_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    // Its lanes hold pinned memory.
    let run = program(true).small_copies_too();
    let mut live = Live::start_as_it_is(run.env("SIMCUDA_MACHINE", "{scratch}/machine"));
    for round in 0..2 {
        live.must("check");
        driver("lock,checkpoint", &[live.pid()]);
        there_and_back(&mut live, &OPTIONS);
        driver("restore,unlock", &[live.pid()]);
        live.must("check");
        assert_eq!(live.state(), "active", "round {round}");
    }
    live.quit();
}

#[test]
fn a_frozen_process_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program(true));
    frozen_there_and_back(&mut live);
    frozen_there_and_back(&mut live);
    live.freeze(&[]);
    live.thaw(&[]);
    live.must("check");
    live.quit();
}

/// A checkpoint of a process without its memory, and a restore.
#[track_caller]
fn frozen_there_and_back(live: &mut Live) {
    live.must("check");
    let used = live.used();
    let frozen = live.freeze(&[]);
    driver("lock,checkpoint", &[live.pid()]);
    assert_eq!(live.used(), 0);
    there_and_back(live, &OPTIONS);
    let images = size_of_folder(&live.scratch().join("images"));
    let bytes = number_in(&frozen, "bytes");
    assert!(images < bytes / 2, "{bytes} left, and {images} were dumped");
    driver("restore,unlock", &[live.pid()]);
    assert_eq!(live.state(), "frozen");
    live.thaw(&["--keep-snapshot"]);
    assert_eq!(live.state(), "active");
    assert_eq!(live.used(), used);
    live.must("check");
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("it is there");
    let sizes = entries.map(|entry| entry.and_then(|entry| entry.metadata()));
    sizes.map(|data| data.expect("it stays").len()).sum()
}

/// What must not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    mappings: usize,
    /// Of the host's memory.
    kilobytes: u64,
}

impl Held {
    fn by(pid: u32) -> Held {
        let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
        let lines = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let anonymous = lines("status").lines().find_map(|line| {
            line.strip_prefix("RssAnon:")?
                .strip_suffix(" kB")?
                .trim()
                .parse()
                .ok()
        });
        Held {
            descriptors: entries("fd"),
            threads: entries("task"),
            mappings: lines("maps").lines().count(),
            kilobytes: anonymous.expect("the kernel tells"),
        }
    }
}

#[test]
fn round_after_round_nothing_grows() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let rounds = number("REWARM_TEST_ROUNDS", 10);
    // Every round has new threads, and each may make glibc begin with another heap.
    let run = program(true)
        .env("REWARM_MIN_COPY_KB", "64")
        .env("MALLOC_ARENA_MAX", "1");
    let mut live = Live::start(run);
    let mut held = Vec::new();
    for round in 0..rounds {
        live.must(&format!("touch 5 {round}"));
        frozen_there_and_back(&mut live);
        held.push(Held::by(live.pid()));
    }
    let (first, last) = (held[2], held[held.len() - 1]);
    assert!(last.descriptors <= first.descriptors, "{held:#?}");
    assert!(last.threads <= first.threads, "{held:#?}");
    // A stack more is kept for the next thread when more of them live at once than ever
    // before; what is lost is lost in every round.
    let mut most = first.mappings;
    let mut growths = 0;
    for one in held.iter().filter(|one| one.mappings > first.mappings) {
        growths += usize::from(one.mappings > most);
        most = most.max(one.mappings);
    }
    assert!(growths <= held.len() / 3, "{held:#?}");
    // The heaps of ever new threads settle down only after a while.
    assert!(last.kilobytes <= first.kilobytes + 2048, "{held:#?}");
    live.quit();
}

/// Options that a tree with everything needs.
const TREE_OPTIONS: [&str; 6] = [
    "--shell-job",
    "--file-locks",
    "--tcp-established",
    // Both ends are in the tree; to lock others out, CRIU needs iptables or nftables.
    "--network-lock",
    "skip",
    "--link-remap",
];

fn tree(rewarmed: bool) -> Run {
    // The machine has room for five processes with a staging each.
    Run::either(app("tree", Link::Dlopen), rewarmed).lanes(2)
}

fn pids(live: &mut Live) -> Vec<u32> {
    let pids = live.ask("pids");
    let pids = pids.split(' ').map(|pid| pid.parse().expect("a number"));
    pids.collect()
}

#[test]
fn a_plain_tree_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(tree(false));
    let pids_before = pids(&mut live);
    let users = live.processes();
    for round in 2..4 {
        live.must(&format!("touch {round}"));
        driver("lock,checkpoint", &users);
        there_and_back(&mut live, &TREE_OPTIONS);
        driver("restore,unlock", &users);
        live.must("check");
    }
    assert_eq!(pids(&mut live), pids_before);
    live.quit();
}

#[test]
fn a_frozen_tree_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(tree(true));
    let users = live.processes();
    for round in 2..4 {
        live.must(&format!("touch {round}"));
        live.freeze(&["--tree"]);
        driver("lock,checkpoint", &users);
        there_and_back(&mut live, &TREE_OPTIONS);
        driver("restore,unlock", &users);
        live.thaw(&["--tree", "--keep-snapshot"]);
        live.must("check");
    }
    live.quit();
}
