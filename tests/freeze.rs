//! Freezing and thawing of programs that know nothing of it: every byte is there
//! again, at the same addresses, and the graph runs.

mod common;

use common::cli::number_in;
use common::live::Live;
use common::{Link, Run, app, number};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn program() -> Run {
    Run::rewarmed(app("freeze", Link::Dlopen)).lanes(4)
}

/// One with little memory, that is frozen in no time.
fn small_program() -> Run {
    program().arg("memory=small,tiny,plain,zero")
}

/// Bytes that the files of a folder take.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| entry.expect("it can be read").metadata())
        .map(|data| data.expect("it is there").blocks() * 512)
        .sum()
}

/// Waits until a thread that called the driver is back.
#[track_caller]
fn answered(live: &mut Live) {
    let begun = Instant::now();
    while live.ask("answered") != "yes" {
        assert!(begun.elapsed().as_secs() < 60, "the call does not return");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A freeze and a thaw of whatever the program has, with calls that wait.
fn there_and_back(live: &mut Live) {
    live.must("check");
    let used = live.used();
    let frozen = live.freeze(&[]);
    assert_eq!(live.state(), "frozen");
    let gone = used - live.used();
    assert_eq!(gone, number_in(&frozen, "bytes"), "{frozen}");
    live.must("knock");
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(live.ask("answered"), "no", "a call went through");
    let thawed = live.thaw(&[]);
    assert_eq!(thawed["bytes"], frozen["bytes"]);
    assert_eq!(thawed["allocations"], frozen["allocations"]);
    assert_eq!(thawed["loaded_bytes"], frozen["stored_bytes"]);
    answered(live);
    assert_eq!(live.state(), "active");
    assert_eq!(live.used(), used);
    live.must("check");
}

fn by_route(route: &str, link: Link) {
    let run = Run::rewarmed(app("freeze", link)).lanes(4);
    let mut live = Live::start(run.arg(format!("route={route}")));
    there_and_back(&mut live);
    live.must("touch 9 1");
    there_and_back(&mut live);
    live.quit();
}

#[test]
fn everything_comes_back_to_a_program_that_opens_the_driver() {
    by_route("dlsym", Link::Dlopen);
}

#[test]
fn everything_comes_back_to_a_program_that_is_linked_with_the_driver() {
    by_route("linked", Link::Cuda);
}

#[test]
fn everything_comes_back_to_a_program_that_asks_the_driver_for_its_functions() {
    by_route("four", Link::Dlopen);
    by_route("five", Link::Dlopen);
}

#[test]
fn what_leaves_is_told() {
    let mut live = Live::start(program());
    let used = live.used();
    let report = live.freeze(&[]);
    assert_eq!(number_in(&report, "version"), 1);
    assert_eq!(report["snapshot"], live.snapshot().to_str().unwrap());
    let parts = [
        "zero_bytes",
        "discarded_bytes",
        "unchanged_bytes",
        "stored_bytes",
    ];
    let sum: u64 = parts.iter().map(|part| number_in(&report, part)).sum();
    assert_eq!(sum, number_in(&report, "bytes"), "{report}");
    // The graph has added to the first of two chunks.
    assert!(number_in(&report, "zero_bytes") >= 4 * MIB, "{report}");
    // Small memory and the pool stay.
    assert!(number_in(&report, "left_bytes") >= 3 * MIB, "{report}");
    assert!(live.used() < used / 4, "{} of {used} stay", live.used());
    let thawed = live.thaw(&[]);
    assert_eq!(thawed["kept"], false);
    assert_ne!(thawed["verified_by"], "no");
    assert_eq!(bytes_in(&live.snapshot()), 0, "the snapshot is gone");
    live.must("check");
}

#[test]
fn it_works_again_and_again() {
    let mut live = Live::start(program());
    for round in 0..10 {
        live.must(&format!("touch 3 {round}"));
        live.must("alloc odd");
        there_and_back(&mut live);
        live.must("drop odd");
    }
    live.quit();
}

#[test]
fn memory_that_is_zero_is_not_stored() {
    let mut live = Live::start(program().arg("memory=zero,zero,zero,tiny"));
    // The graph has added to the first pieces.
    let report = live.freeze(&[]);
    assert!(number_in(&report, "zero_bytes") >= 12 * MIB, "{report}");
    let stored = number_in(&report, "stored_bytes");
    assert!(stored <= 14 * MIB, "{report}");
    assert!(bytes_in(&live.snapshot()) <= stored + MIB);
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn a_kept_snapshot_saves_writing_what_did_not_change() {
    let mut live = Live::start(program().arg("memory=large"));
    for round in 0..4 {
        let report = live.freeze(&[]);
        if round == 0 {
            assert_eq!(number_in(&report, "unchanged_bytes"), 0);
        } else {
            // A chunk by the graph of a check, one by the touch.
            assert!(number_in(&report, "stored_bytes") <= 8 * MIB, "{report}");
            assert!(
                number_in(&report, "unchanged_bytes") >= 40 * MIB,
                "{report}"
            );
        }
        let thawed = live.thaw(&["--keep-snapshot"]);
        assert_eq!(thawed["kept"], true);
        assert!(bytes_in(&live.snapshot()) >= 40 * MIB);
        live.must("check");
        live.must(&format!("touch 1 {round}"));
    }
    live.freeze(&[]);
    live.thaw(&[]);
    assert_eq!(bytes_in(&live.snapshot()), 0);
    live.must("check");
}

/// A request to the control socket, as any program can make it.
fn request(live: &Live, request: &Value) -> Value {
    let path = live.scratch().join(format!("run/{}.sock", live.pid()));
    let mut stream = UnixStream::connect(path).expect("it listens");
    let text = request.to_string();
    let length = u32::try_from(text.len()).expect("it is short");
    stream
        .write_all(&[&length.to_le_bytes(), text.as_bytes()].concat())
        .unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("it answers");
    let mut answer = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("it answers");
    serde_json::from_slice(&answer).expect("it is JSON")
}

#[test]
fn discarded_memory_is_not_stored_and_comes_back_as_zeroes() {
    let mut live = Live::start(program().arg("memory=plain,large"));
    let place = live.ask("where large");
    let (address, bytes) = place.split_once(' ').expect("two numbers");
    let (address, bytes): (u64, u64) = (address.parse().unwrap(), bytes.parse().unwrap());
    let discard = |discard: bool| {
        let body = json!({
            "version": 1, "request": "discard",
            "address": address, "bytes": bytes, "discard": discard,
        });
        let answer = request(&live, &body);
        assert_eq!(answer["response"], "discarded", "{answer}");
    };
    discard(true);
    discard(false);
    assert_eq!(number_in(&live.freeze(&[]), "discarded_bytes"), 0);
    live.thaw(&[]);
    discard(true);
    let report = live.freeze(&[]);
    assert_eq!(number_in(&report, "discarded_bytes"), bytes, "{report}");
    live.thaw(&[]);
    live.must("lost large");
    live.must("check");
    live.quit();
}

#[test]
fn room_can_be_made_ahead() {
    let mut live = Live::start(small_program());
    let pid = live.pid().to_string();
    let folder = live.snapshot();
    let arguments = ["freeze", "--pid", &pid, "--to", folder.to_str().unwrap()];
    let options = ["--prepare", "--json"];
    let report = common::cli::json(&mut live.rewarm(&[&arguments[..], &options].concat()));
    assert!(number_in(&report, "bytes") >= 6 * MIB, "{report}");
    assert_eq!(live.state(), "active");
    assert!(bytes_in(&folder) >= 6 * MIB);
    live.must("check");
    there_and_back(&mut live);
    live.quit();
}

#[test]
fn two_devices_with_peers_and_a_second_context() {
    let run = program().args(["devices=2", "peers=1", "created=1"]);
    let mut live = Live::start(run.env("SIMCUDA_DEVICES", "2"));
    there_and_back(&mut live);
    live.must("touch 20 5");
    there_and_back(&mut live);
    live.quit();
}

#[test]
fn a_context_that_the_program_created_is_the_only_one() {
    let mut live = Live::start(small_program().args(["devices=0", "created=1"]));
    there_and_back(&mut live);
    live.quit();
}

#[test]
fn a_process_may_have_nothing_that_leaves() {
    let mut live = Live::start(program().arg("memory=pool"));
    for _ in 0..2 {
        let report = live.freeze(&[]);
        assert_eq!(report["bytes"], 0);
        assert_eq!(live.state(), "frozen");
        live.thaw(&["--keep-snapshot"]);
        live.must("check");
    }
    live.quit();
}

#[test]
fn small_devices_with_slow_streams() {
    let run = small_program().env("SIMCUDA_DELAY_US", "500");
    let mut live = Live::start(run.env("SIMCUDA_MEMORY_MB", "20"));
    there_and_back(&mut live);
    live.quit();
}

#[test]
fn a_snapshot_may_be_moved() {
    let mut live = Live::start(small_program());
    live.freeze(&[]);
    let elsewhere = live.scratch().join("elsewhere");
    fs::rename(live.snapshot(), &elsewhere).unwrap();
    live.refused(live.thawing(&[]), &["snapshot"]);
    assert_eq!(live.state(), "frozen");
    live.thaw(&["--from", elsewhere.to_str().unwrap()]);
    live.must("check");
    there_and_back(&mut live);
}

#[test]
fn the_order_may_be_chosen() {
    let mut live = Live::start(program());
    for order in ["largest", "smallest", "address"] {
        live.must("touch 5 8");
        live.freeze(&[]);
        live.thaw(&["--order", order]);
        live.must("check");
    }
    live.freeze(&[]);
    assert_eq!(live.thaw(&["--no-verify"])["verified_by"], "no");
    live.must("check");
}

#[test]
fn a_process_may_fork_while_frozen() {
    let mut live = Live::start(small_program());
    live.must("fork");
    live.freeze(&[]);
    live.must("fork");
    live.thaw(&[]);
    live.must("fork");
    live.must("check");
    there_and_back(&mut live);
    live.quit();
}

#[test]
fn a_frozen_process_may_exit() {
    let mut live = Live::start(small_program());
    live.freeze(&[]);
    live.send("leave");
    assert_eq!(live.wait().code(), Some(3));
}

#[test]
fn a_frozen_process_may_be_terminated() {
    use std::os::unix::process::ExitStatusExt;
    let mut live = Live::start(small_program());
    live.must("knock");
    live.freeze(&[]);
    live.signal(libc::SIGTERM);
    assert_eq!(live.wait().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_tree_is_frozen_as_one() {
    let run = small_program().arg("children=2");
    let mut live = Live::start(run);
    let pids = live.processes();
    assert_eq!(pids.len(), 3);
    let used = |live: &Live| pids.iter().map(|pid| live.used_by(*pid)).sum::<u64>();
    let before = used(&live);
    let report = live.freeze(&["--tree"]);
    assert_eq!(report["processes"].as_array().map(Vec::len), Some(3));
    for pid in &pids {
        assert_eq!(live.state_of(*pid), "frozen");
        let folder = live.snapshot().join(pid.to_string());
        assert!(bytes_in(&folder) > 0, "{}", folder.display());
    }
    assert!(used(&live) < before / 4);
    live.thaw(&["--tree"]);
    assert_eq!(used(&live), before);
    for command in ["check", "child 0 check", "child 1 check"] {
        live.must(command);
    }

    // All or none: one that does not drain keeps the others from being frozen.
    live.must("child 1 busy");
    live.refused(live.freezing(&["--tree", "--drain", "0.3"]), &["process"]);
    for pid in &pids {
        assert_eq!(live.state_of(*pid), "active");
    }
    assert_eq!(used(&live), before);
    live.must("child 1 idle");
    for command in ["check", "child 0 check", "child 1 check"] {
        live.must(command);
    }
    live.quit();
}

#[test]
fn threads_that_hammer_the_driver_are_frozen_and_go_on() {
    let run = Run::rewarmed(app("hammer", Link::Cuda)).lanes(2).arg("1");
    let mut live = Live::start(run.env("CRIU_CUDA_CHUNK_MB", "1"));
    let rounds = |live: &mut Live| live.ask("rounds").parse::<u64>().expect("a number");
    let mut before = rounds(&mut live);
    for _ in 0..number("REWARM_TEST_FREEZES", 1000) {
        live.freeze(&[]);
        let frozen = rounds(&mut live);
        live.thaw(&[]);
        assert!(frozen >= before);
        before = frozen;
    }
    live.freeze(&[]);
    let frozen = rounds(&mut live);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(rounds(&mut live), frozen, "calls went through");
    live.thaw(&[]);
    let begun = Instant::now();
    while rounds(&mut live) < frozen + 20 {
        assert!(begun.elapsed().as_secs() < 60, "the threads do not go on");
        std::thread::sleep(Duration::from_millis(5));
    }
    live.quit();
}
