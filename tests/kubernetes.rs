//! The manifests of `examples/kubernetes`: right by the schemas of Kubernetes, and by
//! what the schemas cannot say. No cluster is needed.

mod common;

use common::cli::text;
use common::{Scratch, repository};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The exit status of the check where its Python package is missing.
const NO_VALIDATOR: i32 = 77;

/// What the check says; `None`: it cannot run here, which was said.
fn check(files: &[PathBuf]) -> Option<Output> {
    let mut check = Command::new("python3");
    check
        .arg(repository().join("tests/kubernetes/check.py"))
        .arg(env!("CARGO_PKG_VERSION"))
        .args(files);
    let output = check.output().expect("python3 is installed");
    if output.status.code() == Some(NO_VALIDATOR) {
        let why = String::from_utf8_lossy(&output.stdout);
        eprintln!("SKIPPED: the manifests were not checked: {why}");
        return None;
    }
    Some(output)
}

fn manifests(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"))
        .collect()
}

#[test]
fn the_manifests_are_right() {
    let files = manifests(&repository().join("examples/kubernetes"));
    assert!(files.len() >= 4, "{files:?}");
    if let Some(output) = check(&files) {
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn what_is_wrong_in_a_manifest_is_found() {
    let scratch = Scratch::new();
    let mistakes = [
        ("pod.yaml", "kind: Pod", "kind: [Pod", "while parsing"),
        (
            "pod.yaml",
            "containerPort: 8000",
            "containerPort: http",
            "8000|http",
        ),
        ("pod.yaml", "readOnly: true", "readonly: true", "readonly"),
        (
            "pod.yaml",
            "livenessProbe:",
            "livenesProbe:",
            "livenesProbe",
        ),
        (
            "pod.yaml",
            "value: /opt/rewarm",
            "value: /usr/rewarm",
            "is in no mount",
        ),
        (
            "pod.yaml",
            "path: /opt/rewarm/0",
            "path: /opt/rewarm/9",
            "is not version",
        ),
        ("pod.yaml", "drop: [ALL]", "drop: [CHOWN]", "capabilities"),
        (
            "pod.yaml",
            "runAsNonRoot: true",
            "runAsNonRoot: true\n    fsUser: 1",
            "fsUser",
        ),
        (
            "daemonset.yaml",
            "apps/v1",
            "apps/v1beta1",
            "apps/v1beta1|not",
        ),
        (
            "daemonset.yaml",
            "- name: snapshots\n              ",
            "- name: other\n              ",
            "no volume other",
        ),
        (
            "daemonset.yaml",
            "selector:\n    match",
            "selector:\n    matches",
            "matches",
        ),
        (
            "daemonset.yaml",
            "seccompProfile:",
            "hostPID: true\n      securityContexts:",
            "hostPID",
        ),
        (
            "kustomization.yaml",
            "daemonset.yaml",
            "other.yaml",
            "other.yaml is not there",
        ),
    ];
    let broken: Vec<_> = mistakes
        .iter()
        .enumerate()
        .map(|(number, (name, right, wrong, _))| {
            let path = repository().join("examples/kubernetes").join(name);
            let manifest = fs::read_to_string(path).unwrap();
            assert!(manifest.contains(right), "{right} is not in {name}");
            let broken = scratch.file(&format!("{number}.yaml"));
            fs::write(&broken, manifest.replace(right, wrong)).unwrap();
            broken
        })
        .collect();
    let Some(output) = check(&broken) else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    for (file, (_, _, wrong, words)) in broken.iter().zip(mistakes) {
        let mut lines = said.lines().filter(|line| line.starts_with(text(file)));
        let is_found = lines.any(|line| words.split('|').any(|word| line.contains(word)));
        assert!(is_found, "{wrong}: {said}");
    }
}
