//! `rewarm load`: what arrives on the device, and what is said when it cannot.

mod common;

use common::cli::{documented, faulty, json, limit, number_in, refused, rewarm, stderr, text};
use common::weights::{index, pattern, safetensors, with_header, write_model};
use common::{Scratch, libraries};
use rewarm::pages::Strategy;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// More than the lanes' slots together, and no multiple of anything.
const LARGE: usize = 41_234_567;

fn load(arguments: &[&str]) -> Command {
    rewarm(&[&["load"], arguments].concat())
}

fn verified(arguments: &[&str]) -> serde_json::Value {
    let found = json(&mut load(&[&["--json", "--verify"], arguments].concat()));
    assert_eq!(found["verified"], true, "{found}");
    found
}

fn write(scratch: &Scratch, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = scratch.file(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn every_byte_of_a_file_arrives() {
    let scratch = Scratch::new();
    let path = write(
        &scratch,
        "a.safetensors",
        safetensors(&[("a", LARGE), ("b", 1)]),
    );
    let found = verified(&[text(&path)]);
    assert_eq!(found["version"], 1);
    documented(&found, "docs/loading.md", "## Loading files");
    assert_eq!(found["device"]["ordinal"], 0);
    assert_eq!(
        (number_in(&found, "files"), number_in(&found, "tensors")),
        (1, 2)
    );
    assert_eq!(number_in(&found, "bytes"), LARGE as u64 + 1);
    assert!(number_in(&found, "pinned_bytes") > 0);
    assert!(found["setup_seconds"].as_f64().unwrap() > 0.0);
    let loads = found["loads"].as_array().unwrap();
    assert_eq!(loads.len(), 1);
    assert!(loads[0]["seconds"].as_f64().unwrap() > 0.0);
    assert!(loads[0]["gb_per_s"].as_f64().unwrap() > 0.0);
    let strategies = loads[0]["strategies"].as_object().unwrap();
    let bytes: u64 = strategies
        .values()
        .map(|bytes| bytes.as_u64().unwrap())
        .sum();
    assert_eq!(bytes, LARGE as u64 + 1);
}

#[test]
fn without_verify_nothing_is_claimed() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(1000));
    let found = json(&mut load(&["--json", text(&path)]));
    assert_eq!(found["verified"], serde_json::Value::Null);
}

#[test]
fn folders_files_and_raw_data_arrive() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let raw = write(&scratch, "raw.bin", pattern(5_000_001));
    let empty = write(&scratch, "empty.bin", "");
    let found = verified(&[text(scratch.path()), text(&raw), text(&empty)]);
    assert_eq!(
        (number_in(&found, "files"), number_in(&found, "tensors")),
        (4, 4)
    );
    assert_eq!(number_in(&found, "bytes"), 70_005 + 3_000_000 + 5_000_001);
    fs::remove_file(scratch.file("model.safetensors.index.json")).unwrap();
    let found = verified(&[text(scratch.path())]);
    assert_eq!(number_in(&found, "tensors"), 4);
}

#[test]
fn nothing_to_load_is_no_error() {
    let scratch = Scratch::new();
    let path = write(&scratch, "none.safetensors", with_header(b"{}", &[]));
    let found = verified(&[text(&path)]);
    assert_eq!(number_in(&found, "bytes"), 0);
    assert_eq!(found["loads"][0]["gb_per_s"], 0.0);
}

#[test]
fn every_strategy_brings_the_bytes() {
    let scratch = Scratch::new();
    let path = write(&scratch, "a.safetensors", safetensors(&[("a", LARGE)]));
    for strategy in Strategy::NAMES {
        let arguments = [
            "--json",
            "--verify",
            "--cold",
            "--strategy",
            strategy,
            text(&path),
        ];
        let output = load(&arguments).output().unwrap();
        if output.status.success() {
            let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["verified"], true, "{strategy}: {found}");
        } else {
            // Containers often forbid it, and it was asked for.
            let message = stderr(&output);
            assert_eq!(strategy, "io_uring", "{message}");
            assert!(message.contains("choose another strategy"), "{message}");
        }
    }
}

