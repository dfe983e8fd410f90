//! For tests of the packaging: a copy of the repository's files, and commands that
//! stand in for others.

use super::{Scratch, libraries, repository};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What is packed and what packs it. The copy's `target/release` is the real one.
pub fn copy_of_the_repository(scratch: &Scratch) -> PathBuf {
    let copy = scratch.file("rewarm");
    fs::create_dir_all(copy.join("target")).unwrap();
    let parts = "scripts packaging examples docs README.md BENCHMARKS.md CHANGELOG.md LICENSE \
        Cargo.toml .containerignore include python";
    let mut command = Command::new("cp");
    command.arg("-r").args(parts.split_whitespace()).arg(&copy);
    succeeds(command.current_dir(repository()));
    symlink(
        libraries().canonicalize().unwrap(),
        copy.join("target/release"),
    )
    .unwrap();
    copy
}

/// A script of the repository.
pub fn script(copy: &Path, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(copy.join("scripts").join(name));
    quickly(command.args(arguments)).env_remove("CARGO_TARGET_DIR");
    command
}

/// Compression, which no test is about, takes most of the time of making a package.
pub fn quickly(command: &mut Command) -> &mut Command {
    command.env("DPKG_DEB_COMPRESSOR_LEVEL", "1")
}

/// Makes a command that runs some lines of sh.
pub fn stand_in(folder: &Path, name: &str, lines: &str) {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\nset -eu\n{lines}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Insists on success; gives standard output.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    let output = command.stdin(std::process::Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Whether the commands are there and this is root; says loudly what is missing.
pub fn can_run_as_root(commands: &[&str]) -> bool {
    // SAFETY: has no requirements.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: it needs root");
        return false;
    }
    let is_there = |name: &&&str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    };
    match commands.iter().find(|name| !is_there(name)) {
        Some(missing) => {
            eprintln!("SKIPPED: {missing} is not installed");
            false
        }
        None => true,
    }
}

/// Every file and link below a folder, as paths from there.
pub fn files_below(folder: &Path) -> Vec<String> {
    let mut find = Command::new("find");
    let found = succeeds(find.args([".", "!", "-type", "d"]).current_dir(folder));
    let mut files: Vec<_> = found.lines().map(|line| line[2..].to_owned()).collect();
    files.sort();
    files
}

/// A package database of its own, with nothing in it.
pub fn fresh_debian(root: &Path) {
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
}
