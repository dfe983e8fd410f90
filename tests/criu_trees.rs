//! Processes that CRIU dumps and restores: plain ones, those under rewarm, and trees
//! with everything that programs hold.

mod common;

use common::live::Live;
use common::{Link, Run, app, criu, libraries};
use std::process::Command;

/// Prints in any case, so that tests of whole processes are never skipped silently.
#[test]
fn it_is_told_whether_whole_processes_are_tested() {
    match criu::can_checkpoint() {
        Ok(criu) => println!("tests of whole processes use {}", criu.display()),
        Err(why) => println!("SKIPPED: all tests that checkpoint whole processes: {why}"),
    }
}

/// Does something with processes through the driver.
#[track_caller]
fn driver(actions: &str, pids: &[u32]) -> String {
    let output = Command::new(app("driver_checkpoint", Link::Dlopen))
        .arg(actions)
        .args(pids.iter().map(u32::to_string))
        .env("LD_LIBRARY_PATH", libraries().join("sim"))
        .output()
        .expect("it was just built");
    assert!(output.status.success(), "{actions} {pids:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints numbers")
}

/// A program that was dumped is killed and restored.
#[track_caller]
fn there_and_back(live: &mut Live, options: &[&str]) {
    let images = live.scratch().join("images");
    if let Err(error) = criu::dump(live.pid(), &images, options) {
        live.fail(&error);
    }
    live.is_gone();
    if let Err(error) = criu::restore(&images, options) {
        live.fail(&error);
    }
    live.is_back();
}

const OPTIONS: [&str; 2] = ["--shell-job", "--file-locks"];

fn program(rewarmed: bool) -> Run {
    let program = app("freeze", Link::Dlopen);
    let run = Run::either(program, rewarmed).lanes(4);
    run.arg("memory=small,plain,odd,zero,own,pool")
}

#[test]
fn a_plain_process_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program(false));
    live.must("check");
    driver("lock,checkpoint", &[live.pid()]);
    there_and_back(&mut live, &OPTIONS);
    assert_eq!(driver("state", &[live.pid()]), "2\n");
    driver("restore,unlock", &[live.pid()]);
    live.must("check");
    live.quit();
}

#[test]
fn a_process_under_rewarm_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start_as_it_is(program(true).env("SIMCUDA_MACHINE", "{scratch}/machine"));
    for round in 0..2 {
        live.must("check");
        driver("lock,checkpoint", &[live.pid()]);
        there_and_back(&mut live, &OPTIONS);
        driver("restore,unlock", &[live.pid()]);
        live.must("check");
        assert_eq!(live.state(), "active", "round {round}");
    }
    live.quit();
}

#[test]
fn a_frozen_process_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program(true));
    for round in 0..2 {
        live.must(&format!("touch 5 {round}"));
        live.freeze(&[]);
        driver("lock,checkpoint", &[live.pid()]);
        there_and_back(&mut live, &OPTIONS);
        driver("restore,unlock", &[live.pid()]);
        assert_eq!(live.state(), "frozen", "round {round}");
        live.thaw(&["--keep-snapshot"]);
        assert_eq!(live.state(), "active", "round {round}");
        live.must("check");
    }
    live.freeze(&[]);
    live.thaw(&[]);
    live.must("check");
    live.quit();
}
