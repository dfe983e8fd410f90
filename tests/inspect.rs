//! `rewarm inspect`: what is in checkpoints of every form, and that nothing in one is
//! believed.

#[path = "inspect/archives.rs"]
mod archives;
mod common;
#[path = "inspect/images.rs"]
mod images;

use archives::{add, export, gzip, header, inspect_file, inspect_pipe, report, zstd};
use common::cli::{documented, json, limit, number_in, refused, rewarm, text};
use common::criu::{criu_or_skip, dump, gone};
use common::saved::Saved;
use common::{Link, Scratch, app, number, until};
use rewarm::inspect::{Folder, Options, inspect_stream};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tar::{Builder, EntryType};

const MIB: u64 = 1 << 20;

/// Images of `tests/apps/kinds.c`; `None` where there is no CRIU.
fn kinds(scratch: &Scratch) -> Option<PathBuf> {
    criu_or_skip()?;
    let mut child = Command::new("setsid")
        .arg(app("kinds", Link::Dlopen))
        .arg(scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ready = scratch.file("ready");
    until("ready", || ready.exists());
    let images = scratch.file("images");
    dump(child.id(), &images, &[]).unwrap();
    child.wait().unwrap();
    gone(&[child.id()]);
    Some(images)
}

fn inspect(path: &Path) -> Value {
    json(&mut rewarm(&["inspect", "--json", text(path)]))
}

fn bytes_of(list: &Value, key: &str, name: &str) -> u64 {
    let list = list.as_array().unwrap();
    let one = list.iter().find(|one| one[key] == name);
    one.map_or(0, |one| number_in(one, "bytes"))
}

#[test]
fn memory_is_told_by_mapping() {
    let scratch = Scratch::new();
    let Some(images) = kinds(&scratch) else {
        return;
    };
    let found = inspect(&images);
    documented(&found, "docs/inspect.md", "## JSON");
    assert_eq!(
        (&found["kind"], &found["whole"]),
        (&"criu_images".into(), &true.into())
    );
    let kind = |name| bytes_of(&found["memory"]["kinds"], "kind", name);
    // What the C library has of its own comes on top.
    for (name, mib) in [
        ("anonymous", 48),
        ("shared", 3),
        ("memfd", 2),
        ("heap", 2),
        ("file, private", 1),
    ] {
        assert!(
            (mib * MIB..(mib + 1) * MIB).contains(&kind(name)),
            "{name}: {}",
            kind(name)
        );
    }
    assert!(kind("stack") > 0 && kind("unknown") == 0);
    let largest = &found["largest"][0];
    assert_eq!(
        (&largest["what"], number_in(largest, "bytes")),
        (&"memory, anonymous".into(), 40 * MIB)
    );
    assert!(
        largest["name"].as_str().unwrap().contains(" kinds"),
        "{largest}"
    );
    let files = &found["memory"]["mapped_files"];
    let weights = scratch.file("weights.bin");
    assert_eq!(bytes_of(files, "name", text(&weights)), MIB);
    assert_eq!(bytes_of(files, "name", "memfd scratch"), 2 * MIB);
    let dump = &found["criu"][0]["dump"];
    let pages = number_in(dump, "pages_written") + number_in(dump, "shared_pages_written");
    assert_eq!(pages * 4096, number_in(&found["memory"], "bytes"));
    assert!(number_in(dump, "frozen_us") > 0);
    for hint in [
        "anonymous_weights",
        "ghost_files",
        "logs",
        "zero_pages",
        "duplicate_pages",
        "shared_memory",
    ] {
        assert!(
            bytes_of(&found["hints"], "hint", hint) > 0,
            "{hint}: {}",
            found["hints"]
        );
    }
}

#[test]
fn an_archive_tells_what_its_folder_does_however_it_is_packed() {
    let scratch = Scratch::new();
    let Some(images) = kinds(&scratch) else {
        return;
    };
    let full = ["inspect", "--json", "--full", text(&images)];
    let folder = json(&mut rewarm(&full));
    let tar = export(&images);
    let packed = [
        ("none", tar.clone()),
        ("gzip", gzip(&tar)),
        ("zstd", zstd(&tar)),
    ];
    for (name, bytes) in packed {
        let path = scratch.file(name);
        for output in [inspect_file(&bytes, &path), inspect_pipe(&bytes)] {
            assert!(output.status.success(), "{name}: {output:?}");
            let found = report(&output);
            assert_eq!(found["archive"]["compression"], name);
            assert_eq!(number_in(&found["archive"], "bytes"), bytes.len() as u64);
            assert_eq!(found["kind"], "podman_checkpoint");
            assert_eq!(found["memory"], folder["memory"]);
            assert_eq!(
                number_in(&found["memory"]["pages"], "read"),
                number_in(&found["memory"], "bytes") / 4096
            );
            assert!(bytes_of(&found["hints"], "hint", "rootfs") >= 120_000);
            assert_eq!(bytes_of(&found["hints"], "hint", "logs_in_rootfs"), 20_000);
            let has = |hint: &str| found["hints"].to_string().contains(&format!("\"{hint}\""));
            assert_eq!(has("compression"), name != "none");
            let inside = bytes_of(
                &found["largest"],
                "name",
                "rootfs-diff.tar: root/.cache/blob",
            );
            assert_eq!(inside, 100_000);
        }
    }
    let unpacked = scratch.file("unpacked");
    tar::Archive::new(&tar[..]).unpack(&unpacked).unwrap();
    assert_eq!(inspect(&unpacked)["kind"], "podman_checkpoint");
}

#[test]
fn device_memory_is_told_by_its_manifest() {
    let Some(_) = criu_or_skip() else {
        return;
    };
    let saved = Saved::frozen();
    let found = inspect(&saved.folder);
    documented(&found, "docs/inspect.md", "## JSON");
    assert_eq!(found["kind"], "rewarm_checkpoint");
    let gpu = &found["gpu"][0];
    assert_eq!(gpu["pid"], saved.live.pid());
    let parts: u64 = ["stored", "zero", "discarded"]
        .map(|key| number_in(gpu, key))
        .iter()
        .sum();
    assert_eq!(parts, number_in(gpu, "bytes"));
    assert!(number_in(gpu, "zero") > 0 && number_in(gpu, "stored") > 0);
    let snapshot = saved.folder.join("gpu").join(saved.live.pid().to_string());
    assert_eq!(inspect(&snapshot)["kind"], "rewarm_snapshot");
    // Told to be missing, and cut off.
    let data = fs::read_dir(&snapshot)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let data = data.filter(|path| path.extension().is_some_and(|end| end == "bin"));
    fs::File::options()
        .write(true)
        .open(data.max().unwrap())
        .unwrap()
        .set_len(4096)
        .unwrap();
    fs::remove_file(saved.folder.join("images/inventory.img")).unwrap();
    let output = rewarm(&["inspect", text(&saved.folder)]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("images/inventory.img") && said.contains("the file is missing"),
        "{said}"
    );
    assert!(said.contains("it has 4096 bytes and should have"), "{said}");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let scratch = Scratch::new();
    fs::write(scratch.file("notes"), "none").unwrap();
    refused(
        &mut rewarm(&["inspect", text(scratch.path())]),
        1,
        &["no checkpoint"],
    );
    refused(
        &mut rewarm(&["inspect", text(&scratch.file("notes"))]),
        1,
        &["notes", "no tar archive"],
    );
    refused(
        &mut rewarm(&["inspect", "/no/such\u{1b}[2J"]),
        1,
        &["/no/such\\u{1b}[2J"],
    );
    refused(&mut rewarm(&["inspect", "/dev/null"]), 1, &["/dev/null"]);
    refused(&mut rewarm(&["inspect"]), 2, &["PATH"]);
    refused(&mut rewarm(&["inspect", "--top", "x", "/"]), 2, &["--top"]);
    fs::write(scratch.file("notes"), b"\xfd7zXZ\0\0").unwrap();
    refused(
        &mut rewarm(&["inspect", text(&scratch.file("notes"))]),
        1,
        &["xz", "rewarm inspect -"],
    );
}

/// An archive with images and one entry that should not be there.
fn with(entry: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let scratch = Scratch::new();
    images::process(&scratch.file("images"), 8);
    let mut tar = Builder::new(Vec::new());
    tar.append_dir_all("checkpoint", scratch.file("images"))
        .unwrap();
    entry(&mut tar);
    tar.into_inner().unwrap()
}

fn link(name: &str, kind: EntryType, target: &str) -> tar::Header {
    let mut header = header(name, kind, 0);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

#[test]
fn hostile_archives_are_named_and_refused() {
    let scratch = Scratch::new();
    let empty = |header: tar::Header| with(move |tar| tar.append(&header, &b""[..]).unwrap());
    let file = |name: &str| empty(header(name, EntryType::Regular, 0));
    let whole = with(|_| ());
    let mut pax = header("long", EntryType::XHeader, 1 << 40);
    pax.set_cksum();
    let lying = header("pages-9.img", EntryType::Regular, 1 << 50);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (file("/etc/passwd"), "an absolute path"),
        (file("a/../../b"), "a path with .. in it"),
        (
            empty(link("l", EntryType::Symlink, "../../etc/passwd")),
            "a link out of the archive",
        ),
        (
            empty(link("h", EntryType::Link, "/etc/shadow")),
            "a link out of the archive",
        ),
        (
            with(|tar| tar.get_mut().extend(pax.as_bytes())),
            "more than a name takes",
        ),
        (
            with(|tar| tar.get_mut().extend(lying.as_bytes())),
            "ends in the middle",
        ),
        (
            whole[..whole.len() - 1024].to_vec(),
            "ends without the mark",
        ),
        (
            whole[..whole.len() / 2 + 100].to_vec(),
            "ends in the middle",
        ),
        (gzip(&whole)[..300].to_vec(), ""),
        (zstd(&whole)[..100].to_vec(), ""),
        (
            with(|tar| add(tar, "checkpoint/core-7.img", b"no image")),
            "core-7.img",
        ),
        (
            with(|tar| add(tar, "checkpoint/pages-2.img", &[0; 100])),
            "no image speaks of",
        ),
        (
            with(|tar| add(tar, "gpu/1/data-0001-00.bin", &[0; 100])),
            "without a manifest",
        ),
    ];
    for (bytes, words) in cases {
        let output = inspect_file(&bytes, &scratch.file("archive"));
        assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains(words), "{words}: {said}");
    }
    // What is only odd is told, and nothing is wrong with it.
    for (bytes, words) in [
        (empty(header("fifo", EntryType::Fifo, 0)), "a pipe"),
        (empty(header("device", EntryType::Char, 0)), "a device"),
        (
            empty(header("sparse", EntryType::GNUSparse, 0)),
            "an entry with holes",
        ),
        (
            empty(link("checkpoint/parent", EntryType::Symlink, "../pre")),
            "not followed",
        ),
    ] {
        let output = inspect_file(&bytes, &scratch.file("archive"));
        let said = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(
            output.status.success() && said.contains(words),
            "{words}: {output:?}"
        );
    }
}

