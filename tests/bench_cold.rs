//! `scripts/bench cold`: what it measures on the software driver, and what it marks.

mod common;

use common::bench::{alike, bench, in_benches, list, page_is_like, real};
use common::cli::{documented, text};
use common::{Scratch, criu, libraries, repository};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Like what others do on a machine that runs tests; never the benchmark's fault.
const BUSY: &str = "load,page_cache,memory";

/// `scripts/bench cold` with results in a folder.
fn cold(criu: &Path, out: &Path, arguments: &[&str]) -> Output {
    let libraries = libraries();
    let driver = libraries.join("sim");
    let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-cold-programs");
    let always = [
        ["--libs", text(&libraries)],
        ["--driver", text(&driver)],
        ["--programs", text(&programs)],
        ["--criu", text(criu)],
        ["--out", text(out)],
        ["--patience", "0"],
    ];
    bench(
        &[
            &["cold", "--no-drop-caches"],
            always.as_flattened(),
            arguments,
        ]
        .concat(),
    )
}

/// CRIU, and a folder for results that is on a disk.
fn can_measure() -> Option<(&'static Path, Scratch)> {
    let criu = criu::criu_or_skip()?;
    let scratch = Scratch::new();
    let kind = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(scratch.path())
        .output()
        .expect("coreutils are installed");
    if kind.stdout.starts_with(b"tmpfs") {
        eprintln!("SKIPPED: the target folder is in memory, where nothing is ever cold");
        return None;
    }
    Some((criu, scratch))
}

#[track_caller]
fn results(out: &Path, output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    let read = fs::read_to_string(out.join("results.json"));
    let read = read.unwrap_or_else(|error| panic!("{error}: {}\n{said}", output.status));
    serde_json::from_str(&read).unwrap_or_else(|error| panic!("{error}: {read}"))
}

