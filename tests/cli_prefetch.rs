//! `rewarm prefetch`: what is in the page cache afterwards, and what is said
//! about the files that are not.

mod common;

use common::Scratch;
use common::cli::{documented, faulty, json, limit, number_in, refused, rewarm, stderr, text};
use common::weights::pattern;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MIB: usize = 1 << 20;

fn prefetch(arguments: &[&str]) -> Command {
    rewarm(&[&["prefetch"], arguments].concat())
}

fn prefetched(arguments: &[&str]) -> Value {
    json(&mut prefetch(&[&["--json"], arguments].concat()))
}

fn write(scratch: &Scratch, name: &str, bytes: usize) -> PathBuf {
    let path = scratch.file(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, pattern(bytes)).unwrap();
    path
}

/// Bytes of a path that are in the page cache: another look at it, without
/// reading anything.
fn resident(path: &Path) -> u64 {
    let file = rewarm::pages::PageFile::open(path).unwrap();
    let range = rewarm::pages::FileRange::whole(file);
    rewarm::pages::residency(&range).unwrap().resident
}

/// All but what the system takes back at any time: on a machine with other work,
/// some pages are gone a moment after they were read.
#[track_caller]
fn mostly_resident(resident: u64, bytes: usize) {
    let enough = bytes as u64 / 4 * 3;
    assert!(
        resident >= enough,
        "only {resident} of {bytes} bytes are resident"
    );
}

#[test]
fn what_was_evicted_is_brought_back() {
    let scratch = Scratch::new();
    let bytes = 40 * MIB + 5;
    let path = write(&scratch, "a.bin", bytes);
    let evicted = prefetched(&["--evict", text(&path)]);
    assert_eq!(evicted["version"], 1);
    assert_eq!(
        (number_in(&evicted, "files"), number_in(&evicted, "bytes")),
        (1, bytes as u64)
    );
    assert_eq!(number_in(&evicted, "read"), 0, "evicting reads nothing");
    // In a file system in memory, nothing can be evicted.
    let left = number_in(&evicted, "resident_after");
    assert_eq!(left, resident(&path));
    assert_eq!(
        number_in(&evicted, "evicted") + left,
        number_in(&evicted, "resident_before")
    );
    let found = prefetched(&[text(&path)]);
    assert_eq!(number_in(&found, "resident_before"), left);
    assert!(number_in(&found, "read") >= bytes as u64 - left, "{found}");
    mostly_resident(number_in(&found, "resident_after"), bytes);
    mostly_resident(resident(&path), bytes);
    let again = prefetched(&[text(&path)]);
    let missing = bytes as u64 - number_in(&again, "resident_before");
    assert_eq!(number_in(&again, "read") > 0, missing > 0, "{again}");
}

#[test]
fn every_strategy_fills_the_page_cache() {
    let scratch = Scratch::new();
    let path = write(&scratch, "a.bin", 20 * MIB);
    for strategy in ["auto", "pread", "readahead"] {
        prefetched(&["--evict", text(&path)]);
        let found = prefetched(&["--strategy", strategy, "--threads", "3", text(&path)]);
        mostly_resident(number_in(&found, "resident_after"), 20 * MIB);
    }
}

#[test]
fn only_parts_that_are_missing_are_read() {
    let scratch = Scratch::new();
    let path = write(&scratch, "a.bin", 128 * MIB);
    let mut read = Vec::new();
    // The system may take a page of the first half back, and then it is right to
    // read more.
    for _ in 0..10 {
        prefetched(&["--evict", text(&path)]);
        let file = File::open(&path).unwrap();
        file.read_exact_at(&mut vec![0; 70 * MIB], 0).unwrap();
        let found = prefetched(&[text(&path)]);
        mostly_resident(number_in(&found, "resident_after"), 128 * MIB);
        read.push(number_in(&found, "read"));
        if read.last() <= Some(&(64 << 20)) {
            return;
        }
    }
    panic!("{read:?} bytes were read");
}

