//! In processes that do not use CUDA, or must not be touched, rewarm is not to be
//! noticed: same output, same exit status, no thread, descriptor or file.

mod common;

use common::{Link, Outcome, Run, Scratch, app, libraries};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// Runs the same plain and preloaded and insists on the same result.
#[track_caller]
fn like_plain(prepare: impl Fn(Run) -> Run, program: impl AsRef<Path>) -> Outcome {
    let plain = prepare(Run::plain(&program)).finish();
    let preloaded = prepare(Run::rewarmed(&program)).finish();
    preloaded.must_be_like(&plain);
    preloaded
}

/// Nothing was written, opened or started.
#[track_caller]
fn left_nothing(outcome: &Outcome) {
    let files: Vec<_> = std::fs::read_dir(outcome.scratch())
        .expect("the scratch folder is there")
        .flatten()
        .map(|entry| entry.file_name().into_string().expect("names are UTF-8"))
        .filter(|name| name != "stdout" && name != "stderr")
        .collect();
    outcome.must(files.is_empty(), &format!("files were left: {files:?}"));
}

#[test]
fn shells_and_tools_notice_nothing() {
    for arguments in [
        &["bash", "-c", "true"][..],
        &["bash", "-c", "echo out; echo err >&2; exit 42"],
        &["sh", "-c", "kill -TERM $$"],
        &["git", "--version"],
        &["git", "no-such-command"],
        &["python3", "-c", "pass"],
        &[
            "python3",
            "-c",
            "import threading, ctypes, subprocess; print(subprocess.check_output(['echo', 'x']))",
        ],
        &["env", "true"],
        &["ls", "/no/such/file"],
    ] {
        left_nothing(&like_plain(|run| run.args(&arguments[1..]), arguments[0]));
        left_nothing(&like_plain(
            |run| run.args(&arguments[1..]).without_driver(),
            arguments[0],
        ));
    }
}

#[test]
fn no_thread_and_no_descriptor_is_added() {
    let shell =
        "grep Threads /proc/$$/status; echo /proc/$$/fd/*; grep -c rewarm_core /proc/$$/maps; true";
    let outcome = like_plain(|run| run.args(["-c", &shell.replace("$$", "self")]), "bash");
    assert!(
        outcome.stdout.contains("Threads:\t1\n"),
        "{}",
        outcome.stdout
    );
    let python = "import os; print(len(os.listdir('/proc/self/task')), os.listdir('/proc/self/fd'), \
                  'rewarm_core' in open('/proc/self/maps').read())";
    let outcome = like_plain(|run| run.args(["-c", python]), "python3");
    assert!(
        outcome.stdout.starts_with("1 ") && outcome.stdout.ends_with("False\n"),
        "{}",
        outcome.stdout
    );
    left_nothing(&outcome);
}

#[test]
fn loading_the_driver_is_not_using_it() {
    let python = "import ctypes, os; cuda = ctypes.CDLL('libcuda.so.1'); cuda.cuMemcpyHtoD_v2; cuda.cuInit; \
                  print(len(os.listdir('/proc/self/task')), 'rewarm_core' in open('/proc/self/maps').read())";
    let outcome = like_plain(|run| run.args(["-c", python]), "python3");
    assert_eq!(outcome.stdout, "1 False\n");
    left_nothing(&outcome);
}

#[test]
fn closed_standard_streams_change_nothing() {
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        for program in ["true", "python3 -c pass", "git --version"] {
            left_nothing(&like_plain(
                |run| run.args(["-c", &format!("{program} {closed}")]),
                "bash",
            ));
        }
        let copy = format!(
            "exec {} plain {closed}",
            app("copies", Link::Dlopen).display()
        );
        let outcome = like_plain(|run| run.args(["-c", &copy]).small_copies_too(), "bash").ok();
        outcome.must(
            outcome.device().h2d.fanned_out_copies == 1,
            "nothing was fanned out",
        );
    }
}

#[test]
fn nothing_is_ever_written_to_the_standard_streams() {
    let plain_text = "plain: right\n";
    for setting in [
        "CRIU_CUDA_STREAMS",
        "CRIU_CUDA_CHUNK_MB",
        "REWARM_MIN_COPY_KB",
        "REWARM_RUN_DIR",
        "REWARM_LOG",
    ] {
        let outcome = like_plain(
            |run| run.arg("plain").env(setting, "/no/such/../value"),
            app("copies", Link::Dlopen),
        );
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            (plain_text, ""),
            "{setting}"
        );
    }
}

