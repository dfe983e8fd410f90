//! Room on disk: made ahead, limited, and not there.

use crate::common::cli::limit;
use crate::common::{Scratch, number};
use crate::memory::{CHUNK, Memory, with_writers};
use crate::steps::{Step, memory_at};
use crate::whole::names;
use fastrand::Rng;
use rewarm::digest::digest;
use rewarm::snapshot::{Cause, Process, Snapshot, SnapshotError, Writer, WriterOptions, prepare};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

fn room(path: &Path, bytes: u64, writers: usize) -> Result<u64, SnapshotError> {
    let progress = AtomicU64::new(0);
    let before = spare_bytes(path);
    let room = prepare(path, bytes, writers, &progress)?;
    assert_eq!(spare_bytes(path), room);
    assert_eq!(progress.into_inner(), room - before);
    Ok(room)
}

/// Bytes of spare files; all are on disk, with their blocks.
fn spare_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.unwrap());
    let spares = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with("spare-"));
    let bytes = spares.map(|entry| {
        let metadata = entry.metadata().unwrap();
        assert!(metadata.blocks() * 512 >= metadata.len());
        metadata.len()
    });
    bytes.sum()
}

#[test]
fn room_that_was_made_is_used_by_all_writers_and_what_is_left_is_given_back() {
    let scratch = Scratch::new();
    let folder = scratch.file("snapshot");
    assert_eq!(room(&folder, 20 << 20, 3).unwrap(), 24 << 20);
    // What is there is enough.
    assert_eq!(room(&folder, 9 << 20, 3).unwrap(), 24 << 20);
    assert_eq!(room(&folder, 25 << 20, 3).unwrap(), 36 << 20);
    let writer = Writer::create(&folder, with_writers(3)).unwrap();
    let chunk = vec![5; 4 << 20];
    // All of the room, by one writer.
    let places: Vec<_> = (0..9).map(|_| writer.write(1, &chunk).unwrap()).collect();
    assert_eq!(spare_bytes(&folder), 36 << 20);
    assert_eq!(names(&folder).len(), 3);
    let mut memory = Memory::random(&mut Rng::with_seed(1));
    memory.allocations.truncate(1);
    let (allocation, bytes) = &mut memory.allocations[0];
    *bytes = chunk.repeat(9);
    allocation.bytes = bytes.len() as u64;
    allocation.discarded.clear();
    let mut contents = memory.contents(Vec::new());
    contents.chunk_bytes = chunk.len() as u64;
    let chunks = places.iter().map(|place| place.chunk(digest(&chunk)));
    contents.chunks = chunks.collect();
    let snapshot = writer.commit(contents).unwrap();
    assert_eq!(Memory::thaw(&snapshot), memory);
    let files = ["data-0001-00.bin", "data-0001-01.bin", "data-0001-02.bin"];
    let all = [&files[..], &["manifest.json"]].concat();
    assert_eq!(names(&folder), all);
    snapshot.recycle().unwrap();
    drop(snapshot);
    assert_eq!(spare_bytes(&folder), 36 << 20);
    // A small snapshot takes little of it for good.
    let snapshot = memory_at(1, 0).freeze(&folder, with_writers(1)).unwrap();
    assert_eq!(spare_bytes(&folder), 24 << 20);
    snapshot.remove().unwrap();
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn a_writer_that_gives_up_leaves_what_was_there() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let before = memory_at(1, 0);
    drop(before.freeze(folder, with_writers(2)).unwrap());
    room(folder, 4 << 20, 1).unwrap();
    let found = names(folder);
    let sizes = |path: &Path| {
        let entries = fs::read_dir(path).unwrap();
        let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
        sizes.sum::<u64>()
    };
    let bytes = sizes(folder);
    let writer = Writer::create(folder, with_writers(2)).unwrap();
    for number in [0, 0, 1, 0] {
        writer.write(number, &vec![1; 3 << 20]).unwrap();
    }
    drop(writer);
    assert_eq!(names(folder), found);
    assert_eq!(sizes(folder), bytes);
    assert_eq!(
        Memory::thaw(&Snapshot::open(folder).unwrap()),
        before.survived()
    );
}

