//! `rewarm inspect`: what is in checkpoints of every form, and that nothing in one is
//! believed.

#[path = "inspect/archives.rs"]
mod archives;
mod common;
#[path = "inspect/hints.rs"]
mod hints;
#[path = "inspect/hostile.rs"]
mod hostile;
#[path = "inspect/images.rs"]
mod images;

use archives::{export, gzip, inspect_file, inspect_pipe, report, zstd};
use common::cli::{documented, json, number_in, refused, rewarm, text};
use common::criu::{criu_or_skip, dump, gone};
use common::pages::{Machine, commands};
use common::podman::{IMAGE, Pipes, Podman};
use common::saved::Saved;
use common::{Link, Scratch, app, until};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// `ssh node COMMAND`, and `jq` as far as the page needs it.
const SSH: &str = "#!/bin/sh\nshift\nexec \"$@\"\n";
const JQ: &str = r#"#!/usr/bin/env python3
import json, sys
for hint in json.load(sys.stdin)["hints"]:
    print(hint["hint"], hint["bytes"])
"#;

#[test]
fn the_page_says_what_works() {
    let scratch = Scratch::new();
    images::process(&scratch.file("images"), 1000);
    let tar = export(&scratch.file("images"));
    let Some(machine) = Machine::new() else {
        return;
    };
    let machine = machine
        .program("ssh", SSH)
        .program("jq", JQ)
        .file("checkpoint.tar.zst", zstd(&tar))
        .file("checkpoint.tar", tar);
    let script = commands("docs/inspect.md").concat();
    let copied = format!(
        "cp -r {} /srv/checkpoints/vllm\n",
        text(&scratch.file("images"))
    );
    let said = machine.run(&format!("{copied}{script}"));
    assert!(said.contains("zero_pages 2048000"), "{said}");
    assert_eq!(said.matches("checkpoint of podman").count(), 2, "{said}");
}

#[test]
fn what_podman_exports_is_told_however_it_packs_it() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = Pipes::new(&podman, "data");
    podman.rewarm(&["run", "--detach", "--name=one", &pipes.volume(), IMAGE]);
    assert_eq!(pipes.answer(), "ready 1");
    for compression in ["none", "gzip", "zstd"] {
        let archive = podman.file(compression);
        podman.podman(&[
            "container",
            "checkpoint",
            "--leave-running",
            &format!("--compress={compression}"),
            &format!("--export={}", text(&archive)),
            "one",
        ]);
        let found = inspect(&archive);
        assert_eq!(found["kind"], "podman_checkpoint");
        assert_eq!(found["archive"]["compression"], compression);
        assert_eq!(found["memory"]["pages"]["shares"], "all");
        let dump = &found["criu"][0]["dump"];
        let pages = number_in(dump, "pages_written") + number_in(dump, "shared_pages_written");
        assert_eq!(pages * 4096, number_in(&found["memory"], "bytes"));
        let freeze = &found["memory"]["processes"][0];
        assert_eq!(freeze["name"], "freeze", "{freeze}");
        assert!(
            bytes_of(&found["hints"], "hint", "rootfs") > 0,
            "{}",
            found["hints"]
        );
    }
}
