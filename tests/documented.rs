//! The README and the pages say what the program does.

mod common;

use common::cli::{documented, json, text};
use common::live::Live;
use common::pages::page;
use common::{Link, Run, app, criu};
use rewarm::config::{SETTINGS, markdown};
use rewarm::control::Bypass;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

const BEGIN: &str = "<!-- settings: generated from src/config/table.rs and tested against it -->\n";
const END: &str = "<!-- end of settings -->";

#[test]
fn the_table_of_settings_is_the_programs() {
    let readme = page("README.md");
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
    let text = page("docs/status.md");
    let (_, rest) = text.split_once("The reasons: ").expect("the list is there");
    let (list, _) = rest.split_once('.').expect("it ends");
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let reasons: Vec<&str> = Bypass::ALL.into_iter().map(Bypass::name).collect();
    assert_eq!(named, reasons);
}

#[test]
fn every_option_of_the_table_is_in_the_help() {
    let help = help("run");
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

fn help(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rewarm"))
        .args([command, "--help"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Long options that a text names.
fn options(text: &str) -> BTreeSet<&str> {
    let is_inside = |letter: char| letter.is_ascii_alphabetic() || letter == '-';
    let words = text.split(|letter| !is_inside(letter));
    words.filter(|word| word.starts_with("--")).collect()
}

#[test]
fn the_options_of_whole_processes_are_the_programs() {
    let page = page("docs/checkpoint.md");
    for command in ["checkpoint", "restore", "page-server"] {
        let head = format!("| option of `{command}` | meaning |\n|---|---|\n");
        let (_, table) = page.split_once(&head).expect("there is a table of it");
        let (table, _) = table.split_once("\n\n").expect("it ends");
        let rows = table.lines().filter_map(|row| row.split('|').nth(1));
        let named: BTreeSet<_> = rows.flat_map(options).collect();
        let help = help(command);
        let usage = help.lines().filter(|line| line.trim().starts_with('-'));
        let lines = usage.filter_map(|line| line.split_whitespace().next());
        let lines = lines.map(|word| word.split(['[', '=']).next().unwrap_or(word));
        let mut there: BTreeSet<_> = lines.filter(|word| word.starts_with("--")).collect();
        // Of every process, and told once for all.
        for one in ["--pid", "--json"] {
            there.remove(one);
        }
        assert_eq!(named, there, "{command}");
    }
}

#[test]
fn every_key_of_a_checkpoint_and_a_restore_is_explained() {
    let Some(criu) = criu::criu_or_skip() else {
        return;
    };
    criu::adopt();
    let run = Run::rewarmed(app("freeze", Link::Dlopen)).lanes(2);
    let mut live = Live::start(run.arg("memory=small"));
    let rewarm = |live: &Live, arguments: &[&str]| {
        let mut command = live.rewarm(arguments);
        command.env("REWARM_CRIU", criu).stdin(Stdio::null());
        json(&mut command)
    };
    let (pid, folder) = (live.pid().to_string(), live.scratch().join("checkpoint"));
    let to = ["checkpoint", "--pid", &pid, "--to", text(&folder), "--json"];
    let mut made = rewarm(&live, &to);
    live.is_gone();
    let freeze = made["processes"][0]["freeze"].take();
    documented(&freeze, "docs/sleep.md", "## Keys");
    documented(&made, "docs/checkpoint.md", "### Of a checkpoint");
    let from = ["restore", "--from", text(&folder), "--detach", "--json"];
    let restored = rewarm(&live, &from);
    live.is_back();
    assert_eq!(restored["gpus"][0]["pid"], live.pid());
    documented(&restored, "docs/checkpoint.md", "### Of a restore");
    live.quit();
}

#[test]
fn every_key_of_the_report_is_explained() {
    let report = rewarm::control::ProcessReport {
        devices: vec![Default::default()],
        ..Default::default()
    };
    let report = serde_json::to_value(report).unwrap();
    documented(&report, "docs/status.md", "## The report");
}