#[test]
fn the_settings_of_the_lanes_are_options() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(LARGE));
    let options = [
        "--lanes",
        "2",
        "--chunk-mb",
        "1",
        "--staging-mb",
        "8",
        text(&path),
    ];
    let found = verified(&options);
    let pinned = number_in(&found, "pinned_bytes");
    assert!((1..=8 << 20).contains(&pinned), "{pinned} bytes are pinned");
}

#[test]
fn device_memory_is_freed_after_each_repeat() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(LARGE));
    let mut command = load(&["--json", "--verify", "--repeat", "4", text(&path)]);
    let found = json(command.env("SIMCUDA_MEMORY_MB", "64"));
    assert_eq!(found["loads"].as_array().unwrap().len(), 4);
}

#[test]
fn cold_files_are_cold_or_it_says_so() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(LARGE));
    let output = load(&["--json", "--cold", "--repeat", "2", text(&path)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let message = stderr(&output);
    for load in found["loads"].as_array().unwrap() {
        match number_in(load, "resident_before") {
            0 => assert_eq!(message, ""),
            stayed => assert!(message.contains(&format!("{stayed} bytes")), "{message}"),
        }
    }
}

#[test]
fn another_device_can_be_chosen() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(1000));
    let mut command = load(&["--json", "--verify", "--device", "1", text(&path)]);
    let found = json(command.env("SIMCUDA_DEVICES", "2"));
    assert_eq!(found["device"]["ordinal"], 1);
    refused(
        &mut load(&["--json", "--device", "1", text(&path)]),
        1,
        &["--device 1"],
    );
}

#[test]
fn under_rewarm_it_uses_the_plain_driver() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(LARGE));
    let mut command = load(&["--json", "--verify", text(&path)]);
    let found = json(command.env("LD_PRELOAD", libraries().join("librewarm.so")));
    assert_eq!(found["verified"], true);
}

#[test]
fn people_get_a_table() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let output = load(&["--verify", "--repeat", "2", text(scratch.path())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr(&output), "", "no bar where there is no terminal");
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = table.lines().collect();
    for (line, begin) in lines.iter().zip(["load ", "1 ", "2 ", ""]) {
        assert!(line.starts_with(begin), "{table}");
    }
    for fact in [
        "2 with 4 tensors",
        "device memory",
        "pinned memory",
        "CUDA set-up",
        "verified",
    ] {
        assert!(table.contains(fact), "{fact}: {table}");
    }
}

#[test]
fn tensors_without_a_name_in_the_index_are_a_warning() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let map = index(&[("a", "one.safetensors")]);
    write(&scratch, "model.safetensors.index.json", map);
    let output = load(&["--json", text(scratch.path())]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(stderr(&output).contains("warning: "), "{output:?}");
    assert!(stderr(&output).contains("one.safetensors"), "{output:?}");
}

/// A progress bar is for terminals, and leaves nothing on them.
#[test]
fn a_terminal_gets_a_bar() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(LARGE));
    let (mut ours, theirs) = terminal();
    let mut command = load(&["--json", text(&path)]);
    let mut child = command
        .env("SIMCUDA_LINK_GBPS", "0.05")
        .stderr(theirs)
        .stdout(File::create(scratch.file("stdout")).unwrap())
        .spawn()
        .unwrap();
    drop(command);
    let mut shown = Vec::new();
    // The terminal ends with an error when nobody has it open any more.
    let _ = ours.read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("loading"), "{shown:?}");
    serde_json::from_slice::<serde_json::Value>(&fs::read(scratch.file("stdout")).unwrap())
        .unwrap();
}

/// Both ends of a pseudo-terminal.
fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: out-pointers to locals; the descriptors are new and ours alone.
    unsafe {
        let none = std::ptr::null_mut();
        let failed = libc::openpty(&mut ours, &mut theirs, none, std::ptr::null(), &size);
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
        libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(ours), File::from_raw_fd(theirs))
    }
}

