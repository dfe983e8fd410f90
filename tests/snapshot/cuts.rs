//! Power may be cut at any moment: what was not brought to safety may be there, or
//! in part, or not.
//!
//! `tests/apps/power_cut.c` records what a process does to the folder. From each
//! beginning of a record, folders are made as they could be found afterwards:
//! of each file, the bytes at its last fsync with any of the changes since; of the
//! folder, at each name what it had at its last fsync or at any time since.

use crate::common::{Scratch, number, shared_library};
use crate::steps::{Step, check};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    /// Makes it at least so long.
    Allocate(usize),
    Truncate(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, written) => {
                let end = offset + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(written);
            }
            Change::Allocate(end) => bytes.resize(bytes.len().max(*end), 0),
            Change::Truncate(end) => bytes.resize(*end, 0),
        }
    }

    /// Applies none of it, or all, or of a write some pages.
    fn apply_some(&self, bytes: &mut Vec<u8>, rng: &mut Rng) {
        match (rng.u8(..4), self) {
            (0, _) => {}
            (1, Change::Write(offset, written)) => {
                for (page, part) in written.chunks(4096).enumerate() {
                    if rng.bool() {
                        Change::Write(offset + page * 4096, part.to_vec()).apply(bytes);
                    }
                }
            }
            _ => self.apply(bytes),
        }
    }
}

/// A record.
#[derive(Clone, Debug)]
enum Event {
    Create(usize, String),
    Found(usize, String),
    Change(usize, Change),
    Sync(usize),
    SyncFolder,
    Rename(String, String),
    Unlink(String),
}

fn events(log: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut rest = log;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let words: Vec<_> = line.split(' ').collect();
        let at = |word: usize| words[word].parse::<usize>().unwrap();
        let text = |word: usize| words[word].to_owned();
        events.push(match words[0] {
            "create" => Event::Create(at(1), text(2)),
            "found" => Event::Found(at(1), text(2)),
            "write" => {
                let (bytes, behind) = rest.split_at(at(3));
                rest = behind;
                Event::Change(at(1), Change::Write(at(2), bytes.to_vec()))
            }
            "allocate" => Event::Change(at(1), Change::Allocate(at(2) + at(3))),
            "truncate" => Event::Change(at(1), Change::Truncate(at(2))),
            "sync" if words[1] == "folder" => Event::SyncFolder,
            "sync" => Event::Sync(at(1)),
            "rename" => Event::Rename(text(1), text(2)),
            "unlink" => Event::Unlink(text(1)),
            other => panic!("{other}"),
        });
    }
    assert!(rest.is_empty());
    events
}

/// Which file, whether it was there before the recording or made since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Before(usize),
    Since(usize),
}

#[derive(Clone, Default)]
struct File {
    safe: Vec<u8>,
    changes: Vec<Change>,
}

/// The disk as programs see it, with what of it is safe.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<Id, File>,
    names: BTreeMap<String, Id>,
    safe_names: BTreeMap<String, Id>,
    /// What each name had since the folder was brought to safety.
    unsafe_names: BTreeMap<String, Vec<Option<Id>>>,
    /// Files by the numbers of the record.
    numbers: BTreeMap<usize, Id>,
}

impl Disk {
    /// A folder of which everything is safe.
    fn read(folder: &Path) -> Disk {
        let mut disk = Disk::default();
        for (number, (name, bytes)) in contents(folder).into_iter().enumerate() {
            let file = File {
                safe: bytes,
                changes: Vec::new(),
            };
            disk.files.insert(Id::Before(number), file);
            disk.names.insert(name, Id::Before(number));
        }
        disk.safe_names = disk.names.clone();
        disk
    }

    fn set_name(&mut self, name: &str, id: Option<Id>) {
        match id {
            Some(id) => self.names.insert(name.to_owned(), id),
            None => self.names.remove(name),
        };
        let unsafe_names = self.unsafe_names.entry(name.to_owned());
        unsafe_names.or_default().push(id);
    }

