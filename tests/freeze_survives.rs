//! Whatever dies or fails in the middle of a freeze or thaw: the process runs with
//! its memory right, or is frozen with a whole snapshot, or is dead and the snapshot
//! in the folder, if there is one, is whole.

mod common;

use common::live::{Live, ended};
use common::{Link, Run, app, number};
use rewarm::snapshot::Snapshot;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Has so little memory, and lanes so little staging, that hundreds of rounds take
/// seconds.
fn program() -> Live {
    let run = Run::rewarmed(app("freeze", Link::Dlopen)).lanes(2);
    let run = run.env("CRIU_CUDA_CHUNK_MB", "1");
    Live::start(run.arg("memory=small,tiny,own,blank"))
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn seeded(what: &str) -> Random {
    let default = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(1, |now| now.as_secs());
    let seed = number("REWARM_TEST_SEED", default);
    println!("{what}: REWARM_TEST_SEED={seed}");
    Random(seed)
}

/// Insists that all of a snapshot is there and right, if there is one.
#[track_caller]
fn whole_if_any(folder: &Path) -> bool {
    if !folder.join("manifest.json").exists() {
        return false;
    }
    let snapshot = Snapshot::open(folder).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = snapshot.verify(1, &AtomicU64::new(0)) {
        panic!("{error}");
    }
    true
}

/// Thaws what is frozen, and insists that everything is right.
#[track_caller]
fn right(live: &mut Live) {
    match live.settled().as_str() {
        "frozen" => {
            assert!(whole_if_any(&live.snapshot()), "there is no snapshot");
            live.thaw(&["--keep-snapshot"]);
        }
        "active" => {
            whole_if_any(&live.snapshot());
        }
        other => live.fail(&format!("it is {other}")),
    }
    live.must("check");
}

/// Starts a command and waits for a random part of the time that it takes.
fn part_of(mut command: Command, usual: Duration, random: &mut Random) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("rewarm starts");
    let longest = usual.as_micros() as u64 * 5 / 4;
    std::thread::sleep(Duration::from_micros(random.below(longest.max(1))));
    child
}

/// How long a freeze and a thaw of it take.
fn usual_times(live: &mut Live) -> [Duration; 2] {
    let begun = Instant::now();
    live.freeze(&[]);
    let frozen = begun.elapsed();
    live.thaw(&["--keep-snapshot"]);
    live.must("check");
    [frozen, begun.elapsed() - frozen]
}

/// A freeze or a thaw of which something is to be killed, and whether there is a
/// snapshot whatever comes.
fn begin(live: &mut Live, random: &mut Random, times: [Duration; 2]) -> (Child, bool) {
    live.must(&format!("touch 2 {}", random.below(1 << 40)));
    if random.below(2) == 0 {
        let is_there = whole_if_any(&live.snapshot());
        return (part_of(live.freezing(&[]), times[0], random), is_there);
    }
    live.freeze(&[]);
    let keep = random.below(2) == 0;
    let options: &[&str] = if keep { &["--keep-snapshot"] } else { &[] };
    (part_of(live.thawing(options), times[1], random), keep)
}

#[test]
fn the_command_line_is_killed() {
    let mut random = seeded("the command line is killed");
    let mut live = program();
    let times = usual_times(&mut live);
    for _ in 0..number("REWARM_TEST_KILLS", 350) {
        let (mut child, keeps) = begin(&mut live, &mut random, times);
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        right(&mut live);
        assert!(!keeps || whole_if_any(&live.snapshot()), "it is lost");
    }
    live.quit();
}

#[test]
fn the_process_is_killed() {
    let mut random = seeded("the process is killed");
    for _ in 0..number("REWARM_TEST_KILLS", 150) {
        let mut live = program();
        let times = usual_times(&mut live);
        let (child, keeps) = begin(&mut live, &mut random, times);
        live.signal(libc::SIGKILL);
        live.wait();
        // The command line learns of it, and does not hang.
        ended(child);
        let is_there = whole_if_any(&live.snapshot());
        assert!(is_there || !keeps, "the snapshot is lost");
        // What is left is in nobody's way.
        let next = program();
        let mut command = next.rewarm(&["freeze", "--pid", &next.pid().to_string()]);
        command.arg("--to").arg(live.snapshot());
        let output = command.output().expect("rewarm starts");
        assert!(output.status.success(), "{output:?}");
        assert!(whole_if_any(&live.snapshot()));
    }
}

#[test]
fn the_process_ends_by_itself_meanwhile() {
    let mut random = seeded("the process ends by itself");
    for _ in 0..number("REWARM_TEST_EXITS", 30) {
        let mut live = program();
        let times = usual_times(&mut live);
        let (child, keeps) = begin(&mut live, &mut random, times);
        live.send("leave");
        assert_eq!(live.wait().code(), Some(3));
        ended(child);
        let is_there = whole_if_any(&live.snapshot());
        assert!(is_there || !keeps, "the snapshot is lost");
    }
}

/// Calls of the driver that a process has made.
fn calls(live: &mut Live) -> u64 {
    live.ask("calls *").parse().expect("a number")
}

/// A rule that fits no call, but has all calls counted.
const NONE: &str = "fault none:1:1";

/// Has every call of a freeze or thaw fail, by number and code; `later`: and all after it.
fn each_fault(frozen: bool, later: &str) {
    let mut random = seeded("every call fails");
    let mut live = program();
    live.must(NONE);
    if frozen {
        live.freeze(&[]);
    }
    let before = calls(&mut live);
    if frozen {
        live.thaw(&["--keep-snapshot"]);
    } else {
        live.freeze(&[]);
    }
    let count = calls(&mut live) - before;
    right(&mut live);
    let mut failed = 0;
    for nth in 1..=count {
        for code in [999, 2] {
            live.must(&format!("touch 1 {}", random.below(1 << 40)));
            let command = if frozen {
                live.freeze(&[]);
                live.thawing(&["--keep-snapshot"])
            } else {
                live.freezing(&[])
            };
            let rule = format!("*:{}{later}:{code}", calls(&mut live) + nth);
            println!("{rule}: call {nth} of {count}");
            live.must(&format!("fault {rule}"));
            let output = { command }.output().expect("rewarm starts");
            live.must(NONE);
            failed += u64::from(!output.status.success());
            if frozen && !output.status.success() {
                assert_eq!(live.settled(), "frozen", "{output:?}");
            }
            right(&mut live);
        }
    }
    println!("{failed} failed");
    assert!(failed > 0, "no call mattered");
    live.quit();
}

#[test]
fn every_call_of_a_freeze_fails_in_turn() {
    each_fault(false, "");
}

#[test]
fn every_call_of_a_freeze_fails_from_one_on() {
    each_fault(false, "+");
}

#[test]
fn every_call_of_a_thaw_fails_in_turn() {
    each_fault(true, "");
}

#[test]
fn every_call_of_a_thaw_fails_from_one_on() {
    each_fault(true, "+");
}
