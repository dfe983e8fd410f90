//! `rewarm checkpoint` with a real CRIU: whole or not at all.

mod common;

use common::live::{Live, Sleeper};
use common::whole::drive;
use common::{Link, Run, Scratch, app, cli, criu, until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

fn program() -> Run {
    let program = app("freeze", Link::Dlopen);
    Run::rewarmed(program)
        .lanes(4)
        .arg("memory=small,plain,odd,zero,own,pool")
}

/// Where the checkpoint of a program goes.
fn folder(live: &Live) -> PathBuf {
    live.scratch().join("checkpoint")
}

/// `rewarm checkpoint` of a program.
fn checkpoint(live: &Live, options: &[&str]) -> Command {
    let (pid, folder) = (live.pid().to_string(), folder(live));
    let given = ["checkpoint", "--pid", &pid, "--to", cli::text(&folder)];
    let mut command = live.rewarm(&[&given, options].concat());
    command.env("REWARM_CRIU", criu::can_checkpoint().unwrap());
    // Where CRIU's log is left after a failure.
    command.env("TMPDIR", live.scratch());
    command
}

/// What a checkpoint that succeeds prints as JSON.
#[track_caller]
fn made(live: &Live, options: &[&str]) -> Value {
    let output = checkpoint(live, &[&["--json"], options].concat())
        .output()
        .unwrap();
    if !output.status.success() {
        live.fail(&cli::stderr(&output));
    }
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The manifest behind its first line.
#[track_caller]
fn manifest(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("checkpoint.json")).unwrap();
    let (line, body) = text.split_once('\n').unwrap();
    assert!(line.starts_with("{\"rewarm_checkpoint\":1,"), "{line}");
    serde_json::from_str(body).unwrap()
}

/// Insists that nothing is left of a checkpoint and that the program is as before.
#[track_caller]
fn unharmed(live: &mut Live) {
    let mut left = names_in(live.scratch());
    left.retain(|name| name.starts_with("checkpoint"));
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(live.state(), "active");
    live.must("check");
    live.must("touch 3 17");
    live.must("check");
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

/// A program that stands for CRIU: a script that knows where the real one is.
fn stand_in(scratch: &Scratch, dump: &str) -> PathBuf {
    let real = criu::can_checkpoint().unwrap().display();
    let path = scratch.file("criu");
    let script = format!(
        "#!/bin/sh\nreal={real}\ncase $1 in\ndump) {dump} ;;\n*) exec $real \"$@\" ;;\nesac\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Restores by hand what a checkpoint has.
#[track_caller]
fn restore(live: &mut Live) {
    let folder = folder(live);
    let manifest = manifest(&folder);
    let options = manifest["restore_options"].as_array().unwrap();
    let options: Vec<_> = options
        .iter()
        .map(|option| option.as_str().unwrap())
        .collect();
    if let Err(error) = criu::restore(&folder.join("images"), &options) {
        live.fail(&error);
    }
    live.is_back();
    drive("restore,unlock", live.pid());
    let gpu = folder.join("gpu").join(live.pid().to_string());
    if gpu.exists() {
        live.thaw(&["--from", cli::text(&gpu), "--keep-snapshot"]);
    }
}

#[test]
fn a_checkpoint_is_whole_and_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program());
    live.must("check");
    let told = made(&live, &[]);
    live.is_gone();
    assert_eq!(told["running"], false);
    assert!(told["images_bytes"].as_u64().unwrap() > 0);
    let folder = folder(&live);
    let manifest = manifest(&folder);
    assert_eq!(manifest["root"], live.pid());
    let process = &manifest["processes"][0];
    assert_eq!(process["gpu"]["snapshot"], format!("gpu/{}", live.pid()));
    assert!(process["gpu"]["bytes"].as_u64().unwrap() > 0);
    let threads = process["threads"].as_array().unwrap().len();
    assert!(threads > 1, "{process}");
    assert_eq!(manifest["machine"]["gpus"][0]["ordinal"], 0);
    assert!(manifest["machine"]["driver_version"].as_u64().unwrap() > 12_000);
    let is_core = |file: &Value| {
        file["path"]
            .as_str()
            .unwrap()
            .ends_with("librewarm_core.so")
    };
    let files = manifest["files"].as_array().unwrap();
    let core = files.iter().find(|file| is_core(file)).unwrap();
    assert_eq!(core["build_id"].as_str().unwrap().len(), 40);
    let images = manifest["images"].as_array().unwrap();
    for image in images {
        let name = image["name"].as_str().unwrap();
        let found = fs::metadata(folder.join("images").join(name)).unwrap();
        assert_eq!(image["bytes"], found.len(), "{name}");
        assert_eq!(image["digest"].is_null(), name.starts_with("pages-"));
    }
    let count = fs::read_dir(folder.join("images")).unwrap().count();
    assert_eq!(images.len(), count);
    for private in [folder.clone(), folder.join("images"), folder.join("gpu")] {
        let mode = fs::metadata(&private).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", private.display());
    }
    assert!(!folder.with_extension("partial").exists());
    restore(&mut live);
    live.must("check");
    live.quit();
}

#[test]
fn processes_go_on_after_their_checkpoint_and_give_another() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program());
    let told = made(&live, &["--leave-running"]);
    assert_eq!(told["running"], true);
    live.must("check");
    let first = manifest(&folder(&live))["id"].clone();
    // The first is in the way, and then is replaced.
    live.refused(checkpoint(&live, &[]), &["there already", "--replace"]);
    live.must("touch 5 23");
    made(&live, &["--replace"]);
    live.is_gone();
    assert_ne!(manifest(&folder(&live))["id"], first);
    assert!(!folder(&live).with_extension("partial").exists());
    restore(&mut live);
    live.must("check");
    live.quit();
}

