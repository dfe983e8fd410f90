//! `scripts/bench`: starting it, and looking at what it leaves.

use super::cli::text;
use super::{Scratch, criu, libraries, repository};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A script, to its end.
pub fn python(script: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("python3");
    command.arg(script).args(arguments);
    clean(&mut command).output().expect("python3 is installed")
}

/// Without settings of whoever runs the tests.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = ["REWARM_", "CRIU_CUDA_", "SIMCUDA_"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "LD_PRELOAD" {
            command.env_remove(&*name);
        }
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1")
}

/// `scripts/bench ARGUMENTS`, to its end.
pub fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(repository().join("scripts/bench"));
    command.args(arguments);
    clean(&mut command).output().expect("scripts/bench starts")
}

/// Runs Python in the folder of the benchmarks.
#[track_caller]
pub fn in_benches(script: &str) -> String {
    let mut command = Command::new("python3");
    command
        .args(["-c", script])
        .current_dir(repository().join("benches"));
    let output = clean(&mut command).output().expect("python3 is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A list in JSON.
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let found = value[key].as_array();
    found.unwrap_or_else(|| panic!("{key} is no list in {value}"))
}

/// A number in JSON.
pub fn real(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

/// Insists that two times are the same.
#[track_caller]
pub fn alike(one: f64, other: f64, what: &str) {
    let most = 1e-9 * one.abs().max(1.0);
    assert!((one - other).abs() <= most, "{what}: {one} and {other}");
}

/// Each component's mean is on the page, in its bar.
#[track_caller]
pub fn page_is_like(found: &Value, page: &str) {
    for entry in list(found, "variants") {
        let name = entry["name"].as_str().unwrap();
        for part in list(entry, "parts") {
            let component = part["name"].as_str().unwrap();
            let bar =
                format!("data-variant=\"{name}\" data-component=\"{component}\" data-value=\"");
            let (_, rest) = page.split_once(&bar).unwrap_or_else(|| panic!("no {bar}"));
            let (value, _) = rest.split_once('"').unwrap();
            alike(value.parse().unwrap(), real(&part["mean"]), &bar);
        }
    }
}

/// Like what others do on a machine that runs tests; never the benchmark's fault.
pub const BUSY: &str = "load,page_cache,memory";

/// `scripts/bench cold` on the software driver, with results in a folder, to its end.
pub fn cold(criu: &Path, out: &Path, arguments: &[&str]) -> Output {
    cold_command(criu, out, arguments)
        .output()
        .expect("scripts/bench starts")
}

/// The same, not started yet.
pub fn cold_command(criu: &Path, out: &Path, arguments: &[&str]) -> Command {
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
    let mut command = Command::new(repository().join("scripts/bench"));
    command
        .args(["cold", "--no-drop-caches"])
        .args(always.as_flattened())
        .args(arguments);
    clean(&mut command);
    command
}

/// CRIU, and a folder for results that is on a disk.
pub fn can_measure() -> Option<(&'static Path, Scratch)> {
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

/// What it found.
#[track_caller]
pub fn results(out: &Path, output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    let read = fs::read_to_string(out.join("results.json"));
    let read = read.unwrap_or_else(|error| panic!("{error}: {}\n{said}", output.status));
    serde_json::from_str(&read).unwrap_or_else(|error| panic!("{error}: {read}"))
}

/// Processes that a benchmark with these results has started and not ended.
pub fn left_by(out: &Path) -> Vec<String> {
    let name = format!("BENCH_COLD_STARTED={}/started.json ", text(out));
    let has = |file: PathBuf| {
        let found = fs::read(file).unwrap_or_default();
        found
            .split(|byte| *byte == 0)
            .any(|one| one.starts_with(name.as_bytes()))
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let theirs = processes.filter(|one| has(one.path().join("environ")));
    theirs.map(|one| format!("{:?}", one.file_name())).collect()
}
