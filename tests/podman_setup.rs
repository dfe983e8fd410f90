//! `examples/podman/rewarm-podman`, which prepares a host: what it says if something is
//! missing, what it makes, and that it takes exactly that back.

mod common;

use common::cli::{stderr, text};
use common::packages::{self, copy_of_the_repository};
use common::podman::{path_of, script};
use common::{Scratch, libraries};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// `rewarm-podman` on a `PATH` with these programs and a few of the system's.
fn scripted(scratch: &Scratch, programs: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = scratch.file("path");
    let _ = fs::remove_dir_all(&folder);
    path_of(&folder, programs);
    Command::new(script())
        .args(arguments)
        .args(["--prefix", text(&scratch.file("rewarm"))])
        .env("PATH", &folder)
        .env_remove("REWARM_FOLDER")
        .output()
        .expect("it is executable")
}

const PODMAN: (&str, &str) = ("podman", "echo podman version 4.3.1");
const RUNC: (&str, &str) = ("runc", "echo runc version 1.1.5");
const CRIU: (&str, &str) = ("criu", "echo Version: 4.2");

#[test]
fn what_is_missing_is_named_with_what_to_install_and_nothing_is_changed() {
    let old = ("criu", "echo Version: 3.17.1");
    let crun = ("crun", "echo 'crun version 1.8 +SYSTEMD +YAJL'");
    let broken = ("criu", "exit 127");
    let folder = libraries();
    let rewarm = ["--rewarm", text(&folder)];
    let none = ["--cuda-plugin", "none"];
    let with_crun = [&rewarm[..], &none, &["--runtime", "crun"]].concat();
    let with_none = [&rewarm[..], &none].concat();
    let elsewhere = [&["--rewarm", "/nowhere"], &none[..]].concat();
    let no_plugin = [&rewarm[..], &["--cuda-plugin", "/nowhere/cuda_plugin.so"]].concat();
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        (
            &[RUNC, CRIU],
            &with_none,
            &["podman is missing", "install podman"],
        ),
        (
            &[PODMAN, CRIU],
            &with_none,
            &["runc is missing", "install runc"],
        ),
        (
            &[PODMAN, RUNC],
            &with_none,
            &["criu is missing", "install criu", "4.0"],
        ),
        (
            &[PODMAN, RUNC, old],
            &with_none,
            &["3.17.1", "4.0 or newer", "Debian 13"],
        ),
        (
            &[PODMAN, RUNC, broken],
            &with_none,
            &["no CRIU that starts", "install criu"],
        ),
        (
            &[PODMAN, crun, CRIU],
            &with_crun,
            &["built without CRIU", "install runc"],
        ),
        (
            &[PODMAN, RUNC, CRIU],
            &elsewhere,
            &["no librewarm.so in /nowhere", "--rewarm"],
        ),
        (
            &[PODMAN, RUNC, CRIU],
            &no_plugin,
            &["/nowhere/cuda_plugin.so", "--cuda-plugin none"],
        ),
    ];
    for (programs, options, words) in cases {
        for command in ["setup", "check"] {
            let scratch = Scratch::new();
            let output = scripted(&scratch, programs, &[&[command], options].concat());
            let said = stderr(&output);
            assert_eq!(
                output.status.code(),
                Some(1),
                "{command} {options:?}: {said}"
            );
            for word in words {
                assert!(said.contains(word), "{word:?} is not in: {said}");
            }
            assert!(!scratch.file("rewarm").exists(), "{said}");
        }
    }
}

#[test]
fn a_set_up_is_taken_back_wherever_it_was_interrupted() {
    let folder = libraries();
    let options = ["--rewarm", text(&folder), "--cuda-plugin", "none"];
    let setup = [&["setup"], &options[..]].concat();
    let scratch = Scratch::new();
    let prefix = scratch.file("rewarm");
    let undone = |scratch: &Scratch| {
        let output = scripted(scratch, &[], &["undo"]);
        assert!(output.status.success(), "{output:?}");
        assert!(!prefix.exists(), "{output:?}");
    };
    let mut interrupted = 0;
    for tool in ["mkdir", "ln", "chmod", "mv", "find"] {
        for nth in 1..=4 {
            // Kills the script at that call of the tool.
            let count = scratch.file("count");
            fs::write(&count, "").unwrap();
            let real = ["/usr/bin", "/bin"].map(|folder| format!("{folder}/{tool}"));
            let real = real.iter().find(|path| Path::new(path).exists()).unwrap();
            let kills = format!(
                "printf . >>'{0}'\n[ \"$(cat '{0}')\" != '{1}' ] || kill -9 $PPID\nexec {real} \"$@\"",
                text(&count),
                ".".repeat(nth)
            );
            let programs = [PODMAN, RUNC, CRIU, (tool, &kills)];
            let output = scripted(&scratch, &programs, &setup);
            interrupted += usize::from(!output.status.success());
            if nth % 2 == 0 {
                // Again, as if nothing had happened.
                let output = scripted(&scratch, &[PODMAN, RUNC, CRIU], &setup);
                assert!(output.status.success(), "{output:?}");
            }
            undone(&scratch);
        }
    }
    assert!(interrupted > 8, "{interrupted}");
    undone(&scratch);
}

