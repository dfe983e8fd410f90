//! What is frozen comes back, and what is not as it was written is found.

use crate::common::{Scratch, number};
use crate::memory::{CHUNK, Memory, with_writers};
use fastrand::Rng;
use rewarm::snapshot::{Snapshot, prepare};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicU64;

fn verify(snapshot: &Snapshot) -> Result<u64, rewarm::snapshot::SnapshotError> {
    snapshot.verify(2, &AtomicU64::new(0))
}

/// Names in a folder, in order.
pub fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn memory_comes_back_over_generations_in_one_folder() {
    for seed in 1..=number("REWARM_TEST_SNAPSHOTS", 40) {
        println!("seed {seed}");
        let rng = &mut Rng::with_seed(seed);
        let scratch = Scratch::new();
        let folder = scratch.file("snapshot");
        let mut memory = Memory::random(rng);
        for _ in 0..rng.u8(1..6) {
            if rng.bool() {
                prepare(&folder, rng.u64(..1 << 20), 2, &AtomicU64::new(0)).unwrap();
            }
            let writers = rng.usize(1..4);
            let written = memory.freeze(&folder, with_writers(writers)).unwrap();
            assert_eq!(Memory::thaw(&written), memory.survived());
            let opened = Snapshot::open(&folder).unwrap();
            assert_eq!(opened.manifest(), written.manifest());
            assert_eq!(Memory::thaw(&opened), memory.survived());
            verify(&opened).unwrap();
            drop(written);
            match rng.u8(..4) {
                0 => {
                    opened.remove().unwrap();
                    assert_eq!(names(&folder), [""; 0]);
                }
                1 => {
                    opened.recycle().unwrap();
                    assert!(Snapshot::open(&folder).unwrap_err().is_none());
                    assert!(names(&folder).iter().all(|name| name.starts_with("spare-")));
                }
                _ => {}
            }
            memory = memory.changed(rng);
        }
    }
}

#[test]
fn only_what_changed_is_written_again_and_dead_files_go() {
    let scratch = Scratch::new();
    let rng = &mut Rng::with_seed(1);
    let mut memory = Memory::random(rng);
    memory.allocations.truncate(1);
    let (allocation, bytes) = &mut memory.allocations[0];
    allocation.discarded.clear();
    allocation.bytes = 8 * CHUNK;
    bytes.resize(allocation.bytes as usize, 0);
    rng.fill(bytes);
    let freeze = |memory: &Memory| {
        let snapshot = memory.freeze(scratch.path(), with_writers(1)).unwrap();
        assert_eq!(Memory::thaw(&snapshot), *memory);
        let files = snapshot.manifest().files.iter();
        files.map(|file| file.bytes / CHUNK).collect::<Vec<_>>()
    };
    let mut change = |memory: &mut Memory, chunks: usize| {
        rng.fill(&mut memory.allocations[0].1[..chunks * CHUNK as usize]);
    };
    assert_eq!(freeze(&memory), [8]);
    assert_eq!(freeze(&memory), [8]);
    change(&mut memory, 3);
    assert_eq!(freeze(&memory), [3, 8]);
    // Of the first file 5 of 8 were in use, so it is kept; of the second none are.
    change(&mut memory, 5);
    assert_eq!(freeze(&memory), [5, 8]);
    // Now 3 of 8 are, so it is not.
    assert_eq!(freeze(&memory), [5, 3]);
    change(&mut memory, 8);
    assert_eq!(freeze(&memory), [8]);
    assert_eq!(names(scratch.path()), ["data-0006-00.bin", "manifest.json"]);
}