/// Processes that have a folder in their environment or arguments.
fn left_in(folder: &Path) -> Vec<String> {
    let names = |file: PathBuf| {
        let found = fs::read(file).unwrap_or_default();
        String::from_utf8_lossy(&found).contains(text(folder))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours = processes.filter(|one| names(one.path().join("environ")));
    ours.map(|one| format!("{:?}", one.file_name())).collect()
}

#[test]
fn cold_starts_are_measured_and_the_three_files_agree() {
    let Some((criu, scratch)) = can_measure() else {
        return;
    };
    let variants = "cold,cold-prewarm,stock,rewarm,no-page-server,no-freeze";
    let mut arguments = vec![
        "--bytes",
        "16777216",
        "--iterations",
        "2",
        "--settle",
        "0.1",
    ];
    arguments.extend(["--variants", variants, "--accept", BUSY, "--clear-caches"]);
    let output = cold(criu, scratch.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}\n{said}");
    let found = results(scratch.path(), &output);
    documented(&found, "docs/benchmarks.md", "## results.json");

    let entries = list(&found, "variants");
    assert_eq!(entries.len(), 6);
    for entry in entries {
        assert_eq!(entry["counted"], 2, "{entry}\n{said}");
        assert_eq!(entry["not_run"], Value::Null, "{entry}");
        let few: Vec<_> = list(&entry["seconds"], "too_few").iter().collect();
        assert_eq!(few, ["p50", "p95", "p99"], "{entry}");
        let parts: f64 = list(entry, "parts")
            .iter()
            .map(|part| real(&part["mean"]))
            .sum();
        let mean = real(&entry["seconds"]["mean"]);
        assert!(
            (parts - mean).abs() < 0.02 * mean,
            "{parts} of {mean}: {entry}"
        );
    }
    let runs = list(&found, "runs");
    assert_eq!(runs.len(), 12);
    for run in runs {
        let way = run["variant"].as_str().unwrap();
        let has = |part: &str| run["components"].get(part).is_some();
        assert_eq!(has("start"), way.starts_with("cold"), "{run}");
        assert_eq!(has("criu"), !way.starts_with("cold"), "{run}");
        assert_eq!(
            has("thaw"),
            matches!(way, "rewarm" | "no-page-server" | "no-freeze"),
            "{run}"
        );
        assert!(real(&run["moments"]["first_reply"]) > 0.0, "{run}");
    }
    // Variants take turns: the second iteration begins with another one.
    assert_ne!(runs[0]["variant"], runs[6]["variant"]);
    csv_is_like(
        &found,
        &fs::read_to_string(scratch.file("results.csv")).unwrap(),
    );
    page_is_like(
        &found,
        &fs::read_to_string(scratch.file("report.html")).unwrap(),
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("rewarm restore") && table.contains("too few"),
        "{table}"
    );

    // Nothing stays: no checkpoint, no process.
    let names = fs::read_dir(scratch.path()).unwrap().flatten();
    let mut names: Vec<_> = names.map(|one| one.file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        ["report.html", "results.csv", "results.json", "started.json"]
    );
    let record = fs::read_to_string(scratch.file("started.json")).unwrap();
    assert!(record.contains("\"processes\": []"), "{record}");
    assert_eq!(left_in(scratch.path()), [""; 0]);
}

#[track_caller]
fn csv_is_like(found: &Value, csv: &str) {
    let mut lines = csv.lines();
    let head: Vec<_> = lines.next().unwrap().split(',').collect();
    assert_eq!(head[..4], ["variant", "iteration", "counted", "seconds"]);
    let runs = list(found, "runs");
    assert_eq!(lines.clone().count(), runs.len(), "{csv}");
    for (line, run) in lines.zip(runs) {
        let cells: Vec<_> = line.split(',').collect();
        assert_eq!(cells[0], run["variant"].as_str().unwrap());
        assert_eq!(cells[2], "yes", "{line}");
        alike(cells[3].parse().unwrap(), real(&run["seconds"]), line);
        for (name, cell) in head.iter().zip(&cells).skip(4) {
            let Some(part) = name.strip_suffix("_seconds") else {
                continue;
            };
            match run["components"].get(part) {
                Some(value) => alike(cell.parse().unwrap(), real(value), name),
                None => assert_eq!(*cell, "", "{name}: {line}"),
            }
        }
    }
}

/// A server of a user's, and how it is asked.
struct Server {
    program: String,
    ask: String,
}

impl Server {
    fn new() -> Server {
        let script = repository().join("tests/apps/answering.py");
        let free = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = free.local_addr().unwrap().port();
        let line = |what: &str| format!("python3 {} {what} {port}", text(&script));
        Server {
            program: line("serve"),
            ask: line("ask"),
        }
    }

    fn options(&self) -> Vec<&str> {
        vec![
            "--timeout",
            "30",
            "--program",
            &self.program,
            "--ready",
            "is ready",
            "--iterations",
            "1",
        ]
    }
}

/// Insists that no run counts, because of marks of these kinds.
#[track_caller]
fn all_are_marked(out: &Path, output: &Output, runs: usize, kinds: &[&str]) {
    let found = results(out, output);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(list(&found, "runs").len(), runs, "{output:?}");
    for run in list(&found, "runs") {
        assert_eq!(run["counted"], false, "{run}");
        let marks = list(run, "marks");
        for kind in kinds {
            let is_there = marks.iter().any(|mark| mark["kind"] == *kind);
            assert!(is_there, "not {kind}: {run}");
        }
    }
    for entry in list(&found, "variants") {
        assert_eq!(entry["seconds"], Value::Null, "{entry}");
        let none = entry["none"]
            .as_str()
            .expect("it says why there is no figure");
        assert!(
            none.contains("no run counts") && none.contains(kinds[0]),
            "{none}"
        );
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains(none), "{none} is not on the page");
    }
}

