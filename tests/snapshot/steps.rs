//! Steps in the life of a snapshot, each done by a process of its own.

use crate::memory::{Memory, with_writers};
use fastrand::Rng;
use rewarm::snapshot::{Snapshot, SnapshotError, prepare};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU64;

const STEP: &str = "SNAPSHOT_STEP";

/// What is done to the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The memory at this time becomes the snapshot.
    Freeze(u64),
    Prepare,
    Recycle,
    Remove,
}

impl Step {
    /// A life, with snapshots of growing time.
    pub fn random_life(rng: &mut Rng, steps: u64) -> Vec<Step> {
        let mut life = Vec::new();
        for time in 0..steps {
            life.push(match rng.u8(..8) {
                0 => Step::Prepare,
                1 => Step::Recycle,
                2 => Step::Remove,
                _ => Step::Freeze(time),
            });
        }
        life
    }

    /// Which snapshots there may be if it ends anywhere, and which when it is
    /// done: times.
    pub fn outcomes(self, before: Option<u64>) -> (Vec<Option<u64>>, Option<u64>) {
        let after = match self {
            Step::Freeze(time) => Some(time),
            Step::Prepare => before,
            Step::Recycle | Step::Remove => None,
        };
        (vec![before, after], after)
    }

    /// In this process.
    pub fn run(self, folder: &Path, seed: u64) -> Result<(), SnapshotError> {
        let rng = &mut Rng::with_seed(seed);
        let writers = rng.usize(1..4);
        let room = rng.u64(..1 << 19);
        match self {
            Step::Freeze(time) => {
                let memory = memory_at(seed, time);
                memory.freeze(folder, with_writers(writers)).map(drop)
            }
            Step::Prepare => prepare(folder, room, writers, &AtomicU64::new(0)).map(drop),
            Step::Recycle => opened(folder)?.map_or(Ok(()), |snapshot| snapshot.recycle()),
            Step::Remove => opened(folder)?.map_or(Ok(()), |snapshot| snapshot.remove()),
        }
    }

    /// In a process of its own.
    pub fn command(self, folder: &Path, seed: u64) -> Command {
        let (what, time) = match self {
            Step::Freeze(time) => ("freeze", time),
            Step::Prepare => ("prepare", 0),
            Step::Recycle => ("recycle", 0),
            Step::Remove => ("remove", 0),
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "steps::one_step", "--ignored"])
            .env(STEP, format!("{what} {time} {seed} {}", folder.display()));
        command
    }
}

/// The memory of a life at a time.
pub fn memory_at(seed: u64, time: u64) -> Memory {
    let rng = &mut Rng::with_seed(seed);
    let first = Memory::random(rng);
    (0..time).fold(first, |memory, _| memory.changed(rng))
}

/// The snapshot of a folder, if it has one.
pub fn opened(folder: &Path) -> Result<Option<Snapshot>, SnapshotError> {
    if !folder.exists() {
        return Ok(None);
    }
    match Snapshot::open(folder) {
        Ok(snapshot) => Ok(Some(snapshot)),
        Err(error) if error.is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Insists that the folder holds one of these snapshots whole, and that it can be
/// used as if nothing had happened.
#[track_caller]
pub fn check(folder: &Path, seed: u64, allowed: &[Option<u64>], next: u64) {
    match opened(folder).unwrap() {
        None => assert!(allowed.contains(&None), "the snapshot is gone: {allowed:?}"),
        Some(snapshot) => {
            snapshot.verify(1, &AtomicU64::new(0)).unwrap();
            let found = Memory::thaw(&snapshot);
            let times = allowed.iter().flatten();
            let mut memories = times.map(|time| memory_at(seed, *time).survived());
            assert!(memories.any(|memory| memory == found), "{allowed:?}");
        }
    }
    let memory = memory_at(seed, next);
    let snapshot = memory.freeze(folder, with_writers(2)).unwrap();
    assert_eq!(Memory::thaw(&snapshot), memory.survived());
    snapshot.verify(1, &AtomicU64::new(0)).unwrap();
    let files = &snapshot.manifest().files;
    for name in crate::whole::names(folder) {
        let is_data = files.iter().any(|file| file.name == name);
        let is_ours = is_data || name == "manifest.json" || name.starts_with("spare-");
        assert!(is_ours, "{name} was left");
    }
}

#[test]
#[ignore = "other tests run it in a process of its own"]
fn one_step() {
    let step = std::env::var(STEP).expect("other tests run this one");
    let parts: Vec<_> = step.splitn(4, ' ').collect();
    let number = |part: usize| parts[part].parse::<u64>().unwrap();
    let step = match parts[0] {
        "freeze" => Step::Freeze(number(1)),
        "prepare" => Step::Prepare,
        "recycle" => Step::Recycle,
        _ => Step::Remove,
    };
    step.run(Path::new(parts[3]), number(2)).unwrap();
}
