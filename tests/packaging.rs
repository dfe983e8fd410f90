//! Installing and packaging: what is installed works, and can be removed without a
//! trace.

mod common;

use common::cli::{stderr, text};
use common::packages::{
    can_run_as_root, copy_of_the_repository, files_below, fresh_debian, output, script, succeeds,
};
use common::{Link, Scratch, app, repository};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Insists that an installed `rewarm run` puts its own library into a program, on the
/// software driver that was installed with it.
#[track_caller]
fn works(rewarm: &Path, front: &Path) {
    let program = app("freeze", Link::Dlopen);
    assert!(program.is_file());
    let mut run = Command::new(rewarm);
    run.args([
        "run",
        "--sim",
        "--",
        "sh",
        "-c",
        "echo $LD_PRELOAD; echo $LD_LIBRARY_PATH",
    ])
    .env_remove("LD_PRELOAD")
    .env_remove("LD_LIBRARY_PATH")
    .env_remove("REWARM_LIB_DIR");
    let front = front.canonicalize().unwrap();
    let sim = front.with_file_name("sim");
    let wanted = format!("{}\n{}\n", front.display(), sim.display());
    assert_eq!(succeeds(&mut run), wanted);
    let mut load = Command::new(rewarm);
    load.args(["load", "--json"])
        .arg(rewarm)
        .env("LD_LIBRARY_PATH", sim);
    let report: serde_json::Value = serde_json::from_str(&succeeds(&mut load)).unwrap();
    assert_eq!(report["files"], 1, "{report}");
}

/// Imports the Python module, which leaves compiled code beside it.
#[track_caller]
fn use_the_module(folder: &Path) {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import rewarm; print(rewarm.is_active())"])
        .env("PYTHONPATH", folder)
        .env_remove("PYTHONDONTWRITEBYTECODE")
        .env_remove("LD_PRELOAD");
    assert_eq!(succeeds(&mut python), "False\n");
    assert!(folder.join("rewarm/__pycache__").is_dir());
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

#[test]
fn what_is_installed_works_and_is_removed_without_a_trace() {
    let scratch = Scratch::new();
    let copy = copy_of_the_repository(&scratch);
    let prefix = scratch.file("prefix");
    let options = ["--built", "--prefix", text(&prefix)];
    fs::create_dir_all(prefix.join("share/empty")).unwrap();
    fs::write(prefix.join("share/mine"), "mine").unwrap();
    succeeds(&mut script(&copy, "install", &options));
    works(
        &prefix.join("bin/rewarm"),
        &prefix.join("lib/rewarm/librewarm.so"),
    );
    let first = files_below(&prefix);
    for file in [
        "bin/rewarm-python",
        "lib/rewarm/bin/cuda-checkpoint",
        "share/man/man1/rewarm-freeze.1",
        "share/bash-completion/completions/rewarm",
        "share/doc/rewarm/README.md",
    ] {
        assert!(first.iter().any(|found| found == file), "{file}: {first:?}");
    }
    use_the_module(&prefix.join("lib/rewarm/python"));
    // Again, which is an update: an example is gone meanwhile.
    fs::remove_dir_all(copy.join("examples/demo")).unwrap();
    succeeds(&mut script(&copy, "install", &options));
    assert!(
        !prefix
            .join("share/doc/rewarm/examples/demo/copy.c")
            .exists()
    );
    fs::write(prefix.join("lib/rewarm/mine"), "mine").unwrap();
    succeeds(&mut script(
        &copy,
        "install",
        &["--uninstall", "--prefix", text(&prefix)],
    ));
    assert_eq!(files_below(&prefix), ["lib/rewarm/mine", "share/mine"]);
    assert!(prefix.join("share/empty").is_dir());
    assert!(!prefix.join("share/man").exists());
}

#[test]
fn files_of_others_are_neither_overwritten_nor_removed() {
    let scratch = Scratch::new();
    let copy = copy_of_the_repository(&scratch);
    let prefix = scratch.file("prefix");
    let options = ["--built", "--prefix", text(&prefix)];
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::write(prefix.join("bin/rewarm"), "another").unwrap();
    let refused = output(&mut script(&copy, "install", &options));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        stderr(&refused).contains("bin/rewarm is there"),
        "{refused:?}"
    );
    assert_eq!(files_below(&prefix), ["bin/rewarm"]);
    // A list that leads out of the prefix.
    let mine = scratch.file("mine");
    fs::write(&mine, "mine").unwrap();
    fs::create_dir_all(prefix.join("lib/rewarm")).unwrap();
    for line in ["f ../mine", "f lib/../../mine", "f /mine", "x mine"] {
        fs::write(
            prefix.join("lib/rewarm/manifest"),
            format!("f bin/rewarm\n{line}\n"),
        )
        .unwrap();
        let remove = ["--uninstall", "--prefix", text(&prefix)];
        let refused = output(&mut script(&copy, "install", &remove));
        assert_eq!(refused.status.code(), Some(1), "{line}: {refused:?}");
        assert!(
            mine.exists() && prefix.join("bin/rewarm").exists(),
            "{line}"
        );
    }
    let spaced = script(&copy, "install", &["--built", "--prefix", "/opt/re warm"]);
    let refused = output(&mut { spaced });
    assert!(stderr(&refused).contains("LD_PRELOAD"), "{refused:?}");
}