    fn file(&mut self, number: usize) -> &mut File {
        self.files.entry(self.numbers[&number]).or_default()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(number, name) => {
                self.numbers.insert(*number, Id::Since(*number));
                self.set_name(name, Some(Id::Since(*number)));
                self.file(*number);
            }
            Event::Found(number, name) => {
                self.numbers.insert(*number, self.names[name]);
            }
            Event::Change(number, change) => self.file(*number).changes.push(change.clone()),
            Event::Sync(number) => {
                let file = self.file(*number);
                for change in std::mem::take(&mut file.changes) {
                    change.apply(&mut file.safe);
                }
            }
            Event::SyncFolder => {
                self.safe_names = self.names.clone();
                self.unsafe_names.clear();
            }
            Event::Rename(from, to) => {
                let id = self.names[from];
                self.set_name(to, Some(id));
                self.set_name(from, None);
            }
            Event::Unlink(name) => self.set_name(name, None),
        }
    }

    /// Without a power cut.
    fn whole(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.names.iter();
        let files = names.map(|(name, id)| {
            let file = &self.files[id];
            let mut bytes = file.safe.clone();
            file.changes.iter().for_each(|one| one.apply(&mut bytes));
            (name.clone(), bytes)
        });
        files.collect()
    }

    /// Makes the folder that a power cut may leave.
    fn cut(&self, folder: &Path, rng: &mut Rng) {
        let mut names = self.safe_names.clone();
        for (name, had) in &self.unsafe_names {
            let choice = rng.usize(..=had.len());
            match had.get(choice) {
                Some(Some(id)) => drop(names.insert(name.clone(), *id)),
                Some(None) => drop(names.remove(name)),
                None => {}
            }
        }
        fs::create_dir(folder).unwrap();
        let mut made = BTreeMap::new();
        for (name, id) in names {
            let path = folder.join(&name);
            if let Some(same) = made.get(&id) {
                fs::hard_link(same, &path).unwrap();
                continue;
            }
            let file = &self.files[&id];
            let mut bytes = file.safe.clone();
            for change in &file.changes {
                change.apply_some(&mut bytes, rng);
            }
            fs::write(&path, bytes).unwrap();
            made.insert(id, path);
        }
    }
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    let files = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    files.collect()
}

/// Runs a step and returns what it did.
fn record(step: Step, folder: &Path, seed: u64, log: &Path) -> Vec<Event> {
    let output = step
        .command(folder, seed)
        .env("LD_PRELOAD", shared_library("power_cut"))
        .env("POWER_CUT_LOG", log)
        .env("POWER_CUT_FOLDER", folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{step:?}: {output:?}");
    events(&fs::read(log).unwrap())
}

#[test]
fn a_power_cut_leaves_a_whole_snapshot_or_none() {
    let states = number("REWARM_TEST_POWER_CUTS", 600);
    let first = number("REWARM_TEST_SEED", 1);
    let (mut seed, mut seen) = (first, 0);
    while seen < states {
        println!("seed {seed}, {seen} states");
        let rng = &mut Rng::with_seed(seed);
        let scratch = Scratch::new();
        let folder = scratch.file("snapshot");
        let mut before = None;
        for (number, step) in Step::random_life(rng, 6).into_iter().enumerate() {
            let mut disk = Disk::read(&folder);
            let log = scratch.file(&format!("log-{number}"));
            let events = record(step, &folder, seed, &log);
            let (allowed, after) = step.outcomes(before);
            for count in 0..=events.len() {
                if count > 0 {
                    disk.apply(&events[count - 1]);
                }
                // The last records matter most.
                if rng.usize(..6) > 0 && count + 8 < events.len() {
                    continue;
                }
                let is_done = count == events.len();
                let allowed = if is_done { &[after][..] } else { &allowed };
                let cut = scratch.file("cut");
                disk.cut(&cut, rng);
                check(&cut, seed, allowed, 20);
                fs::remove_dir_all(&cut).unwrap();
                seen += 1;
            }
            assert_eq!(disk.whole(), contents(&folder), "not all was recorded");
            before = after;
        }
        seed += 1;
    }
}
