//! Snapshots that were damaged, or made by somebody who means harm.
//!
//! `REWARM_TEST_MANIFESTS` sets how many manifests are tried, `REWARM_TEST_SEED`
//! the first seed.

use crate::common::cli::limit;
use crate::common::{Scratch, number};
use crate::memory::{Memory, with_writers};
use fastrand::Rng;
use rewarm::digest::digest;
use rewarm::snapshot::{Cause, Chunk, Manifest, PAGE, Snapshot, SnapshotError, Writer, prepare};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU64;

/// A folder inside of another, with a small snapshot in two files.
fn a_snapshot(scratch: &Scratch, rng: &mut Rng) -> PathBuf {
    let folder = scratch.file("snapshot");
    loop {
        let snapshot = Memory::random(rng)
            .freeze(&folder, with_writers(2))
            .unwrap();
        let manifest = snapshot.manifest();
        let has_discarded = manifest
            .allocations
            .iter()
            .any(|one| !one.discarded.is_empty());
        if manifest.files.len() == 2 && manifest.chunks.len() <= 8 && has_discarded {
            return folder;
        }
    }
}

fn manifest_of(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

/// A new file: when one is written over, some file systems go to the disk.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A whole manifest with this body and a first line that is right.
fn with_header(body: &[u8]) -> Vec<u8> {
    let mut text = format!(
        "{{\"rewarm_snapshot\":1,\"bytes\":{},\"digest\":\"{}\"}}\n",
        body.len(),
        digest(body)
    )
    .into_bytes();
    text.extend_from_slice(body);
    text
}

fn body_of(text: &[u8]) -> &[u8] {
    let line = text.iter().position(|byte| *byte == b'\n').unwrap();
    &text[line + 1..]
}

#[test]
fn every_changed_byte_of_a_manifest_is_found() {
    let rng = &mut Rng::with_seed(1);
    let scratch = Scratch::new();
    let folder = a_snapshot(&scratch, rng);
    let text = fs::read(manifest_of(&folder)).unwrap();
    let is_refused = |text: &[u8]| {
        replace(&manifest_of(&folder), text);
        Snapshot::open(&folder).is_err()
    };
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= rng.u8(1..);
        assert!(is_refused(&changed), "byte {at}");
        assert!(is_refused(&text[..at]), "cut at {at}");
    }
    for more in [&b"\n"[..], b" ", b"\0", b"{}"] {
        assert!(is_refused(&[&text[..], more].concat()), "{more:?}");
        assert!(is_refused(&[more, &text[..]].concat()), "{more:?}");
    }
    assert!(!is_refused(&text));
}

#[test]
fn every_changed_byte_of_a_chunk_is_found_and_its_place_told() {
    let rng = &mut Rng::with_seed(2);
    let scratch = Scratch::new();
    let folder = a_snapshot(&scratch, rng);
    let snapshot = Snapshot::open(&folder).unwrap();
    let files = &snapshot.manifest().files;
    for _ in 0..300 {
        let file = &files[rng.usize(..files.len())];
        let path = folder.join(&file.name);
        let right = fs::read(&path).unwrap();
        let at = rng.usize(..right.len());
        let mut wrong = right.clone();
        wrong[at] ^= rng.u8(1..);
        fs::write(&path, wrong).unwrap();
        let error = snapshot.verify(2, &AtomicU64::new(0)).unwrap_err();
        fs::write(&path, right).unwrap();
        assert_eq!(error.path, path);
        let Cause::Chunk { offset, bytes, .. } = error.cause else {
            panic!("{error}");
        };
        assert!((offset..offset + bytes).contains(&(at as u64)), "{error}");
    }
    snapshot.verify(2, &AtomicU64::new(0)).unwrap();
}

/// Numbers at which arithmetic goes wrong, and names that lead elsewhere.
fn edge(rng: &mut Rng) -> Value {
    const NUMBERS: [u64; 14] = [
        0,
        1,
        7,
        4095,
        4096,
        8192,
        16_384,
        1 << 31,
        u32::MAX as u64,
        1 << 32,
        1 << 63,
        u64::MAX - 4095,
        u64::MAX - 1,
        u64::MAX,
    ];
    const TEXTS: [&str; 14] = [
        "",
        "zero",
        "discarded",
        "data-0001-00.bin",
        "data-0001-01.bin",
        "../data-0001-00.bin",
        "../outside.bin",
        "/etc/passwd",
        "data-0001-00.bin/../../outside.bin",
        "data-0001-00.bin\0",
        "spare-00.bin",
        "manifest.json",
        ".",
        "00000000000000000000000000000000",
    ];
    match rng.u8(..10) {
        0..5 => json!(NUMBERS[rng.usize(..NUMBERS.len())]),
        5..8 => json!(TEXTS[rng.usize(..TEXTS.len())]),
        8 => [json!(-1), json!(1.5), json!(null), json!(true)][rng.usize(..4)].clone(),
        _ => [json!([]), json!({}), json!([0, 4096]), json!([[[]]])][rng.usize(..4)].clone(),
    }
}

