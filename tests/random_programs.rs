//! Random programs without data races give the same bytes plain and under
//! rewarm, and the programs notice when one of the fan-out's waits is missing.
//!
//! `REWARM_TEST_PROGRAMS` sets how many programs run, `REWARM_TEST_SEED` the
//! first seed. A failure prints the command that repeats it.

mod common;

use common::{Link, Outcome, Run, app, libraries, number, repository, target};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

/// Programs that one process runs after another.
const BATCH: u64 = 100;

/// Batches differ in how late the driver's streams run, and in the order.
fn batch(rewarmed: bool, first: u64, count: u64) -> Run {
    let delay = ["0", "20", "0", "100"][(first / BATCH % 4) as usize];
    Run::either(app("random_programs", Link::Dlopen), rewarmed)
        .args([first.to_string(), count.to_string()])
        .small_copies_too()
        .env("SIMCUDA_SEED", (first + 1).to_string())
        .env("SIMCUDA_DELAY_US", delay)
}

fn fanned_out(outcome: &Outcome) -> u64 {
    outcome.device().h2d.fanned_out_copies + outcome.device().d2h.fanned_out_copies
}

#[test]
fn random_programs_give_the_bytes_that_the_plain_driver_gives() {
    let programs = number("REWARM_TEST_PROGRAMS", 10_000);
    let first = number("REWARM_TEST_SEED", 1);
    println!("{programs} programs from seed {first}");
    let next = AtomicU64::new(0);
    let copies = AtomicU64::new(0);
    let run_batches = || {
        loop {
            let done = next.fetch_add(BATCH, Ordering::Relaxed);
            if done >= programs {
                return;
            }
            let (seed, count) = (first + done, BATCH.min(programs - done));
            let plain = batch(false, seed, count).finish().ok();
            let rewarmed = batch(true, seed, count).finish().ok();
            rewarmed.must(
                plain.stdout == rewarmed.stdout,
                "digests differ from the plain run's",
            );
            assert_eq!(plain.stdout.lines().count() as u64, count);
            copies.fetch_add(fanned_out(&rewarmed), Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(run_batches);
        }
    });
    let copies = copies.into_inner();
    println!("{copies} copies were fanned out");
    assert!(
        copies > programs,
        "the programs hardly reached the lanes: {copies} copies"
    );
}

/// A front beside a core that can leave out a wait, see `src/lanes/waits.rs`.
fn mutant_front() -> PathBuf {
    let built = target().join("drop-waits");
    let output = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "-p",
            "rewarm-core",
            "--features",
            "rewarm/drop-waits",
        ])
        .arg("--target-dir")
        .arg(&built)
        .current_dir(repository())
        .output()
        .expect("cargo runs this test");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The front looks for the core in its own folder.
    let front = built.join("release/librewarm.so");
    let beside = built.join(format!("front-{}", std::process::id()));
    std::fs::copy(libraries().join("librewarm.so"), &beside).expect("the front can be copied");
    std::fs::rename(&beside, &front).expect("both are in the target folder");
    front
}

/// Programs, each with late streams, until the first failure.
fn first_failure(front: &Path, dropped: &str, programs: u64) -> Option<String> {
    (0..programs).step_by(20).find_map(|first| {
        let outcome = batch(true, first, 20)
            .under(front)
            .env("SIMCUDA_DELAY_US", "300")
            .env("REWARM_DROP_WAIT", dropped)
            .finish();
        outcome.must(
            !outcome.succeeded() || fanned_out(&outcome) > 0,
            "no copy was fanned out",
        );
        let last = outcome.stdout.lines().last().unwrap_or_default();
        (!outcome.succeeded()).then(|| format!("{:?} {last}", outcome.status))
    })
}

#[test]
fn random_programs_notice_every_missing_wait() {
    let front = mutant_front();
    for wait in ["start", "slot", "staged", "join"] {
        match first_failure(&front, wait, 400) {
            Some(failure) => println!("without the {wait} wait: {failure}"),
            None => panic!("400 programs did not notice that the {wait} wait was missing"),
        }
    }
    let failure = first_failure(&front, "none", 60);
    assert_eq!(failure, None, "the same build fails with all its waits");
}
