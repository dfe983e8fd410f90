//! Who writes a snapshot may be killed at any moment.

use crate::common::{Scratch, number};
use crate::memory::Memory;
use crate::steps::{Step, check, memory_at, opened};
use fastrand::Rng;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn a_killed_process_leaves_a_whole_snapshot_or_none() {
    let kills = number("REWARM_TEST_KILLS", 120);
    let first = number("REWARM_TEST_SEED", 1);
    let (mut seed, mut killed) = (first, 0);
    // How long a step takes is found out on the way.
    let mut typical = Duration::from_millis(20);
    while killed < kills {
        println!("seed {seed}, {killed} killed");
        let rng = &mut Rng::with_seed(seed);
        let scratch = Scratch::new();
        let folder = scratch.file("snapshot");
        let mut before = None;
        for (number, step) in Step::random_life(rng, 8).into_iter().enumerate() {
            let begun = Instant::now();
            let mut child = step
                .command(&folder, seed)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(typical.mul_f64(1.2 * rng.f64()));
            child.kill().unwrap();
            let (mut allowed, after) = step.outcomes(before);
            if child.wait().unwrap().success() {
                typical = (typical + begun.elapsed()) / 2;
                allowed = vec![after];
            } else {
                killed += 1;
            }
            if number % 3 == 0 {
                // What the next writer finds is as it was left.
                let copy = scratch.file(&format!("copy-{number}"));
                copy_folder(&folder, &copy);
                check(&copy, seed, &allowed, 20);
            }
            before = found(&folder, seed, &allowed);
        }
        seed += 1;
    }
}

/// Which of these snapshots it is.
fn found(folder: &Path, seed: u64, allowed: &[Option<u64>]) -> Option<u64> {
    let found = opened(folder).unwrap().map(|found| Memory::thaw(&found));
    let is_it = |time: &&Option<u64>| found == time.map(|at| memory_at(seed, at).survived());
    let time = allowed.iter().find(is_it);
    *time.expect("no other snapshot can be there")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    let Ok(entries) = fs::read_dir(from) else {
        return;
    };
    for entry in entries {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