/// Changes something somewhere below.
fn mutate(rng: &mut Rng, value: &mut Value) {
    let is_here = rng.u8(..8) == 0;
    match value {
        Value::Array(list) if !list.is_empty() => {
            let at = rng.usize(..list.len());
            let other = rng.usize(..list.len());
            match rng.u8(..16) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                2 => list.swap(at, other),
                3 => list[at] = list[other].clone(),
                _ => mutate(rng, &mut list[at]),
            }
        }
        Value::Object(map) if !map.is_empty() => {
            let keys: Vec<_> = map.keys().cloned().collect();
            let key = &keys[rng.usize(..keys.len())];
            match rng.u8(..32) {
                0 => drop(map.remove(key)),
                1 => drop(map.insert("more".to_owned(), edge(rng))),
                _ => mutate(rng, map.get_mut(key).unwrap()),
            }
        }
        Value::Number(number) if !is_here => {
            let near = number.as_u64().unwrap_or(0);
            let step = [1, 2, PAGE, 4 * PAGE, 1 << 40][rng.usize(..5)];
            *value = match rng.bool() {
                true => json!(near.wrapping_add(step)),
                false => json!(near.wrapping_sub(step)),
            };
        }
        _ => *value = edge(rng),
    }
}

/// A manifest made from a right one.
fn hostile(rng: &mut Rng, text: &[u8], value: &Value) -> Vec<u8> {
    match rng.u8(..10) {
        // Any bytes, behind a right first line or not.
        0 => {
            let mut body = body_of(text).to_vec();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..body.len());
                body[at] = rng.u8(..);
            }
            with_header(&body)
        }
        1 => {
            let mut text = text.to_vec();
            let at = rng.usize(..text.len().min(150));
            text[at] = rng.u8(..);
            text
        }
        _ => {
            let mut value = value.clone();
            for _ in 0..rng.usize(..4) {
                mutate(rng, &mut value);
            }
            with_header(value.to_string().as_bytes())
        }
    }
}

/// What users of an open snapshot rely on.
fn keeps_promises(folder: &Path, manifest: &Manifest) {
    let mut ranges = BTreeMap::new();
    for file in &manifest.files {
        assert_eq!(Path::new(&file.name).components().count(), 1);
        let metadata = fs::symlink_metadata(folder.join(&file.name)).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.len(), file.bytes);
    }
    let mut next = BTreeMap::new();
    for piece in manifest.pieces() {
        let allocation = &manifest.allocations[piece.allocation];
        let begin: &mut u64 = next.entry(piece.allocation).or_default();
        assert_eq!(*begin, piece.offset);
        *begin += piece.bytes;
        assert!(piece.bytes > 0 && *begin <= allocation.bytes);
        assert!(piece.bytes <= manifest.chunk_bytes && piece.bytes.is_multiple_of(PAGE));
        if let Chunk::Stored(stored) = piece.chunk {
            assert!(stored.offset.is_multiple_of(PAGE));
            let end = stored.offset + piece.bytes;
            assert!(end <= manifest.files[stored.file as usize].bytes);
            assert_eq!(ranges.insert((stored.file, stored.offset), end), None);
        }
    }
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    for (((file, _), end), ((other, begin), _)) in pairs {
        assert!(file != other || end <= begin);
    }
    let mut memory: Vec<_> = manifest.allocations.iter().collect();
    memory.sort_by_key(|one| one.address);
    for pair in memory.windows(2) {
        assert!(pair[0].address + pair[0].bytes <= pair[1].address);
    }
    for (number, allocation) in manifest.allocations.iter().enumerate() {
        assert_eq!(next[&number], allocation.bytes);
        assert!(allocation.address.checked_add(allocation.bytes).is_some());
        let devices = &manifest.devices;
        assert!(devices.iter().any(|one| one.ordinal == allocation.device));
        for range in &allocation.discarded {
            assert!(range.offset + range.bytes <= allocation.bytes);
        }
    }
}