#[test]
fn folders_are_taken_with_all_below_and_each_file_once() {
    let scratch = Scratch::new();
    let tree = scratch.file("tree");
    write(&scratch, "tree/a.bin", 1000);
    let deep = write(&scratch, "tree/x/y/z/deep.bin", 2000);
    let outside = write(&scratch, "outside/o.bin", 4000);
    fs::hard_link(&deep, tree.join("hard.bin")).unwrap();
    symlink(&outside, tree.join("link.bin")).unwrap();
    symlink(scratch.file("outside"), tree.join("folder")).unwrap();
    symlink(scratch.file("nowhere"), tree.join("dangling")).unwrap();
    let fifo = std::ffi::CString::new(text(&tree.join("fifo"))).unwrap();
    // SAFETY: a path.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let found = prefetched(&[text(&tree), text(&tree)]);
    assert_eq!(
        (number_in(&found, "files"), number_in(&found, "bytes")),
        (3, 7000)
    );
    documented(&found, "docs/loading.md", "## Loading files");
    let skipped: Vec<_> = found["skipped"].as_array().unwrap().iter().collect();
    let reason = |name: &str| {
        let path = tree.join(name);
        let of = |entry: &&&Value| entry["path"] == text(&path);
        let entry = skipped.iter().find(of);
        entry.unwrap_or_else(|| panic!("{name}: {found}"))["reason"]
            .as_str()
            .unwrap()
    };
    assert_eq!(reason("folder"), "a link to a folder");
    assert_eq!(reason("dangling"), "a link that leads nowhere");
    assert_eq!(reason("fifo"), "not a regular file");
    assert_eq!(
        reason("a.bin"),
        "the same file under another name",
        "in the second look"
    );
    assert_eq!(reason("hard.bin"), "the same file under another name");
}

#[test]
fn more_files_than_may_be_open() {
    let scratch = Scratch::new();
    for number in 0..200 {
        write(&scratch, &format!("{number}.bin"), 5000);
    }
    prefetched(&["--evict", text(scratch.path())]);
    let mut command = prefetch(&["--json", text(scratch.path())]);
    limit(&mut command, libc::RLIMIT_NOFILE, 12);
    let found = json(&mut command);
    assert_eq!(number_in(&found, "files"), 200);
    mostly_resident(number_in(&found, "resident_after"), 1_000_000);
}

#[test]
fn a_rate_is_kept() {
    let scratch = Scratch::new();
    let path = write(&scratch, "a.bin", 48 * MIB);
    prefetched(&["--evict", text(&path)]);
    let found = prefetched(&["--limit", "0.1", text(&path)]);
    let rate = found["gb_per_s"].as_f64().unwrap();
    assert!(rate < 0.2, "{rate} GB/s");
    mostly_resident(number_in(&found, "resident_after"), 48 * MIB);
}

