//! `rewarm` on the software driver, in an environment without settings.

use super::{libraries, repository, shared_library};
use serde_json::Value;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

/// `rewarm ARGUMENTS`.
pub fn rewarm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rewarm"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = ["REWARM_", "CRIU_CUDA_", "SIMCUDA_", "FAULTY_"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "LD_PRELOAD" {
            command.env_remove(&*name);
        }
    }
    command
        .args(arguments)
        .env("LD_LIBRARY_PATH", libraries().join("sim"));
    command
}

/// The same with files of this name faulty, see `tests/apps/faulty_files.c`.
pub fn faulty(arguments: &[&str], mode: &str, name: &str) -> Command {
    let mut command = rewarm(arguments);
    command
        .env("LD_PRELOAD", shared_library("faulty_files"))
        .env("FAULTY_DO", mode)
        .env("FAULTY_NAME", name);
    command
}

/// Sets a limit of the process just before it starts.
pub fn limit(command: &mut Command, resource: u32, value: u64) -> &mut Command {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: one system call, after the fork.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(resource, &limit) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// All of standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// What a command that succeeds prints as JSON. Nothing else is printed.
#[track_caller]
pub fn json(command: &mut Command) -> Value {
    let output = command.output().expect("rewarm starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    assert_eq!(stderr(&output), "", "{command:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Insists that a section of a page, named by its heading, has every key of what a
/// command prints.
#[track_caller]
pub fn documented(found: &Value, page: &str, heading: &str) {
    let text = std::fs::read_to_string(repository().join(page)).unwrap();
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap();
    let depth = heading.split(' ').next().unwrap();
    let (section, _) = section
        .split_once(&format!("\n{depth} "))
        .unwrap_or((section, ""));
    let is_inside = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words: Vec<_> = section.split(|letter| !is_inside(letter)).collect();
    for key in keys(found) {
        assert!(words.contains(&key.as_str()), "{key} is not in {page}");
    }
}

fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat())
            .collect(),
        Value::Array(items) => items.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

/// A number in JSON.
#[track_caller]
pub fn number_in(value: &Value, key: &str) -> u64 {
    let number = value[key].as_u64();
    number.unwrap_or_else(|| panic!("{key} is not a number in {value}"))
}

/// Insists that a command fails with this status, says all the words and prints
/// nothing that looks like success. Returns what it says.
#[track_caller]
pub fn refused(command: &mut Command, status: i32, words: &[&str]) -> String {
    let output = command.output().expect("rewarm starts");
    assert_eq!(
        output.status.code(),
        Some(status),
        "{command:?}: {output:?}"
    );
    assert!(output.stdout.is_empty(), "{command:?}: {output:?}");
    let message = stderr(&output);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    assert!(!message.contains('\u{1b}'), "{message:?}");
    message
}