#[test]
fn a_difference_is_named_with_file_tensor_and_offset() {
    let scratch = Scratch::new();
    let content = safetensors(&[("first", 5_000_000), ("second", 9_000_000)]);
    let at = content.len() - 9_000_000 + 123;
    let path = write(&scratch, "changing.safetensors", content);
    let arguments = [
        "load",
        "--json",
        "--verify",
        "--strategy",
        "pread",
        text(&path),
    ];
    let offset = format!("offset {at}");
    refused(
        faulty(&arguments, "change", "changing.safetensors").env("FAULTY_AT", at.to_string()),
        1,
        &[text(&path), "tensor second", &offset, "the device has"],
    );
    let found = json(&mut faulty(&arguments, "change", "another"));
    assert_eq!(found["verified"], true, "the same without the change");
}

#[test]
fn bad_files_are_refused_by_name() {
    let tensor = |name: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#)
    };
    let headed =
        |tensors: &[String]| with_header(format!("{{{}}}", tensors.join(",")).as_bytes(), &[0; 8]);
    let (a, b) = (tensor("a", "[0,4]"), tensor("b", "[4,8]"));
    let bad: [(&str, Vec<u8>); 10] = [
        ("0 bytes", vec![]),
        ("truncated", headed(&[a.clone(), b.clone()])[..60].to_vec()),
        ("are the most", u64::MAX.to_le_bytes().to_vec()),
        ("truncated", 1000u64.to_le_bytes().to_vec()),
        (
            "tensor c: its data overlaps",
            headed(&[a.clone(), tensor("c", "[2,6]")]),
        ),
        (
            "truncated",
            headed(&[a.clone(), b.clone(), tensor("c", "[8,12]")]),
        ),
        ("a is there twice", headed(&[a.clone(), a.clone()])),
        ("not UTF-8", with_header(b"{\"\xc3\":1}", &[])),
        ("its header is wrong", with_header(b"weights", &[])),
        ("4 bytes follow", headed(&[a])),
    ];
    let scratch = Scratch::new();
    let good = write(&scratch, "good.safetensors", safetensors(&[("a", 9)]));
    for (words, content) in bad {
        let path = write(&scratch, "bad.safetensors", content);
        let arguments = ["--json", text(&good), text(&path)];
        refused(&mut load(&arguments), 1, &[text(&path), words]);
    }
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let scratch = Scratch::new();
    let refuse = |path: &Path, named: &Path, words: &str| {
        refused(&mut load(&["--json", text(path)]), 1, &[text(named), words]);
    };
    let missing = scratch.file("missing.bin");
    refuse(&missing, &missing, "No such file");
    let ring = scratch.file("ring.safetensors");
    symlink(&ring, &ring).unwrap();
    refuse(&ring, &ring, "symbolic links");
    let folder = scratch.file("folder");
    fs::create_dir_all(folder.join("a.safetensors")).unwrap();
    refuse(&folder, &folder.join("a.safetensors"), "not a regular file");
    refuse(
        Path::new("/dev/null"),
        Path::new("/dev/null"),
        "not a regular file",
    );
    let empty = scratch.file("empty");
    fs::create_dir(&empty).unwrap();
    refuse(&empty, &empty, "no model.safetensors.index.json");
    let locked = write(&scratch, "locked.bin", "1234");
    refused(
        &mut faulty(&["load", "--json", text(&locked)], "refuse", "locked.bin"),
        1,
        &[text(&locked), "Permission denied"],
    );
}

#[test]
fn an_index_that_leads_elsewhere_is_refused_by_name() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let path = scratch.file("model.safetensors.index.json");
    let bad = [
        (
            index(&[("a", "missing.safetensors")]),
            "missing.safetensors",
        ),
        (
            index(&[("a", "../one.safetensors")]),
            "model.safetensors.index.json",
        ),
        (
            index(&[("a", "/etc/passwd")]),
            "model.safetensors.index.json",
        ),
        (index(&[("z", "one.safetensors")]), "tensor z"),
        ("[".repeat(1 << 20), "model.safetensors.index.json"),
    ];
    for (content, words) in bad {
        fs::write(&path, content).unwrap();
        let name = text(scratch.path());
        refused(&mut load(&["--json", name]), 1, &[name, words]);
    }
}

