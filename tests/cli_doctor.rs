//! `rewarm doctor`, on machines with what it needs and without.

mod common;

use common::{Scratch, criu, libraries};
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewarm"));
    command
        .arg("doctor")
        .args(arguments)
        .env("REWARM_LIB_DIR", libraries());
    for name in ["LD_PRELOAD", "REWARM_DISABLE", "CRIU_CUDA_PARALLEL_RESTORE"] {
        command.env_remove(name);
    }
    command.env("LD_LIBRARY_PATH", sim());
    command
}

fn sim() -> PathBuf {
    libraries().join("sim")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn everything_works_on_the_software_driver() {
    let output = doctor(&["--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found = json(&output);
    assert_eq!(found["works"], true);
    assert_eq!(found["features"].as_array().unwrap().len(), 5);
    assert_eq!(found["driver"]["gpus"][0]["ordinal"], 0);
    assert!(
        found["driver"]["gpus"][0]["pinned_gb_per_s"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    assert!(found["system"]["cpus_allowed"].as_u64().unwrap() >= 1);
}

#[test]
fn measuring_can_be_left_out() {
    let found = json(&doctor(&["--json", "--no-measure"]).output().unwrap());
    assert_eq!(found["works"], true);
    assert_eq!(found["driver"]["gpus"][0]["pinned_gb_per_s"], Value::Null);
}

#[test]
fn the_text_names_every_feature() {
    let output = doctor(&["--no-measure"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in [
        "copies to the device",
        "copies to the host",
        "prewarmed context",
        "freezing",
    ] {
        let line = text
            .lines()
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("{text}"));
        assert!(line.ends_with("yes"), "{line}");
    }
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let refused = |command: &mut Command, reason: &str, advice: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(reason) && text.contains(advice), "{text}");
    };
    let empty = Scratch::new();
    let text = ["--no-measure"];
    refused(
        doctor(&text).env("REWARM_LIB_DIR", empty.path()),
        "libraries are missing",
        "scripts/build",
    );
    refused(
        doctor(&text).env("REWARM_DISABLE", "1"),
        "REWARM_DISABLE=1",
        "Unset it",
    );
    refused(
        doctor(&text).env("SIMCUDA_DEVICES", "0"),
        "no",
        "nvidia-smi",
    );
    refused(
        doctor(&text).env("SIMCUDA_FAIL", "cuMemHostRegister_v2:1:2"),
        "cuMemHostRegister_v2",
        "GPU 0",
    );
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        refused(
            doctor(&text).env_remove("LD_LIBRARY_PATH"),
            "no CUDA driver",
            "--sim",
        );
    }
}

#[test]
fn switched_off_copies_leave_prewarming() {
    let output = doctor(&["--json", "--no-measure"])
        .env("CRIU_CUDA_PARALLEL_RESTORE", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let works: Vec<_> = json(&output)["features"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|feature| feature["optional"] == false)
        .map(|feature| feature["works"].as_bool().unwrap())
        .collect();
    assert_eq!(works, [false, false, true, true]);
}

#[test]
fn under_rewarm_it_still_looks_at_the_plain_driver() {
    let front = libraries().join("librewarm.so");
    let output = doctor(&["--json", "--no-measure"])
        .env("LD_PRELOAD", front)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(json(&output)["system"]["rewarm_preloaded"], true);
    let output = doctor(&["--json", "--no-measure"]).output().unwrap();
    assert_eq!(json(&output)["system"]["rewarm_preloaded"], false);
}

/// What the doctor says of checkpoints of whole processes.
fn whole_processes(command: &mut Command) -> (Option<i32>, Value) {
    let output = command.output().unwrap();
    let mut found = json(&output);
    let features = found["features"].as_array_mut().unwrap();
    let feature = features.pop().unwrap();
    assert_eq!(feature["name"], "whole processes");
    (output.status.code(), feature)
}

#[test]
fn whole_processes_take_criu_and_root() {
    let Some(criu) = criu::criu_or_skip() else {
        return;
    };
    let mut command = doctor(&["--json", "--no-measure", "--processes"]);
    let (status, feature) = whole_processes(command.env("REWARM_CRIU", criu));
    assert_eq!(feature["works"], true, "{feature}");
    assert_eq!(status, Some(0));
}

#[test]
fn a_criu_that_cannot_be_used_counts_when_it_is_asked_for() {
    let scratch = Scratch::new();
    let old = scratch.path().join("criu");
    std::fs::write(&old, "#!/bin/sh\necho Version: 3.17.1\n").unwrap();
    std::fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
    let missing = scratch.path().join("none");
    for (criu, why) in [
        (&old, "4.0 or newer is needed"),
        (&missing, "cannot be started"),
    ] {
        let mut command = doctor(&["--json", "--no-measure"]);
        command.env("REWARM_CRIU", criu);
        let (status, feature) = whole_processes(&mut command);
        assert_eq!((status, &feature["works"]), (Some(0), &Value::Bool(false)));
        let problem = feature["problems"][0].to_string();
        assert!(
            problem.contains(why) && problem.contains("REWARM_CRIU"),
            "{problem}"
        );
        let (status, _) = whole_processes(command.arg("--processes"));
        assert_eq!(status, Some(1));
    }
}
