//! Every command in docs/install.md and docs/kubernetes.md. Those that need a cluster,
//! a registry or the machine's own packages are given to stand-ins, which insist on
//! what can be known here: files that are there, options that the commands take.

mod common;

use common::packages::{
    can_run_as_root, copy_of_the_repository, fresh_debian, quickly, stand_in, succeeds,
};
use common::pages::commands;
use common::{Scratch, libraries};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the commands of a page in a copy of the repository, as a user with a home
/// folder of its own.
#[track_caller]
fn run(page: &str, copy: &Path, home: &Path, stand_ins: &Path) {
    let commands = commands(page)
        .concat()
        // Everything is built, and another build would take minutes.
        .replace("scripts/install\n", "scripts/install --built\n")
        .replace(
            "scripts/install --libraries",
            "scripts/install --built --libraries",
        )
        .replace("scripts/package ", "scripts/package --built ");
    let path = std::env::var("PATH").unwrap();
    let homes = format!("{0}/.local/bin:{0}/.cargo/bin", home.display());
    succeeds(
        quickly(&mut Command::new("sh"))
            .args(["-eux", "-c", &commands])
            .current_dir(copy)
            .env("PATH", format!("{}:{homes}:{path}", stand_ins.display()))
            .env("LD_LIBRARY_PATH", libraries().join("sim"))
            .env("HOME", home)
            .env_remove("CARGO_HOME")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("LD_PRELOAD"),
    );
}

fn places(scratch: &Scratch) -> (PathBuf, PathBuf, PathBuf) {
    let home = scratch.file("home");
    fs::create_dir_all(&home).unwrap();
    (
        copy_of_the_repository(scratch),
        home,
        scratch.file("stand-ins"),
    )
}

#[test]
fn the_commands_of_the_page_on_installing_work() {
    if !can_run_as_root(&["dpkg-deb", "dpkg-shlibdeps", "strip"]) {
        return;
    }
    let scratch = Scratch::new();
    let (copy, home, stand_ins) = places(&scratch);
    let debian = scratch.file("debian");
    fresh_debian(&debian);
    // Not root, so that all goes to the home folder.
    stand_in(&stand_ins, "id", r#"[ "$1" = -u ] && echo 1000"#);
    stand_in(&stand_ins, "sudo", r#"exec "$@""#);
    let dpkg = format!(
        "[ \"$1\" = install ]\n\
         dpkg --root {} --force-depends --log /dev/null --install \"$2\"",
        debian.display()
    );
    stand_in(&stand_ins, "apt-get", &dpkg);
    // What was built, where `cargo install` puts it.
    let cargo = format!(
        "[ \"$*\" = 'install --path . --locked' ]\n\
         mkdir -p $HOME/.cargo/bin\n\
         cp {0}/rewarm {0}/cuda-checkpoint $HOME/.cargo/bin",
        libraries().canonicalize().unwrap().display()
    );
    stand_in(&stand_ins, "cargo", &cargo);
    run("docs/install.md", &copy, &home, &stand_ins);
    assert!(debian.join("usr/bin/rewarm").is_file());
    assert!(home.join(".cargo/lib/rewarm/librewarm.so").is_file());
    assert!(!home.join(".local/bin/rewarm").exists());
}

/// Insists that files are there and that rewarm takes the options that it is given in
/// a pod.
const KUBECTL: &str = r#"
all="$*"
while [ $# -gt 0 ]; do
    case $1 in
    -f | -k) [ -e "$2" ] || { echo "kubectl: no $2" >&2; exit 1; }; exit ;;
    --) shift; break ;;
    esac
    shift
done
case ${1:-} in
*/bin/rewarm)
    [ "$1" = "/opt/rewarm/$VERSION/bin/rewarm" ]
    shift
    exec "$REWARM" "$@" --help ;;
mkdir) ;;
'') case $all in *"rollout status daemonset/rewarm" | *"wait "*pod/serve) ;; *) exit 1 ;; esac ;;
*) exit 1 ;;
esac"#;

#[test]
fn the_commands_of_the_page_on_kubernetes_fit_together() {
    if !can_run_as_root(&["strip"]) {
        return;
    }
    let scratch = Scratch::new();
    let (copy, home, stand_ins) = places(&scratch);
    let kubectl = format!(
        "VERSION={} REWARM={}\n{KUBECTL}",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_BIN_EXE_rewarm")
    );
    stand_in(&stand_ins, "kubectl", &kubectl);
    // What it builds is tested in image.rs.
    let podman = r#"
[ "$1 $2" = "build -f" ] && [ -f "$3" ]
case "$*" in *TREE=prebuilt*) [ -f target/package/root/usr/bin/rewarm ] ;; esac
case "$*" in *" -t registry.example.com/rewarm:"*" .") ;; *) exit 1 ;; esac"#;
    stand_in(&stand_ins, "podman", podman);
    run("docs/kubernetes.md", &copy, &home, &stand_ins);
}
