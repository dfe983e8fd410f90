//! `scripts/bench cold`: what it measures on the software driver, and what it marks.

mod common;

use common::bench::{
    BUSY, alike, bench, can_measure, cold, left_by, list, page_is_like, real, results,
};
use common::cli::{documented, text};
use common::packages::stand_in;
use common::pages::{Machine, commands};
use common::{Scratch, libraries, repository};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    assert_eq!(left_by(scratch.path()), [""; 0]);
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

/// In the place of a served model.
const SERVE: &str = "\
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length']))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'forty-two')
server = http.server.HTTPServer(('127.0.0.1', 8000), Handler)
print('Application startup complete.', flush=True)
server.serve_forever()
";

/// What makes the page's commands short: options of their own kind that come last.
const SHORT: &str = "\
--no-drop-caches --accept load,page_cache,memory --settle 0 --patience 0 --iterations 1 --bytes 4194304 \
--variants cold,rewarm --out target/bench/cold";

#[test]
fn the_commands_of_the_page() {
    let (Some((criu, _)), Some(machine)) = (can_measure(), Machine::new()) else {
        return;
    };
    let libraries = libraries();
    let bench = format!(
        "#!/bin/sh\n[ $1 = cold ] || exec {0}/scripts/bench \"$@\"\n\
         exec {0}/scripts/bench \"$@\" {SHORT} --criu {1} --libs {2} --driver {2}/sim --programs {3}\n",
        text(repository()),
        text(criu),
        text(&libraries.canonicalize().unwrap()),
        text(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-cold-programs")),
    );
    let find = format!("#!/bin/sh\necho {}\n", text(criu));
    let folder = machine.folder().to_owned();
    stand_in(&folder.join("scripts"), "bench", &bench);
    stand_in(&folder.join("scripts"), "criu", &find);
    let machine = machine.file("serve.py", SERVE).file("prompt.json", "{}");
    let script = commands("docs/benchmarks.md").concat();
    let counted = "grep -c '\"counted\": true' target/bench/cold/results.json";
    let told = machine.run(&format!(
        "mkdir -p /srv/models/llama\necho weights >/srv/models/llama/model\n{script}\n{counted}"
    ));
    // Three times measured, and once shown again.
    let tables = told.matches("seconds until the first reply").count();
    assert_eq!(tables, 5, "{told}");
    assert!(told.ends_with("\n2\n"), "{told}");
}
