//! `rewarm checkpoint` and `rewarm restore` of a live program.

use super::cli::text;
use super::live::{Live, ended};
use super::{Link, app, criu, libraries};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where its checkpoint goes.
pub fn folder(live: &Live) -> PathBuf {
    live.scratch().join("checkpoint")
}

/// A command of `rewarm`.
pub fn command(live: &Live, arguments: &[&str]) -> Command {
    let mut command = live.rewarm(arguments);
    command
        .env(
            "REWARM_CRIU",
            criu::can_checkpoint().expect("who has none skips"),
        )
        .env("TMPDIR", live.scratch())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The command that makes it, of the whole tree.
pub fn checkpointing(live: &Live, options: &[&str]) -> Command {
    checkpointing_to(live, &folder(live), options)
}

/// The same in another folder.
pub fn checkpointing_to(live: &Live, folder: &Path, options: &[&str]) -> Command {
    let pid = live.pid().to_string();
    let to = text(folder);
    let given = ["checkpoint", "--pid", &pid, "--tree", "--to", to, "--json"];
    command(live, &[&given, options].concat())
}

/// The command that restores it.
pub fn restoring(live: &Live) -> Command {
    let folder = folder(live);
    command(
        live,
        &["restore", "--from", text(&folder), "--detach", "--json"],
    )
}

/// What a command that succeeds prints as JSON.
#[track_caller]
pub fn succeeds(live: &Live, command: &mut Command) -> Value {
    let output = ended(command.spawn().expect("rewarm starts"));
    if !output.status.success() {
        live.fail(&format!("{command:?}: {output:?}"));
    }
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| live.fail(&format!("{error}: {output:?}")))
}

/// Checkpoints the tree, which ends.
#[track_caller]
pub fn checkpoint(live: &mut Live) -> Vec<u32> {
    let pids = criu::tree(live.pid());
    criu::adopt();
    succeeds(live, &mut checkpointing(live, &[]));
    live.is_gone();
    criu::gone(&pids);
    pids
}

/// Restores it, and insists that it has all that it had.
#[track_caller]
pub fn restore(live: &mut Live) {
    criu::adopt();
    succeeds(live, &mut restoring(live));
    live.is_back();
    live.must("check");
}

/// Does something with a process through the driver.
#[track_caller]
pub fn drive(actions: &str, pid: u32) -> String {
    let output = Command::new(app("driver_checkpoint", Link::Dlopen))
        .arg(actions)
        .arg(pid.to_string())
        .env("LD_LIBRARY_PATH", libraries().join("sim"))
        .output()
        .expect("it was just built");
    assert!(output.status.success(), "{actions} {pid}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints numbers")
}
