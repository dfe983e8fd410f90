//! `rewarm run`: what the command gets, and what its caller sees.

mod common;

use common::{Link, Scratch, app, libraries};
use rewarm::control::{ProcessReport, State};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

/// `rewarm ARGUMENTS`, in an environment without settings.
fn rewarm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewarm"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("REWARM_") || name.starts_with("CRIU_CUDA_") || name == "LD_PRELOAD" {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).env("REWARM_LIB_DIR", libraries());
    command
}

fn run(arguments: &[&str]) -> Output {
    rewarm(&[&["run"], arguments].concat()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The command's environment variable, as `env` shows it.
fn variable<'a>(environment: &'a str, name: &str) -> Option<&'a str> {
    environment
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

fn front() -> String {
    let front = libraries().canonicalize().unwrap().join("librewarm.so");
    front.to_str().unwrap().to_owned()
}

#[test]
fn the_exit_status_and_the_output_are_the_commands_own() {
    let output = run(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (stdout(&output), stderr(&output)),
        ("out\n".into(), "err\n".into())
    );
    let output = run(&["--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.signal(), Some(libc::SIGTERM));
}

#[test]
fn the_command_keeps_the_process_id() {
    let child = rewarm(&["run", "--", "sh", "-c", "echo $$"]);
    let child = { child }
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    assert_eq!(
        stdout(&child.wait_with_output().unwrap()),
        format!("{pid}\n")
    );
}

#[test]
fn a_command_that_does_not_start_is_reported_as_env_does() {
    let output = run(&["--", "no-such-command"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(
        stderr(&output).contains("cannot start no-such-command"),
        "{}",
        stderr(&output)
    );
    let output = run(&["--", "/etc/passwd"]);
    assert_eq!(output.status.code(), Some(126));
}

#[test]
fn the_library_is_joined_with_an_existing_preload() {
    let preload = |list: &str| {
        let output = rewarm(&["run", "--", "env"])
            .env("LD_PRELOAD", list)
            .output()
            .unwrap();
        variable(&stdout(&output), "LD_PRELOAD").unwrap().to_owned()
    };
    // Names that the dynamic linker finds: it complains about others.
    assert_eq!(preload(""), front());
    assert_eq!(
        preload("libm.so.6 libdl.so.2"),
        format!("{}:libm.so.6:libdl.so.2", front())
    );
    assert_eq!(
        preload(&format!("libm.so.6:{}", front())),
        format!("{}:libm.so.6", front())
    );
}

#[test]
fn options_become_the_settings_of_the_command() {
    let output = run(&[
        "--prewarm",
        "--no-parallel",
        "--lanes",
        "3",
        "--chunk-mb=256",
        "--staging-mb",
        "64",
        "--min-copy-kb",
        "512",
        "--",
        "env",
    ]);
    let environment = stdout(&output);
    let expected = [
        ("CRIU_CUDA_CONTEXT_POOL", "1"),
        ("CRIU_CUDA_PARALLEL_RESTORE", "0"),
        ("CRIU_CUDA_STREAMS", "3"),
        ("CRIU_CUDA_CHUNK_MB", "256"),
        ("REWARM_STAGING_MB", "64"),
        ("REWARM_MIN_COPY_KB", "512"),
    ];
    for (name, value) in expected {
        assert_eq!(variable(&environment, name), Some(value), "{environment}");
    }
}

#[test]
fn without_options_no_setting_is_made_up() {
    let environment = stdout(&run(&["--", "env"]));
    assert!(!environment.contains("CRIU_CUDA_"), "{environment}");
    assert_eq!(variable(&environment, "REWARM_PREWARM_PID"), None);
    assert_eq!(variable(&environment, "REWARM_STATS"), None);
}

#[test]
fn prewarming_names_the_command_by_its_process_id() {
    let output = run(&[
        "--prewarm",
        "--",
        "sh",
        "-c",
        "echo $$; echo $REWARM_PREWARM_PID",
    ]);
    let text = stdout(&output);
    let pids: Vec<_> = text.lines().collect();
    assert_eq!(pids[0], pids[1]);
}

#[test]
fn bad_values_are_usage_errors_wherever_they_come_from() {
    let output = run(&["--lanes", "100", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("from 1 to 64"),
        "{}",
        stderr(&output)
    );
    let inherited = rewarm(&["run", "--", "true"])
        .env("CRIU_CUDA_CHUNK_MB", "big")
        .output();
    let output = inherited.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("CRIU_CUDA_CHUNK_MB=big"),
        "{}",
        stderr(&output)
    );
    // An option that replaces the bad value makes it right.
    let mut replaced = rewarm(&["run", "--chunk-mb", "8", "--", "true"]);
    assert!(
        replaced
            .env("CRIU_CUDA_CHUNK_MB", "big")
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
fn missing_libraries_are_named_with_where_was_looked() {
    let empty = Scratch::new();
    let output = rewarm(&["run", "--", "true"])
        .env("REWARM_LIB_DIR", empty.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("librewarm.so") && text.contains("librewarm_core.so"),
        "{text}"
    );
    assert!(text.contains(empty.path().to_str().unwrap()), "{text}");
}

#[test]
fn a_folder_that_preloading_cannot_express_is_refused() {
    let scratch = Scratch::new();
    let spaced = scratch.file("with space");
    std::os::unix::fs::symlink(libraries(), &spaced).unwrap();
    // The link leads to a folder that can be preloaded from.
    assert!(
        rewarm(&["run", "--", "true"])
            .env("REWARM_LIB_DIR", &spaced)
            .status()
            .unwrap()
            .success()
    );
    let copied = scratch.file("copied to");
    fs::create_dir(&copied).unwrap();
    for name in ["librewarm.so", "librewarm_core.so"] {
        fs::copy(libraries().join(name), copied.join(name)).unwrap();
    }
    let output = rewarm(&["run", "--", "true"])
        .env("REWARM_LIB_DIR", &copied)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("space or a colon"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_software_driver_comes_first_on_the_library_path() {
    let mut command = rewarm(&["run", "--sim", "--", "env"]);
    let output = command
        .env("LD_LIBRARY_PATH", "/somewhere")
        .output()
        .unwrap();
    let sim = libraries().canonicalize().unwrap().join("sim");
    let expected = format!("{}:/somewhere", sim.display());
    assert_eq!(
        variable(&stdout(&output), "LD_LIBRARY_PATH"),
        Some(expected.as_str())
    );
}

fn read(path: &Path) -> ProcessReport {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_command_that_uses_cuda_leaves_its_report() {
    let scratch = Scratch::new();
    let stats = scratch.file("stats.json");
    let app = app("holds", Link::Dlopen);
    let bytes = (32u64 << 20).to_string();
    let output = rewarm(&["run", "--sim", "--stats", "stats.json", "--"])
        .arg(&app)
        .arg(&bytes)
        .current_dir(scratch.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = read(&stats);
    assert_eq!(report.state, State::Active);
    assert_eq!(Path::new(&report.executable), app.canonicalize().unwrap());
    assert_eq!(report.devices[0].h2d.fanned_out_bytes, 32 << 20);
    assert_eq!(report.devices[0].h2d.fanned_out_copies, 1);
    assert_eq!(
        fs::metadata(&stats).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_command_without_cuda_leaves_the_empty_report() {
    let scratch = Scratch::new();
    let stats = scratch.file("stats.json");
    let output = run(&["--stats", stats.to_str().unwrap(), "--", "true"]);
    assert!(output.status.success(), "{output:?}");
    let report = read(&stats);
    assert_eq!(
        (report.pid, report.state, report.devices.len()),
        (0, State::Inert, 0)
    );
}

#[test]
fn the_second_process_of_a_command_writes_beside() {
    let scratch = Scratch::new();
    let stats = scratch.file("stats.json");
    let app = app("holds", Link::Dlopen);
    let script = format!("{0} 1 </dev/null; {0} 1 </dev/null", app.display());
    let output = run(&[
        "--sim",
        "--stats",
        stats.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        &script,
    ]);
    assert!(output.status.success(), "{output:?}");
    let names: Vec<_> = fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let first = read(&stats).pid;
    let second = names
        .iter()
        .map(|entry| read(&entry.path()).pid)
        .find(|pid| *pid != first)
        .unwrap();
    assert!(scratch.file(&format!("stats.json.{second}")).exists());
}

#[test]
fn a_file_that_is_no_report_is_not_overwritten() {
    let scratch = Scratch::new();
    let program = scratch.file("app.py");
    fs::write(&program, "print('hello')\n").unwrap();
    let output = run(&["--stats", program.to_str().unwrap(), "--", "true"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("not a report"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_to_string(&program).unwrap(), "print('hello')\n");
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error_before_the_command_starts() {
    let output = run(&["--log", "/nonexistent/log", "--", "echo", "started"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    assert!(
        stderr(&output).contains("/nonexistent/log"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_makes_rewarm_ineffective_is_warned_of() {
    let output = rewarm(&["run", "--", "true"])
        .env("REWARM_DISABLE", "1")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(
        stderr(&output).contains("REWARM_DISABLE=1"),
        "{}",
        stderr(&output)
    );
    let scratch = Scratch::new();
    let program = scratch.file("program");
    fs::write(scratch.file("program.c"), "int main(void) { return 0; }").unwrap();
    let built = Command::new("cc")
        .args(["-static", "-o", "program", "program.c"])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    if !built.status.success() {
        println!("not checked: this C compiler links no static programs");
        return;
    }
    let output = run(&["--", program.to_str().unwrap()]);
    assert!(output.status.success());
    assert!(
        stderr(&output).contains("statically linked"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_python_wrapper_runs_python_under_rewarm() {
    let wrapper = common::repository().join("scripts/rewarm-python");
    let scratch = Scratch::new();
    for name in ["librewarm.so", "librewarm_core.so"] {
        std::os::unix::fs::symlink(libraries().join(name), scratch.file(name)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_rewarm"), scratch.file("rewarm")).unwrap();
    fs::copy(wrapper, scratch.file("rewarm-python")).unwrap();
    // Anything can stand for the interpreter: this one shows what it is given.
    let output = Command::new(scratch.file("rewarm-python"))
        .args(["-c", "echo $LD_PRELOAD $0 \"$1\"", "app.py", "a b"])
        .env("REWARM_PYTHON", "sh")
        .env_remove("LD_PRELOAD")
        .output()
        .unwrap();
    assert_eq!(stderr(&output), "");
    let text = stdout(&output);
    assert!(text.ends_with("librewarm.so app.py a b\n"), "{text}");
}
