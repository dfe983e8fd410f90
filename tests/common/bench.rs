//! `scripts/bench`: starting it, and looking at what it leaves.

use super::repository;
use serde_json::Value;
use std::path::Path;
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
