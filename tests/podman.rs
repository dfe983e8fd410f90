//! Containers: unmodified podman and runc, on a host that `examples/podman/rewarm-podman`
//! has set up, with the software driver in the place of a GPU's.

mod common;

use common::cli::{stderr, text};
use common::pages::commands;
use common::podman::{IMAGE, Pipes, Podman};
use common::{libraries, until};
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

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

#[test]
fn another_user_in_the_container_is_frozen_into_a_folder_of_its_own() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    podman.rewarm(&["setup"]);
    let mut pipes = Pipes::new(&podman, "user-data");
    pipes.open_to_all();
    let store = podman.store().join("1000");
    fs::create_dir(&store).unwrap();
    chown(&store, Some(1000), Some(1000)).unwrap();
    let volume = format!("--volume={}:/snapshots", text(&store));
    let user = [
        "--user=1000:1000",
        "--tmpfs=/run/user/1000:rw,mode=1777,size=1m",
        "--env=REWARM_SNAPSHOT_DIR=/snapshots",
    ];
    let run = ["run", "--detach", "--name=user", &volume, &pipes.volume()];
    podman.rewarm(&[&run[..], &user, &[IMAGE]].concat());
    assert_eq!(pipes.answer(), "ready 1");
    assert_eq!(pipes.ask("touch 3 7"), "ok");
    let pid = podman.podman(&["inspect", "--format={{.State.Pid}}", "user"]);
    let snapshots = || fs::read_dir(&store).unwrap().count();
    for action in ["lock", "checkpoint", "restore", "unlock"] {
        let output = Command::new(libraries().join("cuda-checkpoint"))
            .args(["--action", action, "--pid", pid.trim()])
            .env("LD_LIBRARY_PATH", libraries().join("sim"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{action}: {output:?}");
        assert_eq!(snapshots(), 1, "{action}");
    }
    assert_eq!(pipes.ask("check"), "ok");
    let archive = podman.file("user.tar");
    let to = format!("--export={}", text(&archive));
    let checkpoint = [&CHECKPOINT[..], &[&to, "user"]].concat();
    let output = podman.output("podman", &checkpoint);
    assert_eq!(snapshots(), 2, "{}", podman.logs());
    if output.status.success() {
        podman.podman(&["rm", "user"]);
        import(&podman, &archive);
    } else {
        // CRIU may not look at other users' limits on a machine without CAP_SYS_RESOURCE.
        let said = podman.logs();
        assert!(said.contains("Can't get rlimit"), "{said}");
        eprintln!(
            "SKIPPED, of another user's container, but for freeze and thaw: CRIU lacks CAP_SYS_RESOURCE"
        );
    }
    assert_eq!(pipes.ask("check"), "ok", "{}", podman.logs());
}

/// The commands of the page, one block after the other, with the page's variables and
/// the folders that are the default.
#[test]
fn the_page_says_what_works() {
    let Some(podman) = Podman::or_skip() else {
        return;
    };
    let pipes = Pipes::new(&podman, "page-data");
    pipes.open_to_all();
    let checkpoints = podman.file("checkpoints");
    fs::create_dir(&checkpoints).unwrap();
    let script = format!(
        "IMAGE={IMAGE} DATA='{}' CHECKPOINTS='{}' STORE=/var/lib/rewarm\n{}\n\
         for made in /etc/rewarm /var/lib/rewarm /usr/local/bin/cuda-checkpoint; do [ ! -e $made ]; done\n",
        text(pipes.folder()),
        text(&checkpoints),
        commands("docs/podman.md").join("\n")
    );
    let (status, said) = podman.on_a_host_of_its_own(&script);
    let said = fs::read_to_string(said).unwrap();
    assert!(status.success(), "{said}\n{}", podman.logs());
    assert!(said.contains("undone: /etc/rewarm\n"), "{said}");
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