fn kind(found: &Result<Snapshot, SnapshotError>) -> String {
    let Err(error) = found else {
        return "accepted".to_owned();
    };
    let Cause::Damaged(what) = &error.cause else {
        return "not damaged".to_owned();
    };
    // Without what differs from case to case.
    let words = what.split(|letter: char| !letter.is_ascii_alphabetic());
    words
        .filter(|word| word.len() > 2)
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn whatever_manifest_is_accepted_keeps_the_promises() {
    let manifests = number("REWARM_TEST_MANIFESTS", 50_000);
    let first = number("REWARM_TEST_SEED", 1);
    println!("{manifests} manifests from seed {first}");
    let scratch = Scratch::new();
    let folder = a_snapshot(&scratch, &mut Rng::with_seed(3));
    fs::write(scratch.file("outside.bin"), [0; 4096]).unwrap();
    let snapshot = Snapshot::open(&folder).unwrap();
    fs::copy(
        folder.join(&snapshot.manifest().files[0].name),
        scratch.file("data-0001-00.bin"),
    )
    .unwrap();
    let text = fs::read(manifest_of(&folder)).unwrap();
    let value: Value = serde_json::from_slice(body_of(&text)).unwrap();
    let mut kinds = BTreeMap::<_, u64>::new();
    for seed in first..first + manifests {
        let case = hostile(&mut Rng::with_seed(seed), &text, &value);
        replace(&manifest_of(&folder), &case);
        let repeat = RepeatWith(seed);
        let found = Snapshot::open(&folder);
        *kinds.entry(kind(&found)).or_default() += 1;
        match found {
            Ok(snapshot) => {
                keeps_promises(&folder, snapshot.manifest());
                if seed % 8 == 0 {
                    // Right or not, it ends.
                    let _ = snapshot.verify(1, &AtomicU64::new(0));
                }
            }
            Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
        }
        drop(repeat);
    }
    println!("{kinds:#?}");
    if manifests >= 10_000 {
        assert!(kinds.len() >= 25, "only {} kinds", kinds.len());
        let accepted = kinds["accepted"];
        assert!(accepted > manifests / 20, "only {accepted} were accepted");
    }
}

/// Says which seed it was if the test ends here.
struct RepeatWith(u64);

impl Drop for RepeatWith {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            println!("repeat with REWARM_TEST_SEED={seed} REWARM_TEST_MANIFESTS=1");
        }
    }
}

const HUGE: &str = "SNAPSHOT_HUGE";

#[test]
#[ignore = "another test runs it in a process of its own"]
fn open_a_huge_one() {
    let folder = std::env::var(HUGE).expect("another test runs this one");
    let error = Snapshot::open(Path::new(&folder)).unwrap_err();
    println!("refused: {error}");
}

/// Lists that take much more memory than text.
#[test]
fn a_huge_manifest_takes_little_memory() {
    const MOST_MEMORY: u64 = 512 << 20;
    const BODY: usize = 24 << 20;
    let scratch = Scratch::new();
    let folder = a_snapshot(&scratch, &mut Rng::with_seed(4));
    let text = fs::read(manifest_of(&folder)).unwrap();
    let body = String::from_utf8(body_of(&text).to_vec()).unwrap();
    let open = |body: &str| {
        fs::write(manifest_of(&folder), with_header(body.as_bytes())).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "hostile::open_a_huge_one",
            "--ignored",
            "--nocapture",
        ]);
        command.env(HUGE, &folder);
        let output = limit(&mut command, libc::RLIMIT_AS, MOST_MEMORY)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        said
    };
    for (before, element) in [
        ("\"chunks\":[", "\"zero\","),
        (
            "\"devices\":[",
            "[0,\"\",\"00000000000000000000000000000000\",0],",
        ),
        ("\"allocations\":[", "[0,0,0,0,[]],"),
        ("\"files\":[", "[\"\",0],"),
        ("\"allocations\":[[0,0,0,0,[", "[0,0],"),
    ] {
        let key = before.split_inclusive('[').next().unwrap();
        let (head, tail) = body.split_once(key).unwrap();
        let mut huge = format!("{head}{before}");
        while huge.len() + element.len() + tail.len() < BODY {
            huge.push_str(element);
        }
        huge.push_str(tail);
        let said = open(&huge);
        assert!(said.contains("a list of more than"), "{before}: {said}");
    }
    let beyond = " ".repeat(128 << 20);
    assert!(open(&beyond).contains("a manifest of"));
}

