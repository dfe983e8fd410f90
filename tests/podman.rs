//! Containers: unmodified podman and runc, on a host that `examples/podman/rewarm-podman`
//! has set up, with the software driver in the place of a GPU's.

mod common;

use common::cli::{stderr, text};
use common::pages::commands;
use common::podman::{IMAGE, Pipes, Podman, path_of, script};
use common::{Scratch, libraries, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// What a checkpoint of the users looks like.
const CHECKPOINT: [&str; 6] = [
    "container",
    "checkpoint",
    "--ignore-rootfs",
    "--compress=none",
    "--print-stats",
    "--keep",
];

/// A container in which a program under rewarm has filled device memory.
fn started(podman: &Podman, name: &str) -> Pipes {
    let mut pipes = Pipes::new(podman, &format!("{name}-data"));
    podman.rewarm(&["run", "--detach", "--name", name, &pipes.volume(), IMAGE]);
    assert_eq!(pipes.answer(), "ready 1");
    assert_eq!(pipes.ask("touch 3 7"), "ok");
    pipes
}

fn export(podman: &Podman, name: &str, archive: &Path) -> String {
    let to = format!("--export={}", text(archive));
    podman.podman(&[&CHECKPOINT[..], &[&to, name]].concat())
}

fn import(podman: &Podman, archive: &Path) {
    let from = format!("--import={}", text(archive));
    podman.podman(&["container", "restore", "--keep", "--print-stats", &from]);
}

#[test]
fn a_container_comes_back_from_its_archive_as_often_as_wanted() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = started(&podman, "one");
    let archive = podman.file("one.tar");
    let stats = export(&podman, "one", &archive);
    assert!(stats.contains("\"pages_written\""), "{stats}");
    assert_eq!(podman.snapshots().len(), 1, "device memory was frozen");
    for round in 0..2 {
        podman.podman(&["rm", "--force", "--time=0", "one"]);
        import(&podman, &archive);
        assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
        // Its memory changes, the archive's does not.
        assert_eq!(pipes.ask(&format!("touch 5 {}", round + 20)), "ok");
        assert_eq!(pipes.ask("check"), "ok");
    }
    podman.podman(&["rm", "--force", "--time=0", "one"]);
    // Two at once, of one snapshot.
    let from = format!("--import={}", text(&archive));
    for name in ["left", "right"] {
        podman.podman(&["container", "restore", &from, "--name", name]);
    }
    for name in ["left", "right"] {
        let pid = podman.podman(&["inspect", "--format={{.State.Pid}}", name]);
        until("it is thawed", || {
            let status = ["status", "--pid", pid.trim()];
            let output = podman.output(env!("CARGO_BIN_EXE_rewarm"), &status);
            String::from_utf8_lossy(&output.stdout).contains(": active")
        });
    }
    podman.podman(&["pause", "right"]);
    assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
    assert_eq!(pipes.ask("touch 5 40"), "ok");
    podman.podman(&["rm", "--force", "--time=0", "left"]);
    podman.podman(&["unpause", "right"]);
    assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
    assert_eq!(podman.snapshots().len(), 1, "it stays with the archive");
}

#[test]
fn a_container_that_is_kept_goes_on_without_an_archive() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = started(&podman, "kept");
    for seed in [30, 31] {
        podman.podman(&["container", "checkpoint", "--keep", "kept"]);
        podman.podman(&["container", "restore", "--keep", "kept"]);
        assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
        assert_eq!(pipes.ask(&format!("touch 2 {seed}")), "ok");
    }
    // Without the library in it, its device memory is in CRIU's images.
    let mut plain = Pipes::new(&podman, "plain-data");
    let config = format!(
        "--annotation=org.criu.config={}",
        text(&podman.prefix().join("criu.conf"))
    );
    let run = ["run", "--detach", "--runtime=runc", "--name=plain"];
    podman.podman(&[&run[..], &[&config, &plain.volume(), IMAGE]].concat());
    assert_eq!(plain.answer(), "ready 1");
    let before = podman.snapshots().len();
    let archive = podman.file("plain.tar");
    export(&podman, "plain", &archive);
    assert_eq!(podman.snapshots().len(), before, "nothing is frozen");
    podman.podman(&["rm", "plain"]);
    import(&podman, &archive);
    assert_eq!(plain.ask("check"), "ok", "{}", podman.logs());
}

