//! What `cuda-checkpoint` says of processes without CUDA, of drivers that are not there,
//! and of command lines without sense.

mod common;

use common::live::Sleeper;
use common::plugin::{becomes_active, cuda_checkpoint, freezable, plain, printed, refusing};
use common::{Scratch, cli, driver, libraries};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// CUDA's error codes, as much of them as fits into an exit code.
const NO_SYMBOL: i32 = 302 % 256;
const NO_LIBRARY: i32 = 303 % 256;

/// Every operation on a process.
fn operations(pid: &str) -> Vec<Vec<&str>> {
    let mut all = vec![
        vec!["--get-state"],
        vec!["--get-restore-tid"],
        vec!["--toggle"],
    ];
    all.extend(["lock", "checkpoint", "restore", "unlock"].map(|action| vec!["--action", action]));
    for operation in &mut all {
        operation.extend(["--pid", pid]);
    }
    all
}

/// Each operation fails with this code, and says a line that has the words in it.
#[track_caller]
fn all_fail(pid: &str, code: i32, words: &str, change: impl Fn(&mut Command)) {
    for operation in operations(pid) {
        let mut command = cuda_checkpoint(&operation);
        change(&mut command);
        let (found, text) = printed(&mut command);
        assert_eq!(found, code, "{operation:?}: {text}");
        let is_line = text.ends_with('\n') && text.lines().count() == 1;
        assert!(is_line && text.contains(words), "{operation:?}: {text}");
    }
}

#[test]
fn a_process_without_cuda_is_told_from_a_driver_that_is_not_there() {
    let (sleeper, scratch, live) = (Sleeper::start(), Scratch::new(), plain());
    let (sleeper, cuda) = (sleeper.pid(), live.pid().to_string());
    all_fail(&sleeper, 1, "does not use CUDA", |_| {});
    for pid in [&sleeper, &cuda] {
        all_fail(pid, NO_LIBRARY, "Error initializing CUDA", |command| {
            command.env("LD_LIBRARY_PATH", scratch.path());
        });
        all_fail(pid, NO_SYMBOL, "cuCheckpointProcess", |command| {
            command
                .env("LD_LIBRARY_PATH", driver("old_driver"))
                .env("REAL_DRIVER", libraries().join("sim/libcuda.so.1"));
        });
    }
    // The driver knows no process, as it does not start.
    let no_device =
        "cuInit=100,cuCheckpointProcessGetState=3,cuCheckpointProcessGetRestoreThreadId=3";
    let asked = ["--get-restore-tid", "--get-state"];
    for operation in asked {
        let mut command = cuda_checkpoint(&[operation, "--pid", &cuda]);
        let (code, text) = printed(refusing(&mut command, no_device));
        assert_eq!(code, 100, "{text}");
        assert!(text.contains("cannot be reached"), "{text}");
    }
}

#[test]
fn a_process_that_is_gone_is_said_to_be() {
    let gone = {
        let sleeper = Sleeper::start();
        sleeper.pid()
    };
    all_fail(&gone, 1, "there is no process", |_| {});
    let mut zombie = Command::new("true").spawn().unwrap();
    while fs::read_to_string(format!("/proc/{}/stat", zombie.id()))
        .is_ok_and(|stat| !stat.contains(") Z"))
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    all_fail(&zombie.id().to_string(), 1, "has ended", |_| {});
    zombie.wait().unwrap();
}

/// What root asks of one process is not asked of another that the first leads to.
#[test]
fn a_link_to_the_socket_of_another_process_leads_nowhere() {
    use std::os::unix::fs::{DirBuilderExt, symlink};
    let (live, scratch) = (freezable(), Scratch::new());
    let folder = scratch.file("run");
    fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
    let mut sleeper = Sleeper(
        Command::new("sleep")
            .arg("1000")
            .env("REWARM_RUN_DIR", &folder)
            .spawn()
            .unwrap(),
    );
    let socket = format!("run/{}.sock", live.pid());
    let link = folder.join(format!("{}.sock", sleeper.pid()));
    symlink(live.scratch().join(socket), link).unwrap();
    let frozen = Command::new(env!("CARGO_BIN_EXE_rewarm"))
        .args(["freeze", "--pid", &sleeper.pid(), "--to"])
        .arg(scratch.file("snapshot"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&frozen.stderr);
    assert!(
        !frozen.status.success() && said.contains("without rewarm"),
        "{said}"
    );
    assert_eq!(sleeper.0.try_wait().unwrap(), None);
    assert_eq!(live.state(), "active");
    live.quit();
}

#[test]
fn whose_process_may_not_be_asked_is_told_what_to_do() {
    use std::os::unix::process::CommandExt;
    // SAFETY: has no requirements.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: it takes root to be two users");
        return;
    }
    let live = plain();
    let mut command = cuda_checkpoint(&["--get-state", "--pid", &live.pid().to_string()]);
    command.uid(65534).gid(65534);
    if let Err(error) = command.output() {
        eprintln!("SKIPPED: the other user may not start the command: {error}");
        return;
    }
    let (code, text) = printed(&mut command);
    if text.contains("there is no CUDA driver") {
        eprintln!("SKIPPED: the other user may not read the driver: {text}");
        return;
    }
    assert_eq!(code, 304 % 256, "{text}");
    assert!(text.contains("as its user or as root"), "{text}");
}

