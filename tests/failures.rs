//! Whatever fails, a copy either has the right bytes or returns the driver's own
//! error; nothing hangs and nothing crashes.

mod common;

use common::{Link, Outcome, Run, app, shared_library};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn failing(code: u32) -> Run {
    Run::rewarmed(app("failing", Link::Dlopen))
        .arg(code.to_string())
        .small_copies_too()
        // A hang is to be told from a slow machine without waiting too long.
        .longest(Duration::from_secs(60))
}

/// Calls of each driver function in a run without failures.
fn calls(run: Run) -> BTreeMap<String, u64> {
    let outcome = run
        .env("SIMCUDA_JOURNAL", "{scratch}/journal")
        .finish()
        .ok();
    assert_eq!(outcome.stdout, "0 errors\n");
    outcome.must(
        outcome.device().h2d.fanned_out_copies > 3,
        "hardly any copy was fanned out",
    );
    let mut calls = BTreeMap::new();
    for line in outcome.left("journal").lines() {
        let name = line
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .find(|word| word.starts_with("cu"));
        *calls
            .entry(name.expect("every line names a call").to_owned())
            .or_insert(0) += 1;
    }
    calls
}

/// The first calls of each function one by one, some later ones, and all from
/// the first or second on.
fn faults(calls: &BTreeMap<String, u64>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, &count) in calls {
        for nth in (1..=count.min(4)).chain([9, 20, count - 1]) {
            if (1..=count).contains(&nth) {
                faults.push(format!("{name}:{nth}"));
            }
        }
        faults.extend([format!("{name}:1+"), format!("{name}:2+")]);
    }
    faults
}

/// Runs many short programs on all CPUs.
fn each<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(panic) =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case)))
                    {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        failed.lock().expect("no panic inside").push(text);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic inside");
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

/// 999 is an unknown error, 2 a lack of memory.
const CODES: [u32; 2] = [999, 2];

fn every_fault(codes: &[u32], prepare: impl Fn(Run) -> Run + Sync) {
    let calls = calls(prepare(failing(0)));
    println!("{calls:?}");
    for name in [
        "cuStreamCreateWithPriority",
        "cuMemHostRegister_v2",
        "cuEventRecord",
        "cuStreamWaitEvent",
    ] {
        assert!(
            calls.contains_key(name),
            "the journal lacks the lanes' {name}"
        );
    }
    let faults = faults(&calls);
    let cases: Vec<_> = faults
        .iter()
        .flat_map(|fault| codes.iter().map(move |code| (fault, code)))
        .collect();
    println!("{} cases", cases.len());
    each(&cases, |(fault, code)| {
        prepare(failing(**code))
            .env("SIMCUDA_FAIL", format!("{fault}:{code}"))
            .finish()
            .ok();
    });
}

#[test]
fn every_driver_call_may_fail() {
    every_fault(&CODES, |run| run);
}

#[test]
fn every_driver_call_may_fail_on_slow_streams() {
    every_fault(&CODES[..1], |run| run.env("SIMCUDA_DELAY_US", "150"));
}

#[test]
fn every_driver_call_may_fail_while_prewarming() {
    every_fault(&CODES[..1], |run| run.env("CRIU_CUDA_CONTEXT_POOL", "1"));
}

#[test]
fn faults_of_the_lanes_alone_are_not_seen_by_the_program() {
    let lanes_only = [
        "cuStreamCreateWithPriority:1+",
        "cuCtxGetStreamPriorityRange:1+",
        "cuMemHostRegister_v2:1+",
        "cuMemHostRegister_v2:3",
        "cuEventCreate:1+",
        "cuEventCreate:5",
        "cuEventQuery:1+",
        "cuEventRecord:1+",
        "cuEventRecord:4",
        "cuEventSynchronize:1+",
        "cuStreamWaitEvent:1+",
        "cuThreadExchangeStreamCaptureMode:1+",
        "cuStreamIsCapturing:1+",
        "cuPointerGetAttributes:1+",
    ];
    let cases: Vec<_> = lanes_only
        .iter()
        .flat_map(|fault| CODES.map(|code| (fault, code)))
        .collect();
    each(&cases, |(fault, code)| {
        let outcome = failing(*code)
            .env("SIMCUDA_FAIL", format!("{fault}:{code}"))
            .finish()
            .ok();
        outcome.must(
            outcome.stdout == "0 errors\n",
            "the program saw a failure that is not its own",
        );
    });
}

/// Copies that were left to the driver because the lanes could not.
fn left_to_the_driver(outcome: &Outcome, reason: &str) -> u64 {
    let device = outcome.device();
    [&device.h2d, &device.d2h]
        .iter()
        .filter_map(|copies| copies.bypassed.get(reason))
        .sum()
}

#[test]
fn without_threads_the_callers_copy_themselves() {
    let outcome = failing(0)
        .arg("stay")
        .also_preload(shared_library("nothing_for_the_core"))
        .env("REFUSED", "threads")
        .finish()
        .ok();
    assert_eq!(outcome.stdout, "0 errors\n");
    outcome.must(
        outcome.device().lanes == 1,
        "a lane works without its thread",
    );
    outcome.must(
        outcome.device().h2d.fanned_out_copies > 0,
        "the caller's lane does not work",
    );
}

#[test]
fn with_few_threads_the_lanes_that_have_one_work() {
    for threads in 1..4 {
        let outcome = failing(0)
            .arg("stay")
            .also_preload(shared_library("nothing_for_the_core"))
            .env("REFUSED", "threads")
            .env("GRANTED", threads.to_string())
            .finish()
            .ok();
        assert_eq!(outcome.stdout, "0 errors\n");
        outcome.must(
            outcome.device().lanes <= threads + 1,
            "a lane works without its thread",
        );
    }
}

#[test]
fn without_memory_for_staging_the_driver_copies() {
    for (refused, reason) in [("mappings", "lanes_unavailable"), ("pages", "lane_failed")] {
        let outcome = failing(0)
            .arg("stay")
            .also_preload(shared_library("nothing_for_the_core"))
            .env("REFUSED", refused)
            .finish()
            .ok();
        assert_eq!(outcome.stdout, "0 errors\n");
        outcome.must(
            left_to_the_driver(&outcome, reason) > 0,
            "the lanes found memory",
        );
    }
}

#[test]
fn without_pinned_memory_the_driver_copies() {
    let outcome = failing(2)
        .arg("stay")
        .env("SIMCUDA_FAIL", "cuMemHostRegister_v2:1+:2")
        .finish()
        .ok();
    assert_eq!(outcome.stdout, "0 errors\n");
    outcome.must(
        left_to_the_driver(&outcome, "lane_failed") > 0,
        "the lanes found memory",
    );
    outcome.must(
        outcome.device().pinned_bytes == 0,
        "memory is counted that was not pinned",
    );
}

#[test]
fn a_lack_of_device_memory_is_the_drivers_own_error() {
    let outcome = failing(2).env("SIMCUDA_MEMORY_MB", "8").finish().ok();
    assert_eq!(
        outcome.stdout, "1 errors\n",
        "the second allocation does not fit"
    );
}