#[test]
fn runs_on_a_disturbed_machine_do_not_count() {
    let Some((criu, scratch)) = can_measure() else {
        return;
    };
    let server = Server::new();
    let model = scratch.file("model");
    fs::write(&model, vec![7; 16 << 20]).unwrap();
    // Somebody else computes, and the GPU is hot.
    let smi = scratch.file("nvidia-smi");
    let says = "case $1 in\n*compute-apps*) echo '4242, 30000' ;;\n\
        *) echo '0, <b>GPU</b>, 97, 30500, 1200, 1980, 0x0000000000000020, P0' ;;\nesac\n";
    fs::write(&smi, format!("#!/bin/sh\n{says}")).unwrap();
    let made = Command::new("chmod").arg("+x").arg(&smi).status();
    assert!(made.expect("coreutils are installed").success());
    let out = scratch.file("out");
    let mut arguments = server.options();
    arguments.extend([
        "--ask",
        &server.ask,
        "--variants",
        "cold,rewarm",
        "--settle",
        "0.5",
    ]);
    arguments.extend(["--nvidia-smi", text(&smi), "--evict", text(&model)]);
    let is_over = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        // Somebody else reads what has to be cold.
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                fs::read(&model).unwrap();
            }
        });
        let output = cold(criu, &out, &arguments);
        is_over.store(true, Relaxed);
        output
    });
    all_are_marked(&out, &output, 2, &["gpu_busy", "page_cache", "clocks"]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("thermal slowdown") && !page.contains("<b>GPU"));
}

#[test]
fn a_wrong_answer_is_no_result() {
    let Some((criu, scratch)) = can_measure() else {
        return;
    };
    let server = Server::new();
    let ask = format!("{} && date +%N", server.ask);
    let mut arguments = server.options();
    let accepted = "page_cache,gpu_busy,gpu_unknown,clocks,load,memory";
    arguments.extend([
        "--ask",
        &ask,
        "--variants",
        "cold",
        "--settle",
        "0",
        "--accept",
        accepted,
    ]);
    let out = scratch.file("out");
    let output = cold(criu, &out, &arguments);
    all_are_marked(&out, &output, 1, &["answer"]);

    arguments.push("--any-answer");
    let output = cold(criu, &out, &arguments);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(results(&out, &output)["runs"][0]["counted"], true);
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_word() {
    let scratch = Scratch::new();
    let out = text(scratch.path());
    let refused = |arguments: &[&str], words: &str| {
        let output = bench(&[&["cold", "--out", out], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(words),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("Traceback"), "{said}");
    };
    refused(&["--iterations", "0"], "--iterations");
    refused(&["--variants", "cold,fast"], "no variant fast");
    refused(&["--accept", "answer"], "--accept: no answer");
    refused(&["--program", "true"], "--ready or --ask");
    refused(&["--program", "true", "--ready", "("], "--ready");
    refused(&["--driver", out], "libcuda.so.1");
    refused(&["--libs", out], "librewarm.so");
    refused(&["--evict", "/there/is/no/such/file"], "--evict");
    refused(&["--criu", "/there/is/no/criu"], "--criu");
    let libraries = libraries();
    let libs = ["--libs", text(&libraries)];
    refused(
        &[&libs[..], &["--files", "/dev/shm"]].concat(),
        "--files DIR on a disk",
    );
    let real = [
        &libs[..],
        &[
            "--program",
            "true",
            "--ready",
            "x",
            "--variants",
            "cold",
            "--clear-caches-at",
            "/",
        ],
    ];
    refused(&real.concat(), "holds more than a cache");
}

#[test]
fn only_what_the_benchmark_started_is_ended() {
    let said = in_benches(
        "import json, os, subprocess, tempfile\n\
         from started import Started, boot, start_time\n\
         with tempfile.TemporaryDirectory() as folder:\n\
         \x20   ours, others = (subprocess.Popen(['sleep', '60']) for _ in range(2))\n\
         \x20   record = Started(folder + '/started.json')\n\
         \x20   record.add(ours.pid)\n\
         \x20   record.processes.add((others.pid, start_time(others.pid) - 1))  # its pid, taken by another since\n\
         \x20   record.write()\n\
         \x20   assert Started(record.path).end_leftovers() == 1\n\
         \x20   assert others.poll() is None\n\
         \x20   again = subprocess.Popen(['sleep', '60'])\n\
         \x20   for boots, processes in (('another', [[again.pid, start_time(again.pid)]]), (boot(), 'x'), (boot(), [[1, start_time(1)]])):\n\
         \x20       open(record.path, 'w').write(json.dumps({'boot': boots, 'processes': processes}))\n\
         \x20       assert Started(record.path).end_leftovers() == 0\n\
         \x20   assert again.poll() is None\n\
         \x20   for one in (others, again):\n\
         \x20       one.kill(); one.wait()\n\
         \x20   print('ok', end='')",
    );
    assert_eq!(said, "ok");
}