#[test]
fn a_set_up_has_the_modes_that_it_says_and_touches_nobody_elses_files() {
    let folder = libraries();
    let options = ["--rewarm", text(&folder), "--cuda-plugin", "none"];
    let scratch = Scratch::new();
    let (prefix, bin) = (scratch.file("rewarm"), scratch.file("bin"));
    let tools = [PODMAN, RUNC, CRIU];
    let with_bin = [&["setup"], &options[..], &["--bin", text(&bin)]].concat();
    // Somebody's own tool of that name.
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("cuda-checkpoint"), "NVIDIA's").unwrap();
    let output = scripted(&scratch, &tools, &with_bin);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("move it away"), "{output:?}");
    assert!(scripted(&scratch, &[], &["undo"]).status.success());
    assert_eq!(
        fs::read_to_string(bin.join("cuda-checkpoint")).unwrap(),
        "NVIDIA's"
    );
    fs::remove_file(bin.join("cuda-checkpoint")).unwrap();

    let output = scripted(&scratch, &tools, &with_bin);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for word in [
        "org.criu.config=",
        "LD_PRELOAD=",
        "REWARM_SNAPSHOT_DIR=",
        "--runtime runc",
    ] {
        assert!(printed.contains(word), "{printed}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&prefix), 0o755);
    assert_eq!(mode(&prefix.join("criu.conf")), 0o644);
    assert_eq!(mode(&prefix.join("store")), 0o700);
    // A snapshot that some archive may need.
    fs::write(prefix.join("store/snapshot"), "").unwrap();
    let output = scripted(&scratch, &[], &["undo"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("store is not empty"), "{output:?}");
    fs::remove_file(prefix.join("store/snapshot")).unwrap();
    assert!(scripted(&scratch, &[], &["undo"]).status.success());
    assert!(!prefix.exists() && fs::read_dir(&bin).unwrap().next().is_none());
    // A folder in which others can write.
    fs::create_dir(&prefix).unwrap();
    fs::set_permissions(&prefix, fs::Permissions::from_mode(0o777)).unwrap();
    let output = scripted(&scratch, &tools, &[&["setup"], &options[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("nobody else can write"),
        "{output:?}"
    );
}

#[test]
fn an_installation_has_its_parts_in_other_folders() {
    let scratch = Scratch::new();
    let copy = copy_of_the_repository(&scratch);
    let usr = scratch.file("usr");
    let options = ["--built", "--prefix", text(&usr)];
    packages::succeeds(&mut packages::script(&copy, "install", &options));
    let folder = usr.join("lib/rewarm");
    let set_up = ["setup", "--rewarm", text(&folder), "--cuda-plugin", "none"];
    let output = scripted(&scratch, &[PODMAN, RUNC, CRIU], &set_up);
    assert!(output.status.success(), "{output:?}");
    for (link, installed) in [
        ("plugins/rewarm_pages.so", "lib/rewarm/criu/rewarm_pages.so"),
        ("plugins/rewarm", "bin/rewarm"),
        ("bin/cuda-checkpoint", "lib/rewarm/bin/cuda-checkpoint"),
    ] {
        let link = scratch.file("rewarm").join(link);
        let found = link.canonicalize().unwrap();
        assert_eq!(found, usr.join(installed).canonicalize().unwrap());
    }
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains(text(&folder.join("librewarm.so"))),
        "{printed}"
    );
    let undone = scripted(&scratch, &[], &["undo"]);
    assert!(undone.status.success(), "{undone:?}");
}