#[test]
fn writers_are_kept_apart_until_a_snapshot_is_let_go() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let is_locked = || {
        let error = Writer::create(folder, with_writers(1)).unwrap_err();
        assert!(matches!(error.cause, Cause::Locked), "{error}");
        let error = prepare(folder, 1, 1, &AtomicU64::new(0)).unwrap_err();
        assert!(matches!(error.cause, Cause::Locked), "{error}");
    };
    let writer = Writer::create(folder, with_writers(1)).unwrap();
    is_locked();
    // A child that was forked meanwhile must not keep the lock.
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let memory = memory_at(2, 0);
    let contents = memory.write(&writer, 1).unwrap();
    let snapshot = writer.commit(contents).unwrap();
    is_locked();
    let opened = Snapshot::open(folder).unwrap();
    let error = opened.remove().unwrap_err();
    assert!(matches!(error.cause, Cause::Locked), "{error}");
    drop(snapshot);
    let old = Snapshot::open(folder).unwrap();
    drop(memory_at(2, 1).freeze(folder, with_writers(1)).unwrap());
    // What is open stays as it is, but is no longer what the folder holds.
    assert_eq!(Memory::thaw(&old), memory.survived());
    let error = old.recycle().unwrap_err();
    assert!(matches!(error.cause, Cause::Replaced), "{error}");
    Snapshot::open(folder).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_snapshot_of_a_process_that_lives_is_left_alone() {
    let scratch = Scratch::new();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let memory = memory_at(3, 0);
    let writer = Writer::create(scratch.path(), with_writers(1)).unwrap();
    let mut contents = memory.write(&writer, 1).unwrap();
    contents.process = Process {
        pid: child.id(),
        start_time: start_time(child.id()),
        ..Process::current().unwrap()
    };
    drop(writer.commit(contents).unwrap());
    let error = Writer::create(scratch.path(), with_writers(1)).unwrap_err();
    assert!(
        matches!(error.cause, Cause::Owned(pid) if pid == child.id()),
        "{error}"
    );
    child.kill().unwrap();
    // Dead is dead, even before somebody has asked.
    let begun = Instant::now();
    while let Err(error) = Writer::create(scratch.path(), with_writers(1)) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait().unwrap();
}

/// Two containers may each have a process of the same pid, and a volume that both see.
#[test]
fn the_snapshot_of_a_process_of_another_container_is_left_alone() {
    let scratch = Scratch::new();
    let memory = memory_at(3, 0);
    let writer = Writer::create(scratch.path(), with_writers(1)).unwrap();
    let mut contents = memory.write(&writer, 1).unwrap();
    let this = contents.process.clone();
    contents.process.pid_namespace += 1;
    drop(writer.commit(contents).unwrap());
    let error = Writer::create(scratch.path(), with_writers(1)).unwrap_err();
    assert!(
        matches!(error.cause, Cause::OwnedElsewhere(pid) if pid == this.pid),
        "{error}"
    );
    let snapshot = Snapshot::open(scratch.path()).unwrap();
    assert_eq!(Memory::thaw(&snapshot), memory.survived());
}

#[test]
fn a_folder_that_everybody_may_write_to_is_refused() {
    let scratch = Scratch::new();
    let folder = scratch.file("open");
    fs::create_dir(&folder).unwrap();
    let allow = |mode| fs::set_permissions(&folder, Permissions::from_mode(mode)).unwrap();
    allow(0o777);
    let error = Writer::create(&folder, with_writers(1)).unwrap_err();
    assert!(matches!(error.cause, Cause::Open), "{error}");
    let error = prepare(&folder, CHUNK, 1, &AtomicU64::new(0)).unwrap_err();
    assert!(matches!(error.cause, Cause::Open), "{error}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    // As /tmp is.
    allow(0o1777);
    drop(memory_at(1, 0).freeze(&folder, with_writers(1)).unwrap());
    allow(0o700);
    drop(memory_at(1, 1).freeze(&folder, with_writers(1)).unwrap());
}

fn start_time(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(')').unwrap();
    rest.split_whitespace().nth(19).unwrap().parse().unwrap()
}

#[test]
fn a_budget_is_not_exceeded() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let budget = 8 * CHUNK;
    let options = WriterOptions {
        writers: 1,
        budget_bytes: Some(budget),
    };
    let writer = Writer::create(folder, options).unwrap();
    let chunk = vec![1; CHUNK as usize];
    for _ in 0..8 {
        writer.write(0, &chunk).unwrap();
    }
    let error = writer.write(0, &chunk[..4096]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("budget of 131072 bytes"), "{message}");
    let file = fs::metadata(folder.join("data-0001-00.bin")).unwrap();
    assert_eq!(file.len(), budget);
    let contents = memory_at(4, 0).contents(Vec::new());
    let error = writer.commit(contents).unwrap_err();
    assert!(matches!(error.cause, Cause::Incomplete), "{error}");
    assert_eq!(names(folder), [""; 0]);
    // The manifest counts too.
    let writer = Writer::create(
        folder,
        WriterOptions {
            budget_bytes: Some(100),
            ..options
        },
    );
    let writer = writer.unwrap();
    let mut contents = memory_at(4, 0).contents(Vec::new());
    contents.allocations.clear();
    let error = writer.commit(contents).unwrap_err();
    assert!(matches!(error.cause, Cause::Budget { .. }), "{error}");
    assert_eq!(names(folder), [""; 0]);
}

