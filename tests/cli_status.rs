//! `rewarm status`: of a process that uses CUDA, and of ones that do not.

mod common;

use common::{Link, app, libraries};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A process that has copied 32 MiB under rewarm, and waits.
struct Holding(Child);

impl Holding {
    fn start(run_dir: &Path, options: &[&str]) -> Holding {
        let mut child = rewarm(run_dir, &["run", "--sim"])
            .args(options)
            .arg("--")
            .arg(app("holds", Link::Dlopen))
            .arg((32 << 20).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        Holding(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn rewarm(run_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewarm"));
    command
        .args(arguments)
        .env("REWARM_LIB_DIR", libraries())
        .env("REWARM_RUN_DIR", run_dir)
        .env_remove("LD_PRELOAD");
    command
}

fn status(run_dir: &Path, arguments: &[&str]) -> Output {
    rewarm(run_dir, &[&["status"], arguments].concat())
        .output()
        .unwrap()
}

/// A folder for control sockets. Its path is short: sockets do not take long ones.
struct RunDir(PathBuf);

impl RunDir {
    fn new() -> RunDir {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        RunDir(std::env::temp_dir().join(format!("rewarm-run-{}-{number}", std::process::id())))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_process_shows_its_copies_as_text_and_as_json() {
    let folder = RunDir::new();
    let process = Holding::start(&folder.0, &["--chunk-mb", "256"]);
    let output = status(&folder.0, &["--pid", &process.pid()]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        shown.starts_with(&format!("process {} (holds", process.pid())),
        "{shown}"
    );
    assert!(shown.contains("to device  32 MiB"), "{shown}");
    assert!(
        shown.contains("CRIU_CUDA_CHUNK_MB=256 clamped to"),
        "{shown}"
    );

    let one: Value =
        serde_json::from_slice(&status(&folder.0, &["--pid", &process.pid(), "--json"]).stdout)
            .unwrap();
    assert_eq!(one["devices"][0]["h2d"]["fanned_out_copies"], 1);
    let all: Value = serde_json::from_slice(&status(&folder.0, &["--json"]).stdout).unwrap();
    assert_eq!(all["processes"].as_array().unwrap().len(), 1);
    assert_eq!(all["processes"][0]["pid"], one["pid"]);
}

#[test]
fn all_processes_are_shown_and_those_that_ended_are_not() {
    let folder = RunDir::new();
    let first = Holding::start(&folder.0, &[]);
    let second = Holding::start(&folder.0, &[]);
    let shown = text(&status(&folder.0, &[]).stdout);
    for process in [&first, &second] {
        assert!(
            shown.contains(&format!("process {} ", process.pid())),
            "{shown}"
        );
    }
    // Killed, so that its socket stays behind.
    let mut second = second;
    second.0.kill().unwrap();
    second.0.wait().unwrap();
    let shown = text(&status(&folder.0, &[]).stdout);
    assert!(!shown.contains(&second.pid()), "{shown}");
    assert!(!folder.0.join(format!("{}.sock", second.pid())).exists());
    drop(first);
    assert_eq!(
        std::fs::read_dir(&folder.0).unwrap().count(),
        0,
        "removed at exit"
    );
}

#[test]
fn no_process_is_no_error() {
    let folder = RunDir::new();
    let output = status(&folder.0, &[]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("no process"), "{output:?}");
    let json: Value = serde_json::from_slice(&status(&folder.0, &["--json"]).stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "processes": [] }));
}

#[test]
fn a_process_without_a_report_is_told_apart() {
    let folder = RunDir::new();
    let refused = |pid: &str, reason: &str| {
        let output = status(&folder.0, &["--pid", pid]);
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains(reason), "{error}");
    };
    let sleeping = |command: &mut Command| {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut holding = Holding(child);
        let mut line = String::new();
        BufReader::new(holding.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        holding
    };
    let script = ["-c", "echo ready; read -r line"];
    refused(&std::process::id().to_string(), "runs without rewarm");
    let inert = sleeping(rewarm(&folder.0, &["run", "--", "sh"]).args(script));
    refused(&inert.pid(), "has not used CUDA yet");
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    refused(&ended.id().to_string(), "there is no process");
}

#[test]
fn a_stopped_process_is_named_and_holds_nothing_up() {
    let folder = RunDir::new();
    let process = Holding::start(&folder.0, &[]);
    let signal = |number| {
        // SAFETY: our own child.
        unsafe { libc::kill(process.0.id() as i32, number) };
    };
    signal(libc::SIGSTOP);
    let output = status(&folder.0, &[]);
    signal(libc::SIGCONT);
    assert!(output.status.success());
    assert!(
        text(&output.stderr).contains(&format!("process {}", process.pid())),
        "{output:?}"
    );
}