#[test]
fn people_get_a_table() {
    let scratch = Scratch::new();
    let path = write(&scratch, "a.bin", 1000);
    symlink("nowhere", scratch.file("b")).unwrap();
    let output = prefetch(&[text(scratch.path())]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr(&output), "", "no bar where there is no terminal");
    let table = String::from_utf8(output.stdout).unwrap();
    for fact in [
        "1, 1000 B",
        "in page cache before",
        "in page cache now",
        "skipped ",
    ] {
        assert!(table.contains(fact), "{fact}: {table}");
    }
    let output = prefetch(&["--evict", text(&path)]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// One of two files is faulty: the other is fetched, and it is no success.
fn one_of_two(mode: &str, at: &str, words: &str) {
    let scratch = Scratch::new();
    let good = write(&scratch, "good.bin", 10 * MIB);
    let bad = write(&scratch, "bad.bin", 30 * MIB);
    let folder = text(scratch.path());
    prefetched(&["--evict", folder]);
    for arguments in [vec!["prefetch", "--json", folder], vec!["prefetch", folder]] {
        let mut command = faulty(&arguments, mode, "/bad.bin");
        let output = command.env("FAULTY_AT", at).output().unwrap();
        let in_memory = resident(&good);
        // What is in memory already needs no reading, and so cannot fail.
        if mode == "eio" && number_in(&prefetched(&["--evict", folder]), "evicted") == 0 {
            return;
        }
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let message = stderr(&output);
        assert!(message.contains(text(&bad)), "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(message.lines().count(), 1, "said once: {message}");
        mostly_resident(in_memory, 10 * MIB);
        let is_json = arguments.contains(&"--json");
        assert_eq!(output.stdout.is_empty(), is_json, "{output:?}");
        fs::write(&bad, pattern(30 * MIB)).unwrap();
        prefetched(&["--evict", folder]);
    }
}

#[test]
fn a_file_that_vanishes_is_no_success() {
    one_of_two("vanish", "0", "No such file");
}

#[test]
fn a_file_that_cannot_be_opened_is_no_success() {
    one_of_two("refuse", "0", "Permission denied");
}

#[test]
fn a_file_that_cannot_be_read_is_no_success() {
    one_of_two("eio", "20000000", "Input/output error");
}

#[test]
fn a_folder_that_vanishes_is_no_success() {
    let scratch = Scratch::new();
    write(&scratch, "tree/a.bin", 1000);
    fs::create_dir(scratch.file("tree/gone")).unwrap();
    let tree = scratch.file("tree");
    let gone = tree.join("gone");
    refused(
        &mut faulty(&["prefetch", "--json", text(&tree)], "vanish", "/gone"),
        1,
        &[text(&gone), "No such file"],
    );
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let scratch = Scratch::new();
    let missing = scratch.file("missing");
    refused(
        &mut prefetch(&["--json", text(&missing)]),
        1,
        &[text(&missing), "No such file"],
    );
    refused(
        &mut prefetch(&["--json", "--evict", "/dev/null"]),
        1,
        &["/dev/null", "regular"],
    );
    let ring = scratch.file("ring");
    symlink(&ring, &ring).unwrap();
    refused(
        &mut prefetch(&["--json", text(&ring)]),
        1,
        &[text(&ring), "symbolic links"],
    );
}

/// `rewarm prefetch --locked`, once it has said that all is locked.
fn locked(path: &Path) -> Child {
    let mut child = prefetch(&["--locked", text(path)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.find(|line| line.as_ref().unwrap().starts_with("locked"));
    assert!(said.is_some(), "{:?}", child.wait());
    child
}

#[test]
fn locked_files_stay_until_a_signal() {
    let scratch = Scratch::new();
    let path = write(&scratch, "a.bin", 3 * MIB + 1);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        prefetched(&["--evict", text(&path)]);
        let mut child = locked(&path);
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmLck:"))
            .unwrap();
        let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(kib * 1024 > 3 * MIB, "{line}");
        let evicted = prefetched(&["--evict", text(&path)]);
        assert_eq!(number_in(&evicted, "resident_after") as usize, 3 * MIB + 1);
        // SAFETY: our child, which is not reaped yet.
        unsafe { libc::kill(child.id() as i32, signal) };
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_limit_of_locked_memory_is_explained_before_anything_is_read() {
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    let scratch = Scratch::new();
    let path = write(&scratch, "a.bin", 3 * MIB);
    let left = number_in(&prefetched(&["--evict", text(&path)]), "resident_after");
    let mut command = prefetch(&["--json", "--locked", text(&path)]);
    limit(&mut command, libc::RLIMIT_MEMLOCK, 1 << 20);
    // SAFETY: one system call, after the fork. Others than root have no such
    // capability, and need not drop it.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
            Ok(())
        })
    };
    let words = [
        text(&path),
        "3 MiB are to be locked",
        "RLIMIT_MEMLOCK is 1 MiB",
        "ulimit -l",
    ];
    refused(&mut command, 1, &words);
    assert_eq!(resident(&path), left);
}

#[test]
fn too_little_memory_is_a_warning() {
    let scratch = Scratch::new();
    let path = scratch.file("sparse.bin");
    File::create(&path).unwrap().set_len(8 << 40).unwrap();
    // So that it is not tried.
    let mut command = faulty(
        &["prefetch", "--json", "--locked", text(&path)],
        "nolock",
        "-",
    );
    refused(
        &mut command,
        1,
        &[
            "warning: 8 TiB are to be read",
            "are available",
            text(&path),
        ],
    );
}

#[test]
fn the_page_cache_of_the_machine_takes_root() {
    let arguments = ["prefetch", "--json", "--evict=all"];
    refused(
        &mut faulty(&arguments, "refuse", "/drop_caches"),
        1,
        &["/proc/sys/vm/drop_caches", "root", "Permission denied"],
    );
}

#[test]
fn wrong_options_are_usage_errors() {
    let wrong: [&[&str]; 10] = [
        &[],
        &["--limit", "0", "x"],
        &["--limit", "-1", "x"],
        &["--limit", "nan", "x"],
        &["--limit", "1e99", "x"],
        &["--threads", "0", "x"],
        &["--strategy", "io_uring", "x"],
        &["--evict", "--locked", "x"],
        &["--evict=some", "x"],
        &["--evict", "--limit", "1", "x"],
    ];
    for arguments in wrong {
        refused(&mut prefetch(arguments), 2, &["--help"]);
    }
    refused(&mut prefetch(&["--evict"]), 2, &["PATH"]);
    let mut command = prefetch(&["x"]);
    refused(
        command.env("CRIU_CUDA_STREAMS", "0"),
        2,
        &["CRIU_CUDA_STREAMS=0"],
    );
}