#[test]
fn contents_that_could_not_be_opened_are_not_written() {
    let scratch = Scratch::new();
    let folder = scratch.path();
    let before = memory_at(5, 0);
    drop(before.freeze(folder, with_writers(1)).unwrap());
    let writer = Writer::create(folder, with_writers(1)).unwrap();
    for wrong in [0, 100, 4097] {
        let error = writer.write(0, &vec![1; wrong]).unwrap_err();
        assert!(matches!(error.cause, Cause::Invalid(_)), "{error}");
    }
    drop(writer);
    let writer = Writer::create(folder, with_writers(1)).unwrap();
    let mut contents = memory_at(5, 1).write(&writer, 1).unwrap();
    contents.chunks.pop();
    let error = writer.commit(contents).unwrap_err();
    assert!(matches!(error.cause, Cause::Invalid(_)), "{error}");
    let found = Snapshot::open(folder).unwrap();
    assert_eq!(Memory::thaw(&found), before.survived());
}

/// Files may only become so long: writes fail with EFBIG, in every place that
/// there is.
#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let seed = 6;
    let scratch = Scratch::new();
    let folder = scratch.file("snapshot");
    let before = memory_at(seed, 0);
    drop(before.freeze(&folder, with_writers(2)).unwrap());
    let found = names(&folder);
    let mut failures = 0;
    for most in (0..number("REWARM_TEST_LIMITS", 24)).map(|step| step * 6000) {
        let mut command = Command::new("sh");
        let step = Step::Freeze(3).command(&folder, seed);
        // Without this, the limit is a signal that ends the process.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        command.arg(step.get_program()).args(step.get_args());
        let variables = step
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        command.envs(variables);
        let output = limit(&mut command, libc::RLIMIT_FSIZE, most)
            .output()
            .unwrap();
        if output.status.success() {
            continue;
        }
        failures += 1;
        assert_eq!(names(&folder), found, "limit {most}");
        let snapshot = Snapshot::open(&folder).unwrap();
        assert_eq!(Memory::thaw(&snapshot), before.survived());
    }
    assert!(failures >= 3, "only {failures} failed");
}

const FULL: &str = "SNAPSHOT_FULL";

/// In a file system with 4 MiB.
#[test]
#[ignore = "another test runs it in a process of its own"]
fn in_a_full_file_system() {
    let folder = std::env::var(FULL).expect("another test runs this one");
    let folder = Path::new(&folder);
    let before = memory_at(7, 0);
    drop(before.freeze(folder, with_writers(2)).unwrap());
    let found = names(folder);
    let error = prepare(folder, 64 << 20, 2, &AtomicU64::new(0)).unwrap_err();
    assert!(matches!(error.cause, Cause::NoRoom { .. }), "{error}");
    assert_eq!(names(folder), found);
    let writer = Writer::create(folder, with_writers(2)).unwrap();
    let chunk = vec![1; 1 << 20];
    let error = (0..8).find_map(|_| writer.write(1, &chunk).err()).unwrap();
    let message = error.to_string();
    for word in ["data-0002-01.bin", "1048576 bytes", "No space left"] {
        assert!(message.contains(word), "{message}");
    }
    drop(writer);
    assert_eq!(names(folder), found);
    drop(memory_at(7, 1).freeze(folder, with_writers(2)).unwrap());
    let snapshot = Snapshot::open(folder).unwrap();
    assert_eq!(Memory::thaw(&snapshot), memory_at(7, 1).survived());
}

#[test]
fn a_full_file_system_leaves_what_was_there() {
    let scratch = Scratch::new();
    let folder = scratch.file("snapshot");
    fs::create_dir(&folder).unwrap();
    let mount = "mount -t tmpfs -o size=4m,mode=700 none \"$SNAPSHOT_FULL\"";
    let run = |script: &str| -> Output {
        Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "room::in_a_full_file_system", "--ignored"])
            .env(FULL, &folder)
            .output()
            .unwrap()
    };
    if !run(mount).status.success() {
        // The limits on files above have the same ways to fail.
        println!("no file system can be mounted here: {:?}", run(mount));
        return;
    }
    let output = run(&format!("{mount} && exec \"$@\""));
    assert!(output.status.success(), "{output:?}");
}