#[track_caller]
fn refused<T>(result: Result<T, SnapshotError>, word: &str) {
    match result {
        Ok(_) => panic!("accepted"),
        Err(error) => assert!(error.to_string().contains(word), "{error}"),
    }
}

#[test]
fn links_pipes_and_what_belongs_to_others_are_refused() {
    let rng = &mut Rng::with_seed(5);
    let scratch = Scratch::new();
    let folder = a_snapshot(&scratch, rng);
    let names = {
        let snapshot = Snapshot::open(&folder).unwrap();
        let files = snapshot.manifest().files.iter();
        files.map(|file| file.name.clone()).collect::<Vec<_>>()
    };
    let away = scratch.file("away");
    for name in ["manifest.json", &names[0], &names[1]] {
        let path = folder.join(name);
        fs::rename(&path, &away).unwrap();
        symlink(&away, &path).unwrap();
        refused(Snapshot::open(&folder), "not a regular file");
        refused(
            Writer::create(&folder, with_writers(1)),
            "not a regular file",
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused(Snapshot::open(&folder), "not a regular file");
        fs::remove_dir(&path).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        refused(Snapshot::open(&folder), "not a regular file");
        fs::remove_file(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        if is_root() {
            chown(&path, Some(12_345), None).unwrap();
            refused(Snapshot::open(&folder), "belongs to user 12345");
            // Unless that is the user whose process wrote it.
            Snapshot::open_of(&folder, 12_345).unwrap();
            refused(Snapshot::open_of(&folder, 12_346), "belongs to user 12345");
            chown(&path, Some(0), None).unwrap();
        }
    }
    if is_root() {
        chown(&folder, Some(12_345), None).unwrap();
        refused(Snapshot::open(&folder), "belongs to user 12345");
        refused(
            Writer::create(&folder, with_writers(1)),
            "belongs to user 12345",
        );
        chown(&folder, Some(0), None).unwrap();
    }
    Snapshot::open(&folder).unwrap();
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Room made ahead is written over, so it must be nobody else's file.
#[test]
fn room_that_is_another_file_is_not_written_to() {
    let scratch = Scratch::new();
    let folder = scratch.file("snapshot");
    fs::create_dir(&folder).unwrap();
    let precious = scratch.file("precious");
    fs::write(&precious, [7; 8192]).unwrap();
    let spare = folder.join("spare-00.bin");
    let both = |word: &str| {
        refused(Writer::create(&folder, with_writers(1)), word);
        refused(prepare(&folder, 1 << 20, 1, &AtomicU64::new(0)), word);
        assert_eq!(fs::read(&precious).unwrap(), [7; 8192]);
        fs::remove_file(&spare).unwrap();
    };
    symlink(&precious, &spare).unwrap();
    both("not a regular file");
    fs::hard_link(&precious, &spare).unwrap();
    both("more than one name");
}

#[test]
fn a_folder_that_cannot_be_one_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.file("file");
    fs::write(&file, "x").unwrap();
    refused(Snapshot::open(&file), "not a folder");
    refused(Writer::create(&file, with_writers(1)), "not a folder");
    refused(Snapshot::open(&scratch.file("none")), "No such file");
    let below = scratch.file("none/below");
    refused(Writer::create(&below, with_writers(1)), "make it first");
    refused(Writer::create(scratch.path(), with_writers(0)), "0 writers");
    refused(Snapshot::open(scratch.path()), "holds no snapshot");
    assert_eq!(crate::whole::names(scratch.path()), ["file"]);
}

#[test]
fn a_damaged_snapshot_is_not_written_over() {
    let scratch = Scratch::new();
    let folder = a_snapshot(&scratch, &mut Rng::with_seed(6));
    let manifest = fs::read_to_string(manifest_of(&folder)).unwrap();
    let names = crate::whole::names(&folder);
    let later = manifest.replacen("\"rewarm_snapshot\":1", "\"rewarm_snapshot\":2", 1);
    for (text, word) in [(later, "format 2"), ("{}".to_owned(), "damaged")] {
        fs::write(manifest_of(&folder), text).unwrap();
        refused(Snapshot::open(&folder), word);
        refused(Writer::create(&folder, with_writers(1)), word);
        assert_eq!(crate::whole::names(&folder), names);
    }
}
