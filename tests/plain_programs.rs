//! Programs that know neither rewarm nor a GPU, checkpointed and restored: what CRIU
//! alone would not bring back.

mod common;

use common::cli::{stderr, text};
use common::live::Live;
use common::{Link, Run, app, criu};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn program() -> Live {
    criu::adopt();
    let run = Run::either(app("keeps", Link::Dlopen), false).env("LOG", "{scratch}/log");
    Live::start_as_it_is(run)
}

fn log(live: &Live) -> PathBuf {
    live.scratch().join("log")
}

fn rewarm(live: &Live, arguments: &[&str]) -> Command {
    let mut command = live.rewarm(arguments);
    let criu = criu::can_checkpoint().expect("who has none skips");
    command
        .env("REWARM_CRIU", criu)
        .env("TMPDIR", live.scratch())
        .stdin(Stdio::null());
    command
}

/// Checkpoints it, which ends it.
#[track_caller]
fn checkpoint(live: &mut Live) {
    let (pid, folder) = (live.pid().to_string(), live.scratch().join("checkpoint"));
    let to = [
        "checkpoint",
        "--replace",
        "--pid",
        &pid,
        "--to",
        text(&folder),
    ];
    let output = rewarm(live, &to).output().unwrap();
    if !output.status.success() {
        live.fail(&stderr(&output));
    }
    live.is_gone();
}

fn restoring(live: &Live, options: &[&str]) -> Command {
    let folder = live.scratch().join("checkpoint");
    let from = ["restore", "--from", text(&folder), "--detach"];
    rewarm(live, &[&from, options].concat())
}

#[track_caller]
fn restore(live: &mut Live, options: &[&str]) -> Output {
    let output = restoring(live, options).output().unwrap();
    if !output.status.success() {
        live.fail(&stderr(&output));
    }
    live.is_back();
    output
}

#[test]
fn timers_go_on_and_threads_stay_bound() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = program();
    for _ in 0..2 {
        live.must("check");
        // Long enough that the timer has expired, and is not armed.
        std::thread::sleep(Duration::from_millis(50));
        checkpoint(&mut live);
        restore(&mut live, &[]);
        live.must("check");
    }
    live.quit();
}

#[test]
fn a_log_that_has_grown_is_cut_if_that_is_wanted() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = program();
    live.must("log before");
    checkpoint(&mut live);
    restore(&mut live, &[]);
    live.must("log after");
    // SAFETY: the test's own process, which is not reaped yet.
    unsafe { libc::kill(live.pid() as i32, libc::SIGKILL) };
    live.is_gone();

    let file = log(&live);
    let words = [text(&file), "from 7 to 13 bytes", "--truncate-files"];
    live.refused(restoring(&live, &[]), &words);
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nafter\n");
    // Anything else that does not fit, and nothing is cut.
    let other = restoring(&live, &["--truncate-files"]);
    let images = live.scratch().join("checkpoint/images");
    let moved = images.with_file_name("elsewhere");
    fs::rename(&images, &moved).unwrap();
    live.refused(other, &["is missing"]);
    fs::rename(&moved, &images).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nafter\n");

    let output = restore(&mut live, &["--truncate-files"]);
    let said = stderr(&output);
    assert!(
        said.contains(text(&file)) && said.contains("was cut"),
        "{said}"
    );
    live.must("log again");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\nagain\n");
    live.quit();
}

#[test]
fn a_restore_whose_report_cannot_be_written_is_a_restore() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = program();
    checkpoint(&mut live);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = restoring(&live, &[])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn();
    let output = output.unwrap().wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(
        said.contains("all is restored, but the report cannot be written"),
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
    live.is_back();
    live.must("check");
    live.quit();
}