#[test]
fn processes_that_cannot_be_frozen_are_left_to_the_driver() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    for rewarmed in [false, true] {
        let program = Run::either(app("freeze", Link::Dlopen), rewarmed)
            .arg("memory=small,plain,odd")
            .env("SIMCUDA_MACHINE", "{scratch}/machine");
        let mut live = Live::start_as_it_is(program);
        let told = made(&live, &[]);
        assert_eq!(told["processes"][0]["uses_cuda"], true);
        assert!(told["processes"][0]["freeze"].is_null());
        live.is_gone();
        let gpu = &manifest(&folder(&live))["processes"][0]["gpu"];
        assert!(gpu["snapshot"].is_null() && gpu.is_object(), "{gpu}");
        restore(&mut live);
        live.must("check");
        live.quit();
    }
}

#[test]
fn a_tree_is_checkpointed_as_one() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program().arg("children=2"));
    let words = ["2 descendants", "--tree"];
    live.refused(checkpoint(&live, &[]), &words);
    let told = made(&live, &["--tree"]);
    let processes = told["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 3);
    assert!(
        processes
            .iter()
            .all(|one| one["freeze"]["bytes"].as_u64() > Some(0))
    );
    live.is_gone();
    let manifest = manifest(&folder(&live));
    assert_eq!(manifest["processes"].as_array().unwrap().len(), 3);
    for process in manifest["processes"].as_array().unwrap() {
        let snapshot = process["gpu"]["snapshot"].as_str().unwrap();
        assert!(folder(&live).join(snapshot).join("manifest.json").exists());
    }
}

#[test]
fn a_process_without_a_gpu_needs_no_driver() {
    let Some(criu) = criu::criu_or_skip() else {
        return;
    };
    let scratch = Scratch::new();
    let mut sleeper = Sleeper::start();
    let (pid, folder) = (sleeper.pid(), scratch.file("c"));
    // The name may be given as shells complete it, and from where one is.
    let output = cli::rewarm(&["checkpoint", "--pid", &pid, "--to", "./c/"])
        .current_dir(scratch.path())
        .env_remove("LD_LIBRARY_PATH")
        .env("REWARM_CRIU", criu)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("it has ended") && told.contains("in all"),
        "{told}"
    );
    assert!(
        !told.contains("driver") && !told.contains("freeze"),
        "{told}"
    );
    assert_eq!(sleeper.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(manifest(&folder)["processes"][0]["gpu"].is_null());
}

#[test]
fn everything_that_would_fail_is_said_at_once() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program().arg("children=1"));
    fs::create_dir(folder(&live)).unwrap();
    let command = checkpoint(&live, &["--criu", "/no/such/criu"]);
    let words = [
        "1 descendants",
        "--tree",
        "is there already",
        "/no/such/criu: cannot be started",
    ];
    live.refused(command, &words);
    fs::remove_dir(folder(&live)).unwrap();
    // Frozen by somebody else.
    live.freeze(&["--tree"]);
    live.refused(
        checkpoint(&live, &["--tree"]),
        &["frozen already", "rewarm thaw"],
    );
    live.thaw(&["--tree"]);
    let mut nowhere = live.rewarm(&["checkpoint", "--to", "/no/such/folder", "--pid"]);
    nowhere.arg(live.pid().to_string());
    live.refused(nowhere, &["/no/such is not there"]);
    unharmed(&mut live);
}

#[test]
fn a_session_from_outside_of_the_container_is_told() {
    let Some(criu) = criu::criu_or_skip() else {
        return;
    };
    let scratch = Scratch::new();
    let script = "sleep 1000 <&- >&- 2>&- & \"$0\" checkpoint --pid $! --to \"$1\"";
    let inside = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    let output = Command::new("unshare")
        .args(inside)
        .args(["sh", "-c", script, env!("CARGO_BIN_EXE_rewarm")])
        .arg(scratch.file("c"))
        .env("REWARM_CRIU", criu)
        .output()
        .expect("util-linux is installed");
    let told = cli::stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("session that began outside") && told.contains("setsid"),
        "{told}"
    );
    assert!(!scratch.file("c").exists());
}

