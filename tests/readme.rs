//! The README says what the program does.

mod common;

use common::repository;
use rewarm::config::{SETTINGS, markdown};
use rewarm::control::Bypass;
use std::process::Command;

const BEGIN: &str = "<!-- settings: generated from src/config/table.rs and tested against it -->\n";
const END: &str = "<!-- end of settings -->";

fn readme() -> String {
    std::fs::read_to_string(repository().join("README.md")).unwrap()
}

#[test]
fn the_table_of_settings_is_the_programs() {
    let readme = readme();
    let (_, rest) = readme
        .split_once(BEGIN)
        .expect("the table's first comment is there");
    let (table, _) = rest
        .split_once(END)
        .expect("the table's last comment is there");
    assert!(
        table == markdown(),
        "put this into README.md:\n{}",
        markdown()
    );
}

#[test]
fn the_reasons_are_the_programs() {
    let text = readme();
    let (_, rest) = text.split_once("The reasons: ").expect("the list is there");
    let (list, _) = rest.split_once('.').expect("it ends");
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let reasons: Vec<&str> = Bypass::ALL.into_iter().map(Bypass::name).collect();
    assert_eq!(named, reasons);
}

#[test]
fn every_option_of_the_table_is_in_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_rewarm"))
        .args(["run", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for setting in SETTINGS.iter().filter(|setting| setting.flag.is_some()) {
        let flag = setting.flag_text().replace(' ', " <");
        assert!(help.contains(&flag), "{flag} is not in:\n{help}");
        assert!(
            help.contains(setting.name),
            "{} is not in:\n{help}",
            setting.name
        );
    }
}

#[test]
fn the_scripts_it_names_are_there() {
    let readme = readme();
    for script in ["scripts/demo", "scripts/test", "scripts/rewarm-python"] {
        assert!(readme.contains(script), "{script}");
        assert!(repository().join(script).is_file(), "{script}");
    }
    for example in [
        "examples/podman",
        "examples/vllm",
        "examples/transformers",
        "examples/safetensors",
        "examples/freeze",
    ] {
        assert!(readme.contains(&format!("({example})")), "{example}");
        assert!(
            repository().join(example).join("README.md").is_file(),
            "{example}"
        );
    }
}

#[test]
fn every_key_of_the_report_is_explained() {
    let report = rewarm::control::ProcessReport {
        devices: vec![Default::default()],
        ..Default::default()
    };
    let readme = readme();
    let is_inside = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words: Vec<_> = readme.split(|letter| !is_inside(letter)).collect();
    for key in keys(&serde_json::to_value(report).unwrap()) {
        assert!(words.contains(&key.as_str()), "{key} is not in the README");
    }
}

fn keys(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat())
            .collect(),
        serde_json::Value::Array(items) => items.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}
