//! Freezes and thaws that cannot be: why is said, nothing is lost, and what can be
//! repeated works when the reason is gone.

mod common;

use common::live::{Live, ended};
use common::{Link, Run, app};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn program() -> Run {
    Run::rewarmed(app("freeze", Link::Dlopen)).lanes(4)
}

fn small_program() -> Run {
    program().arg("memory=small,tiny,plain,zero")
}

/// A freeze fails, and everything is as before.
#[track_caller]
fn not_frozen(live: &mut Live, options: &[&str], words: &[&str]) {
    let used = live.used();
    live.refused(live.freezing(options), words);
    assert_eq!(live.state(), "active");
    assert_eq!(live.used(), used);
}

/// It can be frozen and thawed.
fn works(live: &mut Live) {
    live.must("check");
    live.freeze(&[]);
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn a_stream_that_does_not_drain() {
    let mut live = Live::start(program());
    live.must("busy");
    not_frozen(&mut live, &["--drain", "0.4"], &["gpu work"]);
    live.must("check");
    live.must("idle");
    works(&mut live);
}

#[test]
fn a_stream_that_drains_in_time() {
    let mut live = Live::start(program());
    live.must("busy");
    let mut freeze = live.freezing(&["--drain", "60"]);
    let child = freeze.spawn().expect("rewarm starts");
    std::thread::sleep(Duration::from_millis(300));
    live.must("idle");
    assert!(ended(child).status.success());
    assert_eq!(live.state(), "frozen");
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn a_host_function_that_waits() {
    let mut live = Live::start(program());
    live.must("host");
    not_frozen(&mut live, &["--drain", "0.4"], &["gpu work"]);
    live.must("check");
    live.must("unhost");
    works(&mut live);
}

#[test]
fn a_capture_in_progress() {
    let mut live = Live::start(program());
    live.must("capture");
    not_frozen(&mut live, &["--drain", "0.4"], &["captur"]);
    live.must("release");
    works(&mut live);
}

#[test]
fn captures_that_are_over_are_in_nobodys_way() {
    let mut live = Live::start(program());
    for command in ["nested", "abandon"] {
        live.must(command);
        works(&mut live);
    }
}

#[test]
fn managed_memory() {
    let mut live = Live::start(small_program());
    live.must("alloc managed");
    not_frozen(&mut live, &[], &["managed"]);
    live.must("check");
    live.must("drop managed");
    works(&mut live);
}

#[test]
fn memory_of_another_process() {
    let mut live = Live::start(small_program());
    live.must("alloc imported");
    not_frozen(&mut live, &[], &["another process"]);
    live.must("check");
}

#[test]
fn too_little_memory_to_thaw() {
    let mut live = Live::start(program().env("SIMCUDA_MEMORY_MB", "256"));
    let used = live.used();
    live.freeze(&[]);
    live.make_scarce(250 * MIB);
    for options in [&[][..], &["--wait=0.3"]] {
        live.refused(live.thawing(options), &["memory"]);
        assert_eq!(live.state(), "frozen");
    }
    let child = live.thawing(&["--wait"]).spawn().expect("rewarm starts");
    std::thread::sleep(Duration::from_millis(400));
    assert_ne!(live.state(), "active");
    live.make_scarce(0);
    assert!(ended(child).status.success());
    assert_eq!(live.used(), used);
    live.must("check");
    works(&mut live);
}

/// The data files of the snapshot, the largest first.
fn data_files(live: &Live) -> Vec<PathBuf> {
    let entries = fs::read_dir(live.snapshot()).expect("there is a snapshot");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().contains("/data-"));
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    files
}

/// Changes a byte of a file, or changes it back.
fn flip(path: &PathBuf, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// A thaw fails, and the process stays frozen.
#[track_caller]
fn stays_frozen(live: &Live, options: &[&str], words: &[&str]) {
    live.refused(live.thawing(options), words);
    assert_eq!(live.state(), "frozen");
}

#[test]
fn a_chunk_that_was_changed() {
    let mut live = Live::start(program());
    live.freeze(&[]);
    let path = &data_files(&live)[0];
    let name = path.file_name().unwrap().to_str().unwrap();
    let length = fs::metadata(path).unwrap().len();
    for offset in [0, 4095, length / 2, length - 4096] {
        flip(path, offset);
        stays_frozen(&live, &[], &[name]);
        flip(path, offset);
    }
    live.thaw(&[]);
    live.must("check");
    works(&mut live);
}

#[test]
fn chunks_that_were_exchanged() {
    let mut live = Live::start(program().arg("memory=large"));
    live.freeze(&[]);
    let path = &data_files(&live)[0];
    let exchange = || {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (mut one, mut two) = (vec![0; 4 << 20], vec![0; 4 << 20]);
        file.read_exact_at(&mut one, 0).unwrap();
        file.read_exact_at(&mut two, 4 << 20).unwrap();
        assert!(one != two);
        file.write_all_at(&two, 0).unwrap();
        file.write_all_at(&one, 4 << 20).unwrap();
    };
    exchange();
    stays_frozen(&live, &[], &["data-"]);
    exchange();
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn files_that_are_missing_or_cut() {
    let mut live = Live::start(program());
    live.freeze(&[]);
    let mut paths = data_files(&live);
    paths.truncate(2);
    paths.push(live.snapshot().join("manifest.json"));
    for path in &paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        let aside = live.scratch().join("aside");
        fs::rename(path, &aside).unwrap();
        stays_frozen(&live, &[], &["snapshot"]);
        let bytes = fs::read(&aside).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        stays_frozen(&live, &[], &[name]);
        fs::rename(&aside, path).unwrap();
    }
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn a_manifest_that_was_changed() {
    let mut live = Live::start(small_program());
    live.freeze(&[]);
    let path = live.snapshot().join("manifest.json");
    let length = fs::metadata(&path).unwrap().len();
    for offset in (0..length).step_by(97) {
        flip(&path, offset);
        stays_frozen(&live, &[], &["manifest.json"]);
        flip(&path, offset);
    }
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn the_snapshot_of_another_process_or_an_older_one() {
    let other = Live::start(small_program());
    let mut live = Live::start(small_program());
    other.freeze(&[]);
    live.freeze(&[]);
    let foreign = other.snapshot();
    stays_frozen(&live, &["--from", foreign.to_str().unwrap()], &["snapshot"]);
    live.thaw(&["--keep-snapshot"]);
    let older = live.scratch().join("older");
    fs::rename(live.snapshot(), &older).unwrap();
    live.must("touch 5 77");
    live.freeze(&[]);
    stays_frozen(&live, &["--from", older.to_str().unwrap()], &["snapshot"]);
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn a_budget_that_is_too_small() {
    let mut live = Live::start(program());
    not_frozen(&mut live, &["--budget", "1M"], &["1"]);
    let left = fs::read_dir(live.snapshot()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "something of a snapshot is left");
    works(&mut live);
}

/// Has a process of ours keep to a limit.
fn limit(live: &Live, resource: libc::__rlimit_resource_t, most: u64) -> u64 {
    let limits = |new: *const libc::rlimit| {
        let mut old = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: our own child; structures of this function and its caller.
        let done = unsafe { libc::prlimit(live.pid() as i32, resource, new, &raw mut old) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        old
    };
    let before = limits(std::ptr::null());
    limits(&libc::rlimit {
        rlim_cur: most,
        ..before
    });
    before.rlim_cur
}

#[test]
fn files_that_may_not_be_that_long() {
    let mut live = Live::start(program());
    let before = limit(&live, libc::RLIMIT_FSIZE, MIB);
    not_frozen(&mut live, &[], &["large"]);
    limit(&live, libc::RLIMIT_FSIZE, before);
    works(&mut live);
}

#[test]
fn files_that_may_not_be_that_many() {
    let mut live = Live::start(program());
    let open = fs::read_dir(format!("/proc/{}/fd", live.pid())).unwrap();
    let before = limit(&live, libc::RLIMIT_NOFILE, open.count() as u64 + 4);
    not_frozen(&mut live, &[], &["open files"]);
    limit(&live, libc::RLIMIT_NOFILE, before);
    works(&mut live);
}

#[test]
fn a_folder_that_cannot_be() {
    let mut live = Live::start(small_program());
    fs::write(live.snapshot(), "a file").unwrap();
    not_frozen(&mut live, &[], &["snapshot"]);
    fs::remove_file(live.snapshot()).unwrap();
    works(&mut live);
}

#[test]
fn what_is_frozen_or_not_already() {
    let mut live = Live::start(small_program());
    live.refused(live.thawing(&[]), &["not frozen"]);
    live.freeze(&[]);
    let place = live.snapshot();
    live.refused(
        live.freezing(&[]),
        &["frozen already", place.to_str().unwrap()],
    );
    live.thaw(&[]);
    live.refused(live.thawing(&[]), &["not frozen"]);
    live.must("check");
}

/// Begins a freeze, which waits for a stream.
fn stuck(live: &mut Live) -> Child {
    live.must("busy");
    let mut freeze = live.freezing(&["--drain", "60"]);
    freeze.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = freeze.spawn().expect("rewarm starts");
    while live.state() != "freezing" {
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn two_freezes_at_once() {
    let mut live = Live::start(small_program());
    let first = stuck(&mut live);
    live.refused(live.freezing(&[]), &["under way"]);
    live.refused(live.thawing(&[]), &["just now"]);
    live.must("idle");
    assert!(ended(first).status.success());
    live.thaw(&[]);
    live.must("check");
}

#[test]
fn a_process_that_ends_meanwhile() {
    let mut live = Live::start(small_program());
    let freeze = stuck(&mut live);
    live.signal(libc::SIGKILL);
    let output = ended(freeze);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for words in ["hung up", "the process has ended"] {
        assert!(said.contains(words), "{said}");
    }
    // Its parent has not asked for it yet.
    live.refused(live.thawing(&[]), &["has ended"]);
}

#[test]
fn a_process_that_is_stopped() {
    let mut live = Live::start(small_program());
    live.signal(libc::SIGSTOP);
    live.refused(live.freezing(&[]), &["may be stopped"]);
    live.signal(libc::SIGCONT);
    assert_eq!(live.state(), "active");
    works(&mut live);
}

#[test]
fn a_process_that_is_not_freezable() {
    let mut live = Live::start_as_it_is(small_program());
    live.refused(live.freezing(&[]), &["--freezable"]);
    live.must("check");
}

#[test]
fn a_process_without_rewarm() {
    let run = Run::plain(app("freeze", Link::Dlopen)).arg("memory=tiny");
    let mut live = Live::start_as_it_is(run);
    live.refused(live.freezing(&[]), &["rewarm"]);
    live.must("check");
}