#[test]
fn without_a_driver_programs_see_what_they_would_see() {
    let outcome = like_plain(
        |run| run.arg("plain").without_driver(),
        app("copies", Link::Dlopen),
    );
    assert_eq!(outcome.status.code(), Some(77), "{}", outcome.stdout);
    left_nothing(&outcome);
}

/// The front alone in a folder.
fn front_alone(scratch: &Scratch) -> PathBuf {
    let front = scratch.file("librewarm.so");
    std::fs::copy(libraries().join("librewarm.so"), &front).expect("the front can be copied");
    front
}

#[test]
fn without_its_core_the_front_lets_everything_pass() {
    let scratch = Scratch::new();
    let front = front_alone(&scratch);
    for (name, link) in [("copies", Link::Dlopen), ("routes", Link::Cuda)] {
        let outcome = Run::plain(app(name, link))
            .arg("plain")
            .under(&front)
            .small_copies_too()
            .finish()
            .ok();
        assert!(outcome.stdout.contains("right"), "{}", outcome.stdout);
        left_nothing(&outcome);
    }
}

#[test]
fn with_a_broken_core_the_front_lets_everything_pass() {
    let scratch = Scratch::new();
    let front = front_alone(&scratch);
    for content in [&b""[..], b"not a library"] {
        std::fs::write(scratch.file("librewarm_core.so"), content)
            .expect("the scratch folder is writable");
        let outcome = Run::plain(app("copies", Link::Dlopen))
            .arg("plain")
            .under(&front)
            .finish()
            .ok();
        left_nothing(&outcome);
    }
    // A library, but not the core.
    std::fs::copy(&front, scratch.file("librewarm_core.so")).expect("the front can be copied");
    left_nothing(
        &Run::plain(app("copies", Link::Dlopen))
            .arg("plain")
            .under(&front)
            .finish()
            .ok(),
    );
}

#[test]
fn the_kill_switch_leaves_nothing() {
    for prewarm in ["0", "1"] {
        let off = |run: Run| {
            run.env("REWARM_DISABLE", "1")
                .env("CRIU_CUDA_CONTEXT_POOL", prewarm)
                .small_copies_too()
        };
        let outcome = like_plain(|run| off(run).arg("look"), app("lifecycle", Link::Dlopen)).ok();
        assert!(
            outcome.stdout.starts_with("core absent, its threads 0"),
            "{}",
            outcome.stdout
        );
        left_nothing(&outcome);
        for route in ["dlsym", "default", "self", "four", "five"] {
            left_nothing(&like_plain(|run| off(run).arg(route), app("routes", Link::Dlopen)).ok());
        }
        left_nothing(&like_plain(off, app("routes", Link::Cuda)).ok());
    }
}

/// The same process without the switch is one that rewarm is in.
#[test]
fn without_the_kill_switch_the_core_is_there() {
    let outcome = Run::rewarmed(app("lifecycle", Link::Dlopen))
        .arg("look")
        .small_copies_too()
        .finish()
        .ok();
    assert!(
        outcome.stdout.starts_with("core mapped, its threads "),
        "{}",
        outcome.stdout
    );
    assert!(
        !outcome.stdout.contains("its threads 0"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn setuid_programs_are_left_alone() {
    // SAFETY: has no requirements.
    if unsafe { libc::geteuid() } != 0 {
        println!("not tested: only root can make a program that is setuid to root");
        return;
    }
    // A user without rights must reach it, so it lies outside the repository.
    let folder = std::env::temp_dir().join(format!("rewarm-setuid-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("the temporary folder is writable");
    for name in ["cat", "true"] {
        let program = folder.join(name);
        let original = if Path::new("/usr/bin").join(name).exists() {
            "/usr/bin"
        } else {
            "/bin"
        };
        std::fs::copy(Path::new(original).join(name), &program).expect("every machine has these");
        let rights =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
        rights(&folder, 0o755)
            .and_then(|()| rights(&program, 0o4755))
            .expect("root may");
        let as_nobody = |run: Run| {
            run.arg("/proc/self/maps").prepare(|command| {
                command.uid(65534).gid(65534);
            })
        };
        let outcome = as_nobody(Run::rewarmed(&program))
            .env("CRIU_CUDA_CONTEXT_POOL", "1")
            .finish()
            .ok();
        outcome.must(
            !outcome.stdout.contains("rewarm_core"),
            "the core is in a setuid program",
        );
        outcome.must(outcome.stderr.is_empty(), "something was said");
        left_nothing(&outcome);
    }
    std::fs::remove_dir_all(&folder).expect("root may");
}