#[test]
fn a_criu_that_fails_harms_nobody() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut live = Live::start(program());
    let failures = [
        ("exit 1", "criu dump failed"),
        ("exit 0", "without having its hook started"),
        ("sleep 100", "took longer than 1 s"),
        ("kill -9 $$", "criu dump failed"),
        (
            "CRTOOLS_SCRIPT_ACTION=pre-dump rewarm; exit 3",
            "criu dump failed",
        ),
        ("$real \"$@\" --tree 1", "criu dump failed"),
    ];
    for (dump, words) in failures {
        let criu = stand_in(&scratch, dump);
        let command = checkpoint(&live, &["--criu", cli::text(&criu), "--limit", "1"]);
        live.refused(command, &[words, "run on as before"]);
        unharmed(&mut live);
    }
    // And then it works.
    made(&live, &[]);
    live.is_gone();
}

/// CRIU cannot write all of the pages: it is told so, or killed while it holds the
/// processes.
#[test]
fn a_disk_that_is_too_small_harms_nobody() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut live = Live::start(program());
    for ignored in ["trap '' XFSZ;", ""] {
        let dump = format!("ulimit -f 64; {ignored} exec $real \"$@\"");
        let criu = stand_in(&scratch, &dump);
        let command = checkpoint(&live, &["--criu", cli::text(&criu)]);
        live.refused(command, &["criu dump failed", "run on as before"]);
        unharmed(&mut live);
    }
}

#[test]
fn a_freeze_that_is_refused_harms_nobody() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = Live::start(program().arg("children=1"));
    live.must("capture");
    let command = checkpoint(&live, &["--tree", "--drain", "0.2"]);
    live.refused(command, &["cannot freeze", "run on as before"]);
    live.must("release");
    unharmed(&mut live);
    live.must("child 0 check");
}

#[test]
fn an_interrupted_checkpoint_is_undone() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut live = Live::start(program());
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let begun = scratch.file("begun");
        // It is not killed while it holds the processes, but told no by its hook.
        let dump = format!("touch {}; sleep 0.2; exec $real \"$@\"", begun.display());
        let criu = stand_in(&scratch, &dump);
        let child = start(checkpoint(&live, &["--criu", cli::text(&criu)]));
        until("criu was started", || begun.exists());
        send(&child, signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(cli::stderr(&output).contains("run on as before"));
        fs::remove_file(begun).unwrap();
        unharmed(&mut live);
    }
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn send(child: &Child, signal: i32) {
    // SAFETY: our own child, which is not reaped yet.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Kills a command, and waits until its guardian has ended, too: it has the same
/// standard error.
fn killed(child: Child) -> Output {
    send(&child, libc::SIGKILL);
    child.wait_with_output().unwrap()
}

#[test]
fn a_command_that_is_killed_is_undone_by_its_guardian() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut live = Live::start(program());
    let begun = scratch.file("begun");
    let touch = format!("touch {}", begun.display());
    for dump in [
        // Before CRIU does anything, and while it waits for its hook's answer.
        format!("{touch}; sleep 0.2; exit 1"),
        format!("{touch}; exec $real \"$@\""),
    ] {
        let criu = stand_in(&scratch, &dump);
        let child = start(checkpoint(&live, &["--criu", cli::text(&criu)]));
        until("criu was started", || begun.exists());
        let output = killed(child);
        assert!(
            cli::stderr(&output).contains("run on as before"),
            "{output:?}"
        );
        fs::remove_file(&begun).unwrap();
        unharmed(&mut live);
    }
}

#[test]
fn a_command_that_is_killed_at_any_time_leaves_all_or_nothing() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let mut live = Live::start(program());
        let wait = Duration::from_millis(random.u64(0..900));
        let child = start(checkpoint(&live, &[]));
        std::thread::sleep(wait);
        let output = killed(child);
        if folder(&live).exists() {
            // It is only seen whole.
            live.is_gone();
            restore(&mut live);
            live.must("check");
            fs::remove_dir_all(folder(&live)).unwrap();
        }
        println!("after {wait:?}: {}", cli::stderr(&output));
        let is_left = |name: &str| name.starts_with("rewarm-checkpoint");
        let mut names = names_in(live.scratch()).into_iter();
        assert_eq!(names.find(|name| is_left(name)), None);
        unharmed(&mut live);
        live.quit();
    }
}

#[test]
fn wrong_options_are_told_before_anything_is_done() {
    for wrong in [
        &["checkpoint"][..],
        &["checkpoint", "--pid", "1"],
        &["checkpoint", "--pid", "1", "--to", ""],
        &["checkpoint", "--pid", "x", "--to", "/nonexistent/c"],
        &[
            "checkpoint",
            "--pid",
            "1",
            "--to",
            "/nonexistent/c",
            "--drain=-1",
        ],
        &[
            "checkpoint",
            "--pid",
            "1",
            "--to",
            "/nonexistent/c",
            "--limit",
            "nan",
        ],
    ] {
        cli::refused(&mut cli::rewarm(wrong), 2, &[]);
    }
    let gone = &["checkpoint", "--pid", "4000000", "--to", "/nonexistent/c"];
    cli::refused(&mut cli::rewarm(gone), 1, &["there is no process"]);
}