#[test]
fn a_disk_that_fails_is_no_success() {
    let scratch = Scratch::new();
    write_model(scratch.path());
    let path = write(&scratch, "failing.bin", pattern(LARGE));
    let name = text(&path);
    let arguments = [
        "load",
        "--json",
        "--strategy",
        "pread",
        text(scratch.path()),
        name,
    ];
    refused(
        faulty(&arguments, "eio", "failing.bin").env("FAULTY_AT", "30000000"),
        1,
        &[name, "offset", "Input/output error"],
    );
    let shard = scratch.file("two.safetensors");
    refused(
        faulty(&arguments, "eio", "two.safetensors").env("FAULTY_AT", "3"),
        1,
        &[text(&shard), "Input/output error"],
    );
}

#[test]
fn too_few_descriptors_are_no_success() {
    let scratch = Scratch::new();
    for number in 0..40 {
        let name = format!("{number:02}.safetensors");
        write(&scratch, &name, safetensors(&[("a", 10)]));
    }
    let folder = text(scratch.path());
    let mut command = load(&["--json", folder]);
    limit(&mut command, libc::RLIMIT_NOFILE, 20);
    refused(
        &mut command,
        1,
        &[folder, ".safetensors", "Too many open files"],
    );
    let mut command = load(&["--json", folder]);
    limit(&mut command, libc::RLIMIT_NOFILE, 200);
    assert_eq!(number_in(&json(&mut command), "files"), 40);
}

#[test]
fn too_little_device_memory_is_said_with_what_is_needed() {
    let scratch = Scratch::new();
    let small = write(&scratch, "small.bin", pattern(8 << 20));
    let large = write(&scratch, "large.bin", pattern(32 << 20));
    refused(
        load(&["--json", text(&small), text(&large)]).env("SIMCUDA_MEMORY_MB", "20"),
        1,
        &[text(&large), "40 MiB are needed in all", "20 MiB are free"],
    );
}

/// Whichever driver call fails: it is an error, or it did not matter.
#[test]
fn a_driver_that_fails_is_never_a_wrong_success() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", pattern(9_000_001));
    let mut failures = 0;
    for call in 1..=60 {
        let output = load(&["--json", "--verify", text(&path)])
            .env("SIMCUDA_FAIL", format!("*:{call}:999"))
            .output()
            .unwrap();
        if output.status.success() {
            let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(found["verified"], true, "call {call}: {found}");
        } else {
            assert_eq!(output.status.code(), Some(1), "call {call}: {output:?}");
            assert!(output.stdout.is_empty(), "call {call}: {output:?}");
            assert!(stderr(&output).contains("999"), "call {call}: {output:?}");
            failures += 1;
        }
    }
    assert!(
        failures > 10,
        "only {failures} of 60 failing calls were noticed"
    );
}

#[test]
fn without_a_driver_it_says_what_to_do() {
    let scratch = Scratch::new();
    let path = write(&scratch, "raw.bin", "1234");
    let mut command = load(&["--json", text(&path)]);
    refused(command.env("SIMCUDA_DEVICES", "0"), 1, &["nvidia-smi"]);
    if !Path::new("/dev/nvidiactl").exists() {
        let mut command = load(&["--json", text(&path)]);
        refused(
            command.env_remove("LD_LIBRARY_PATH"),
            1,
            &["no CUDA driver", "--sim"],
        );
    }
}

#[test]
fn wrong_options_are_usage_errors() {
    let wrong: [&[&str]; 7] = [
        &[],
        &["--repeat", "0", "x"],
        &["--strategy", "fast", "x"],
        &["--device", "-1", "x"],
        &["--lanes", "0", "x"],
        &["--chunk-mb", "x", "x"],
        &["--min-copy-kb", "64", "x"],
    ];
    for arguments in wrong {
        refused(&mut load(arguments), 2, &["--help"]);
    }
    let mut command = load(&["x"]);
    refused(
        command.env("CRIU_CUDA_STREAMS", "0"),
        2,
        &["CRIU_CUDA_STREAMS=0"],
    );
}