#[test]
fn nothing_outside_of_a_folder_is_touched() {
    let scratch = Scratch::new();
    let folder = scratch.file("images");
    images::process(&folder, 8);
    let outside = scratch.file("outside");
    images::process(&outside, 8);
    symlink(&outside, folder.join("there")).unwrap();
    symlink(outside.join("pages-1.img"), folder.join("pages-5.img")).unwrap();
    symlink("..", folder.join("up")).unwrap();
    let pipe = std::ffi::CString::new(text(&folder.join("mm-9.img"))).unwrap();
    // SAFETY: a string and a number.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("core-9.img")).unwrap();
    fs::write(folder.join("\u{1b}[2J\n.log"), "x").unwrap();
    let found = inspect(&folder);
    assert_eq!(number_in(&found["not_looked_into"], "count"), 5);
    assert_eq!(number_in(&found["memory"], "bytes"), 8 * 4096);
    let table = rewarm(&["inspect", text(&folder)]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        !table.contains('\u{1b}') && table.contains("\\u{1b}[2J\\n.log"),
        "{table}"
    );
}

#[test]
fn a_sample_is_close_to_all() {
    let scratch = Scratch::new();
    let folder = scratch.file("images");
    images::process(&folder, 20_000);
    let sampled = &inspect(&folder)["memory"]["pages"];
    assert_eq!(
        (&sampled["shares"], number_in(sampled, "read")),
        (&"sample".into(), 8192)
    );
    let share = sampled["zero_share"].as_f64().unwrap();
    assert!((share - 0.5).abs() < 0.03, "{sampled}");
    let all =
        &json(&mut rewarm(&["inspect", "--full", "--json", text(&folder)]))["memory"]["pages"];
    assert_eq!(
        (&all["shares"], &all["zero_share"]),
        (&"all".into(), &0.5.into())
    );
    assert_eq!(all["duplicate_share"], 0.0);
}