#[test]
fn a_command_without_libraries_names_the_command_that_brings_them() {
    let scratch = Scratch::new();
    let copy = copy_of_the_repository(&scratch);
    // As `cargo install` leaves it.
    let root = scratch.file("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    let rewarm = root.join("bin/rewarm");
    fs::copy(env!("CARGO_BIN_EXE_rewarm"), &rewarm).unwrap();
    let alone = output(Command::new(&rewarm).args(["run", "--", "true"]));
    assert_eq!(alone.status.code(), Some(1), "{alone:?}");
    let message = stderr(&alone);
    let advice = format!("scripts/install --libraries --prefix {}", root.display());
    assert!(message.contains(&advice), "{message}");
    let options = ["--built", "--libraries", "--prefix", text(&root)];
    succeeds(&mut script(&copy, "install", &options));
    works(&rewarm, &root.join("lib/rewarm/librewarm.so"));
    succeeds(&mut script(
        &copy,
        "install",
        &["--uninstall", "--prefix", text(&root)],
    ));
    assert_eq!(files_below(&root), ["bin/rewarm"]);
}

#[test]
fn the_crate_has_what_it_needs_and_no_more() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut list = Command::new(cargo);
    list.args([
        "package",
        "--list",
        "--allow-dirty",
        "--offline",
        "-p",
        "rewarm",
    ]);
    let files = succeeds(list.current_dir(repository()));
    let files: Vec<_> = files.lines().collect();
    for file in [
        "src/main.rs",
        "src/bin/cuda-checkpoint.rs",
        "README.md",
        "LICENSE",
    ] {
        assert!(files.contains(&file), "{file}: {files:?}");
    }
    for file in files {
        let is_known = file.starts_with("src/") || file == "benches/read_files.rs";
        assert!(is_known || !file.contains('/'), "{file}");
    }
}

#[test]
fn the_debian_package_installs_works_and_leaves_nothing() {
    if !can_run_as_root(&["dpkg-deb", "dpkg-shlibdeps", "strip"]) {
        return;
    }
    let scratch = Scratch::new();
    let copy = copy_of_the_repository(&scratch);
    let package = |to: &str, time: &str| {
        let to = scratch.file(to);
        let mut make = script(&copy, "package", &["--built", "--to", text(&to), "deb"]);
        succeeds(make.env("SOURCE_DATE_EPOCH", "1700000000").env("TZ", time));
        to.join(format!("rewarm_{}_amd64.deb", version()))
    };
    let deb = package("first", "UTC");
    let again = package("second", "Asia/Tokyo");
    assert!(
        fs::read(&deb).unwrap() == fs::read(again).unwrap(),
        "not the same bytes"
    );
    let field = |name| succeeds(Command::new("dpkg-deb").arg("-f").arg(&deb).arg(name));
    assert_eq!(field("Version").trim(), version());
    assert!(
        field("Depends").contains("libc6 (>= "),
        "{}",
        field("Depends")
    );

    let root = scratch.file("debian");
    fresh_debian(&root);
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command.args(["--root", text(&root), "--force-depends"]);
        command.arg("--force-script-chrootless");
        command.args(["--log", "/dev/null"]).args(arguments);
        succeeds(&mut command);
    };
    dpkg(&["--install", text(&deb)]);
    works(
        &root.join("usr/bin/rewarm"),
        &root.join("usr/lib/rewarm/librewarm.so"),
    );
    use_the_module(&root.join("usr/lib/rewarm/python"));
    // NVIDIA's package has one there.
    assert!(!root.join("usr/bin/cuda-checkpoint").exists());
    let tool = root.join("usr/lib/rewarm/bin/cuda-checkpoint");
    assert!(succeeds(Command::new(tool).arg("--help")).contains("--action"));
    dpkg(&["--purge", "rewarm"]);
    assert!(!root.join("usr").exists(), "{:?}", files_below(&root));
    lint(&deb);
}

/// No error and no warning.
#[track_caller]
fn lint(deb: &Path) {
    if !can_run_as_root(&["lintian"]) {
        return;
    }
    let mut lintian = Command::new("lintian");
    lintian
        .args(["--fail-on", "error,warning", "--allow-root"])
        .arg(deb);
    assert_eq!(succeeds(&mut lintian), "");
}
