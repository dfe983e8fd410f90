//! The Python module and the C header, in processes that seem to run under rewarm
//! and in ones that do not.

mod common;

use common::standin::{RunDir, Standin};
use common::{Scratch, libraries, repository};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn python(run_dir: &RunDir, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(repository().join("tests/apps/rewarm_module.py"))
        .args(arguments)
        .env("PYTHONPATH", repository().join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    prepared(command, run_dir)
}

fn prepared(mut command: Command, run_dir: &RunDir) -> Command {
    command
        .current_dir("/tmp")
        .env("REWARM_RUN_DIR", &run_dir.0)
        .env_remove("LD_PRELOAD")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(child: Child) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

fn extent(request: &Value) -> (u64, u64) {
    let number = |key: &str| request[key].as_u64().unwrap();
    (number("address"), number("bytes"))
}

#[test]
fn a_python_program_freezes_itself() {
    let run_dir = RunDir::new();
    let (standin, child) = Standin::inside(&run_dir, &mut python(&run_dir, &["self"]), &[]);
    succeeds(child);
    let discards = standin.asked("discard");
    let extents: Vec<_> = discards.iter().map(extent).collect();
    assert_eq!(
        extents,
        [
            (0x1000, 64),
            (0x1000, 64),
            (0x2000, 40),
            (0x3000, 40),
            (0x7000, 640),
            (0x4000, 48),
            (0x5000, 48),
        ]
    );
    let is_discarded = |request: &Value| request["discard"] == true;
    assert_eq!(
        discards.iter().map(is_discarded).collect::<Vec<_>>(),
        [true, false, true, true, true, true, true]
    );
    let freeze = json!({
        "version": 1, "request": "freeze", "to": "/tmp/somewhere",
        "drain_seconds": 2.0, "budget_bytes": 1u64 << 30,
    });
    assert_eq!(standin.asked("freeze"), [freeze]);
    let thaw = json!({
        "version": 1, "request": "thaw", "keep_snapshot": false, "verify": true,
        "wait_seconds": 0.0, "order": "largest",
    });
    assert_eq!(standin.asked("thaw"), [thaw]);
}

#[test]
fn a_python_program_freezes_another_process() {
    let run_dir = RunDir::new();
    let pid = std::process::id();
    let standin = Standin::serve(&run_dir, pid);
    let mut command = python(&run_dir, &["other", &pid.to_string()]);
    succeeds(command.spawn().unwrap());
    let thaw = json!({
        "version": 1, "request": "thaw", "from": "/t", "keep_snapshot": true,
        "verify": false, "wait_seconds": 1e9, "order": "address",
    });
    assert_eq!(standin.asked("thaw"), [thaw]);
}

#[test]
fn what_a_python_program_is_refused_it_is_told() {
    let run_dir = RunDir::new();
    let refusals = [("freeze", "a stream does not drain")];
    let mut command = python(&run_dir, &["refused"]);
    let (_, child) = Standin::inside(&run_dir, &mut command, &refusals);
    succeeds(child);
}

#[test]
fn a_python_program_without_rewarm_is_told_what_to_do() {
    let run_dir = RunDir::new();
    succeeds(python(&run_dir, &["absent"]).spawn().unwrap());
}

#[test]
fn a_python_program_under_rewarm_is_active_when_it_uses_cuda() {
    let run_dir = RunDir::new();
    let mut command = python(&run_dir, &["real"]);
    command
        .env("LD_PRELOAD", libraries().join("librewarm.so"))
        .env("LD_LIBRARY_PATH", libraries().join("sim"));
    succeeds(command.spawn().unwrap());
}

#[test]
fn the_module_reads_in_old_pythons() {
    let source = repository().join("python/rewarm/__init__.py");
    let script = "import ast, sys; ast.parse(open(sys.argv[1]).read(), feature_version=(3, 8))";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(source);
    succeeds(prepared(command, &RunDir::new()).spawn().unwrap());
}

/// `tests/apps/header.c`, built by a compiler for a language.
fn header(scratch: &Scratch, compiler: &str, language: &[&str]) -> PathBuf {
    let program = scratch.file(compiler);
    let include = repository().join("include");
    let output = Command::new(compiler)
        .args(language)
        .args(["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(include)
        .arg("-o")
        .arg(&program)
        .arg(repository().join("tests/apps/header.c"))
        .output()
        .expect("the tests need a C and a C++ compiler: install gcc and g++");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    program
}

fn run_header(program: &Path, run_dir: &RunDir, argument: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(argument);
    prepared(command, run_dir)
}

#[test]
fn a_c_program_freezes_itself() {
    let scratch = Scratch::new();
    let program = header(&scratch, "cc", &["-std=c99"]);
    let run_dir = RunDir::new();
    let (standin, child) =
        Standin::inside(&run_dir, &mut run_header(&program, &run_dir, "active"), &[]);
    succeeds(child);
    let freeze = json!({
        "version": 1, "request": "freeze", "to": "/a \"b\"\\c\né", "drain_seconds": 2.5,
    });
    assert_eq!(standin.asked("freeze"), [freeze]);
    let thaw = |keep: bool, wait: f64| {
        json!({
            "version": 1, "request": "thaw", "keep_snapshot": keep, "verify": !keep,
            "wait_seconds": wait, "order": "largest",
        })
    };
    assert_eq!(standin.asked("thaw"), [thaw(true, 1e9), thaw(false, 0.0)]);
    let discards = standin.asked("discard");
    assert_eq!(discards.len(), 2);
    assert!(discards.iter().all(|discard| discard["bytes"] == 64));
    assert_eq!(discards[0]["discard"], true);
    assert_eq!(discards[1]["discard"], false);
}

#[test]
fn a_cpp_program_is_told_what_it_is_refused_and_what_is_missing() {
    let scratch = Scratch::new();
    let program = header(&scratch, "c++", &["-std=c++11", "-x", "c++"]);
    let run_dir = RunDir::new();
    let refusals = [("freeze", "the \"stream\" \\ does not drain")];
    let mut command = run_header(&program, &run_dir, "refused");
    let (_, child) = Standin::inside(&run_dir, &mut command, &refusals);
    succeeds(child);
    let mut command = run_header(&program, &run_dir, "absent");
    succeeds(command.spawn().unwrap());
}

/// A socket that another process listens on is not this process's, whatever its name.
#[test]
fn a_socket_of_another_process_is_not_taken_for_ones_own() {
    let scratch = Scratch::new();
    let program = header(&scratch, "cc", &["-std=c99"]);
    let run_dir = RunDir::new();
    // The shell waits until the socket of its pid is there, and becomes the program.
    let mut command = Command::new("sh");
    command
        .args(["-c", "read -r line; exec \"$0\" absent"])
        .arg(&program)
        .stdin(Stdio::piped());
    let mut child = prepared(command, &run_dir).spawn().unwrap();
    let standin = Standin::serve(&run_dir, child.id());
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    succeeds(child);
    assert!(standin.asked("discard").is_empty());
}