#[test]
fn a_command_line_without_sense_is_a_usage_error() {
    for line in [
        "",
        "--pid 1",
        "--toggle --pid 0",
        "--toggle --pid garbage",
        "--get-state --toggle --pid 1",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (code, text) = printed(&mut cuda_checkpoint(&words));
        assert_eq!(code, 2, "{line}: {text}");
        assert!(text.lines().count() == 1, "{line}: {text}");
    }
    let (code, text) = printed(cuda_checkpoint(&["--help"]).env("LD_LIBRARY_PATH", "/nowhere"));
    assert!(code == 0 && text.contains("--get-restore-tid"), "{text}");
}

#[test]
fn the_command_itself_under_rewarm_says_nothing_more() {
    let mut live = freezable();
    let (pid, scratch) = (live.pid().to_string(), Scratch::new());
    let own_run_dir = scratch.file("run");
    for state in ["running", "checkpointed"] {
        let mut asked = cuda_checkpoint(&["--get-state", "--pid", &pid]);
        let mut toggle = cuda_checkpoint(&["--toggle", "--pid", &pid]);
        for command in [&mut asked, &mut toggle] {
            command
                .env("LD_PRELOAD", libraries().join("librewarm.so"))
                .env("REWARM_FREEZABLE", "1")
                .env("CRIU_CUDA_CONTEXT_POOL", "1")
                .env("REWARM_RUN_DIR", &own_run_dir)
                .env("REWARM_STATS", scratch.file("stats"))
                .env("REWARM_LOG", scratch.file("log"))
                .env("RUST_BACKTRACE", "1");
        }
        assert_eq!(printed(&mut asked), (0, format!("{state}\n")));
        assert_eq!(printed(&mut toggle), (0, String::new()));
    }
    for name in ["run", "stats", "log"] {
        assert!(!scratch.file(name).exists(), "it made {name}");
    }
    becomes_active(&live);
    live.must("check");
    live.quit();
}

/// CRIU's plugin takes every exit code but 0 for "not a CUDA process".
#[test]
fn the_plugin_hears_that_the_driver_is_not_there() {
    const CALLER: &str = "import mmap, subprocess, sys\n\
        with open(sys.argv[1], 'rb') as file:\n\
        \x20   held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n\
        sys.exit(subprocess.call(sys.argv[2:]))";
    let (scratch, live, sleeper) = (Scratch::new(), plain(), Sleeper::start());
    let library = scratch.file("cuda_plugin.so");
    fs::write(&library, [0; 4096]).unwrap();
    let ask = |pid: &str, driver: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", CALLER, cli::text(&library)]);
        command.arg(env!("CARGO_BIN_EXE_cuda-checkpoint"));
        command.args(["--get-restore-tid", "--pid", pid]);
        printed(command.env("LD_LIBRARY_PATH", driver))
    };
    let (here, cuda) = (libraries().join("sim"), live.pid().to_string());
    let (code, text) = ask(&cuda, cli::text(scratch.path()));
    assert!(
        code == 0 && text.starts_with("Error"),
        "a text is no thread: {code} {text}"
    );
    let (code, text) = ask(&cuda, cli::text(&here));
    assert!(
        code == 0 && text.trim().parse::<u32>().is_ok(),
        "{code} {text}"
    );
    let (code, text) = ask(&sleeper.pid(), cli::text(&here));
    assert_eq!(code, 1, "{text}");
}