/// Archives that want much memory: a report or an error, in 200 MB.
#[test]
fn memory_is_bounded_whatever_comes() {
    let scratch = Scratch::new();
    // All that is bounded only in a campaign: the tests are not optimised.
    let is_campaign = number("REWARM_TEST_INSPECTIONS", 0) > 0;
    let part = if is_campaign { 1 } else { 8 };
    let file = |name: &str, content: Vec<u8>| with(move |tar| add(tar, name, &content));
    let many =
        |count: u64, entry: &dyn Fn(u64) -> Vec<u8>| (0..count).map(entry).collect::<Vec<_>>();
    let mut runs = vec![images::message(&[(1, 1)])];
    runs.extend(many(2_500_000 / part, &|at| {
        images::message(&[(1, at << 13), (4, 6), (5, 1)])
    }));
    let mut mappings = Vec::new();
    for at in 0..500_000 / part {
        let mapping = images::message(&[(1, at << 12), (2, (at + 1) << 12)]);
        images::nest(14, &mapping, &mut mappings);
    }
    let names = many(300_000 / part, &|id| {
        let mut file = images::message(&[(1, id)]);
        images::nest(6, &[b'n'; 60], &mut file);
        let mut entry = Vec::new();
        images::nest(3, &file, &mut entry);
        entry
    });
    let chunks = [
        b"{\"rewarm_snapshot\":1}\n{\"chunks\":[".to_vec(),
        b"\"zero\",".repeat(1_100_000),
    ]
    .concat();
    let bomb = with(|tar| {
        let bytes = 256 << 20;
        let header = header("checkpoint/pages-3.img", EntryType::Regular, bytes);
        tar.append(&header, std::io::repeat(0).take(bytes)).unwrap();
    });
    let many_entries = with(|tar| {
        for number in 0..100_000 / part {
            add(tar, &format!("checkpoint/fdinfo-{number}.img"), b"");
        }
    });
    let cases = [
        file(
            "checkpoint/pagemap-9.img",
            images::image(images::PAGEMAP, &runs),
        ),
        file(
            "checkpoint/mm-9.img",
            images::image(images::MM, &[mappings]),
        ),
        file("checkpoint/files.img", images::image(images::FILES, &names)),
        file("gpu/1/manifest.json", chunks),
        gzip(&bomb),
        zstd(&bomb),
        many_entries,
    ];
    for (number, bytes) in cases.iter().enumerate() {
        let path = scratch.file("archive");
        fs::write(&path, bytes).unwrap();
        let mut command = rewarm(&["inspect", "--json", text(&path)]);
        let output = limit(&mut command, libc::RLIMIT_DATA, 200_000_000)
            .output()
            .unwrap();
        let code = output.status.code();
        assert!(
            matches!(code, Some(0 | 1)),
            "case {number}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        report(&output);
    }
}

/// Mutated images and archives: a report or an error, and never more.
#[test]
fn whatever_is_in_it_there_is_a_report_or_an_error() {
    let seed = number("REWARM_TEST_SEED", fastrand::u64(..));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let scratch = Scratch::new();
    let made = scratch.file("made");
    images::process(&made, 20);
    // Pages of a real one are only bytes: its other images are enough.
    let real = kinds(&scratch).inspect(|images| {
        for entry in fs::read_dir(images)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if fs::metadata(&entry).unwrap().len() > 1 << 20 {
                fs::File::options()
                    .write(true)
                    .open(entry)
                    .unwrap()
                    .set_len(1 << 16)
                    .unwrap();
            }
        }
    });
    let folders: Vec<_> = [Some(made), real].into_iter().flatten().collect();
    let tars: Vec<_> = folders.iter().map(|folder| export(folder)).collect();
    for _ in 0..number("REWARM_TEST_INSPECTIONS", 400) {
        let options = Options {
            top: 20,
            full: false,
            done: Default::default(),
        };
        let which = random.usize(..folders.len());
        if random.u8(..4) > 0 {
            let mut bytes = tars[which].clone();
            let packed = random.u8(..6);
            if packed < 2 {
                bytes = [gzip, zstd][usize::from(packed)](&bytes);
            }
            mutate(&mut bytes, &mut random);
            if let Ok(report) = inspect_stream(&bytes[..], "fuzz", &options) {
                serde_json::to_string(&report).unwrap();
            }
        } else {
            let mutant = scratch.file("mutant");
            let _ = fs::remove_dir_all(&mutant);
            fs::create_dir(&mutant).unwrap();
            for entry in fs::read_dir(&folders[which]).unwrap().map(Result::unwrap) {
                let mut bytes = fs::read(entry.path()).unwrap();
                if random.bool() && !bytes.is_empty() {
                    mutate(&mut bytes, &mut random);
                }
                fs::write(mutant.join(entry.file_name()), bytes).unwrap();
            }
            if let Ok(report) = Folder::look(&mutant, &options).and_then(Folder::report) {
                serde_json::to_string(&report).unwrap();
            }
        }
    }
    let peak = rewarm::proc::status_line(std::process::id(), "VmHWM:").unwrap();
    let kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 600 << 10, "{peak}");
}

/// Changes, takes out, doubles or cuts off some bytes.
fn mutate(bytes: &mut Vec<u8>, random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..5) {
        if bytes.is_empty() {
            return;
        }
        // Headers are at the beginning of blocks, and images are short.
        let at = match random.bool() {
            true => random.usize(..bytes.len()),
            false => {
                (random.usize(..bytes.len()) / 512 * 512 + random.usize(..160)).min(bytes.len() - 1)
            }
        };
        match random.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes[at] = 0xff,
            2 => {
                let end = (at + random.usize(1..600)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.usize(1..600)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes[at] ^= 1 << random.u8(..8),
        }
    }
}