#[test]
fn a_container_that_is_left_running_goes_on_with_its_device_memory() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = started(&podman, "goes-on");
    let archives = ["first.tar", "second.tar"].map(|name| podman.file(name));
    for (archive, seed) in archives.iter().zip([50, 51]) {
        let to = format!("--export={}", text(archive));
        podman.podman(&[&CHECKPOINT[..], &["--leave-running", &to, "goes-on"]].concat());
        assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
        // Neither archive has this.
        assert_eq!(pipes.ask(&format!("touch 5 {seed}")), "ok");
        assert_eq!(pipes.ask("check"), "ok");
    }
    assert_eq!(podman.snapshots().len(), 2, "one for each archive");
    for archive in &archives {
        podman.podman(&["rm", "--force", "--time=0", "goes-on"]);
        import(&podman, archive);
        assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
    }
}

#[test]
fn tcp_connections_within_a_container_come_back_with_what_is_under_way() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    let Some(network) = podman.network_or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = Pipes::new(&podman, "connected-data");
    let shell = ["sh", "-c", "exec connected <>/data/in 1<>/data/out"];
    let run = [
        "run",
        "--detach",
        "--name=tcp",
        &network,
        &pipes.volume(),
        IMAGE,
    ];
    podman.rewarm(&[&run[..], &shell].concat());
    assert_eq!(pipes.answer(), "ready 1");
    assert_eq!(pipes.ask("one"), "nothing");
    let archive = podman.file("tcp.tar");
    export(&podman, "tcp", &archive);
    for _ in 0..2 {
        podman.podman(&["rm", "--force", "--time=0", "tcp"]);
        import(&podman, &archive);
        assert_eq!(pipes.ask("two"), "one", "{}", podman.logs());
        assert_eq!(pipes.ask("three"), "two");
    }
}

/// The commands of the page, one block after the other, with the page's variables.
#[test]
fn the_page_says_what_works() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    let pipes = Pipes::new(&podman, "page-data");
    fs::create_dir(podman.file("checkpoints")).unwrap();
    for block in commands("docs/podman.md") {
        let output = podman
            .command("sh")
            .args(["-euc", &block])
            .env("IMAGE", IMAGE)
            .env("DATA", pipes.folder())
            .env("CHECKPOINTS", podman.file("checkpoints"))
            .env("STORE", podman.store())
            .stdout(fs::File::create(podman.file("said")).unwrap())
            .stderr(fs::File::create(podman.file("complained")).unwrap())
            .status()
            .unwrap();
        let said = ["said", "complained"]
            .map(|file| fs::read_to_string(podman.file(file)).unwrap())
            .concat();
        assert!(output.success(), "{block}\n{said}\n{}", podman.logs());
    }
    assert!(!podman.prefix().exists(), "the page ends with undo");
}

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
fn a_snapshot_that_is_gone_is_named_and_nothing_goes_on_without_it() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = started(&podman, "lost");
    podman.podman(&["container", "checkpoint", "--keep", "lost"]);
    let [snapshot] = &podman.snapshots()[..] else {
        panic!("there is not one snapshot");
    };
    let aside = podman.file("aside");
    fs::rename(snapshot, &aside).unwrap();
    podman.podman(&["container", "restore", "--keep", "lost"]);
    let pid = podman.podman(&["inspect", "--format={{.State.Pid}}", "lost"]);
    let thaw = || {
        let arguments = ["thaw", "--pid", pid.trim()];
        podman.output(env!("CARGO_BIN_EXE_rewarm"), &arguments)
    };
    let output = thaw();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains(text(snapshot)), "{output:?}");
    // It waits, and then gives the answer that it would have given.
    pipes.send("check");
    fs::rename(&aside, snapshot).unwrap();
    let output = thaw();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(pipes.answer(), "ok");
}
