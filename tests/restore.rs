//! `rewarm restore`, with a real CRIU and the software driver.

mod common;

use common::cli::{json, stderr, text};
use common::live::{Live, ended};
use common::saved::{Saved, contents, program};
use common::{criu, shared_library, until};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_process_comes_back_as_often_as_wanted() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::frozen();
    for round in 0..2 {
        let report = saved.restore();
        assert_eq!(report["pid"], saved.live.pid());
        assert_eq!(saved.live.state(), "active", "round {round}");
        saved.live.signal(libc::SIGKILL);
        saved.live.is_gone();
    }
}

#[test]
fn a_process_without_rewarm_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::plain();
    saved.restore();
    saved.live.quit();
}

#[test]
fn memory_comes_back_without_the_page_server_and_verified_too() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::plain();
    let (pages, whole, damaged) = saved.pages_and_damage();
    fs::write(&pages, damaged).unwrap();
    saved.refused(saved.restoring(&["--no-lazy"]), &["pages", "damaged"]);
    fs::write(&pages, whole).unwrap();
    let report = json(&mut saved.restoring(&["--detach", "--json", "--no-lazy"]));
    assert_eq!(report["page_bytes"], 0);
    saved.live.is_back();
    saved.live.must("check");
    saved.live.quit();
}

/// On such storage pages are verified while CRIU restores, which waits for that.
#[test]
fn memory_on_storage_that_answers_late_is_verified_before_anything_runs() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::plain();
    let (pages, whole, damaged) = saved.pages_and_damage();
    let slow = |saved: &Saved, bytes: &[u8]| {
        fs::write(&pages, bytes).unwrap();
        evict(&pages);
        let mut restoring = saved.restoring(&["--detach", "--json", "--no-lazy"]);
        restoring
            .env("LD_PRELOAD", shared_library("faulty_files"))
            .env("FAULTY_DO", "late")
            .env("FAULTY_NAME", pages.file_name().unwrap());
        restoring
    };
    let output = slow(&saved, &damaged).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("pages-*.img) is damaged"), "{said}");
    let pid = saved.live.pid();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is left");
    json(&mut slow(&saved, &whole));
    saved.live.is_back();
    saved.live.must("check");
    saved.live.quit();
}

/// Has the next read of a file go to its storage.
fn evict(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: an open descriptor and numbers.
    let failed = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(failed, 0);
}

#[test]
fn a_tree_comes_back_whole() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    criu::adopt();
    let mut live = Live::start(program(true).arg("children=2"));
    let folder = live.scratch().join("checkpoint");
    let pids = live.processes();
    assert_eq!(pids.len(), 3);
    let pid = live.pid().to_string();
    let to = ["checkpoint", "--tree", "--pid", &pid, "--to", text(&folder)];
    let mut checkpoint = live.rewarm(&to);
    checkpoint.env("REWARM_CRIU", criu::can_checkpoint().unwrap());
    let output = checkpoint.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    live.is_gone();
    for pid in &pids[1..] {
        until("its pid is free", || !reap_and_see(*pid));
    }
    let mut saved = Saved { live, folder };
    for _ in 0..2 {
        let report = json(&mut saved.restoring(&["--detach", "--json"]));
        assert_eq!(report["processes"], 3);
        assert_eq!(report["gpus"].as_array().unwrap().len(), 3);
        saved.live.is_back();
        for command in ["check", "child 0 check", "child 1 check"] {
            saved.live.must(command);
        }
        for pid in &pids {
            assert_eq!(saved.live.state_of(*pid), "active");
        }
        saved.live.signal(libc::SIGKILL);
        saved.live.is_gone();
        for pid in &pids[1..] {
            // SAFETY: a process that was ours from the start.
            unsafe { libc::kill(*pid as i32, libc::SIGKILL) };
            until("its pid is free", || !reap_and_see(*pid));
        }
    }
}

#[test]
fn without_the_page_server_nobody_is_left() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let saved = Saved::frozen();
    let before = contents(&saved.folder);
    // The page server is stopped, so that it has work left when it is killed.
    let pid = saved.live.pid();
    let stops = fake(
        &saved,
        "for p in $(cat /proc/$PPID/task/*/children); do grep -q serve-pages /proc/$p/cmdline && kill -STOP $p; done\n\"$CRIU\" \"$@\"",
    );
    let mut command = saved.restoring(&["--detach", "--criu", text(&stops)]);
    let restoring = command.stderr(Stdio::piped()).spawn().unwrap();
    let find_server = || {
        let worker = *children(restoring.id()).first()?;
        let is_server = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| line.contains("serve-pages"))
        };
        children(worker).into_iter().find(is_server)
    };
    until("the process is back", || lives(pid));
    let server = find_server().expect("a page server");
    // SAFETY: a descendant that nobody has waited for.
    unsafe { libc::kill(server as i32, libc::SIGKILL) };
    let output = ended(restoring);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("page server"), "{message}");
    saved.is_untouched(&before);
}

#[test]
fn what_does_not_fit_is_told_before_anything_starts() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::frozen();
    let pid = saved.live.pid();

    let mut command = saved.restoring(&[]);
    command.env("SIMCUDA_VERSION", "12080");
    saved.refused(command, &["another driver (CUDA 13.0)", "(CUDA 12.8)"]);
    let mut command = saved.restoring(&[]);
    command.env("SIMCUDA_MEMORY_MB", "8");
    saved.refused(command, &["GPU 0", "too small", "Software GPU with 8 MiB"]);
    let mut command = saved.restoring(&[]);
    command.env("LD_LIBRARY_PATH", "");
    saved.refused(command, &["libcuda.so.1", "use a GPU"]);

    saved.with_manifest(
        |other| other.machine.kernel = "99.1.0".into(),
        &["Linux 99.1.0", "older"],
    );
    saved.with_manifest(
        |other| other.machine.cpu_features.push("avx9999".into()),
        &["CPU", "lacks", "avx9999"],
    );
    saved.with_manifest(
        |other| other.machine.gpus[0].name = "H300".into(),
        &["H300", "same model"],
    );
    saved.with_manifest(
        |other| other.criu_version = "99.0".into(),
        &["CRIU 99.0", "--criu"],
    );
    saved.with_manifest(
        |other| other.files[0].bytes += 1,
        &["was changed: it had", "put the file back"],
    );
    saved.with_manifest(
        |other| other.files[0].path = "/no/such/library.so".into(),
        &["/no/such/library.so: is missing"],
    );
    // Everything at once.
    saved.with_manifest(
        |other| {
            other.machine.kernel = "99.1.0".into();
            other.criu_version = "99.0".into();
        },
        &["Linux 99.1.0", "CRIU 99.0", "nothing was started"],
    );

    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let core = format!("images/core-{pid}.img");
    saved.with_file(&core, flip, &[&core, "is damaged", "digest"]);
    saved.with_file(&core, |bytes| bytes.truncate(5), &[&core, "it has 5 bytes"]);
    saved.with_file("checkpoint.json", flip, &["checkpoint.json", "damaged"]);
    saved.with_file(&format!("gpu/{pid}/manifest.json"), flip, &["damaged"]);
    let pages = &*saved.pages();
    let middle = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    saved.with_file(pages, middle, &[pages, "not what was written"]);
    saved.with_file(
        pages,
        |bytes| bytes.truncate(4096),
        &[pages, "it has 4096 bytes"],
    );
    let away = saved.live.scratch().join("away");
    let names = [core, pages.to_owned(), format!("gpu/{pid}/manifest.json")];
    for (name, word) in names
        .iter()
        .zip(["is missing", "is missing", "no snapshot"])
    {
        let file = saved.folder.join(name);
        fs::rename(&file, &away).unwrap();
        saved.refused(saved.restoring(&[]), &[word]);
        fs::rename(&away, &file).unwrap();
    }

    let mode = |mode| fs::set_permissions(&saved.folder, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o770);
    saved.refused(saved.restoring(&[]), &["others may write to it", "chmod"]);
    mode(0o700);

    saved.restore();
    saved.live.quit();
}

#[test]
fn a_pid_that_is_taken_is_told_and_by_whom() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::plain();
    saved.restore();
    let before = contents(&saved.folder);
    let pid = saved.live.pid();
    let words = [
        &*format!("pids {pid}, "),
        &*format!("taken by process {pid} (freeze"),
        "end it",
    ];
    saved.live.refused(saved.restoring(&["--detach"]), &words);
    saved.live.must("check");
    // On its way, it is waited for.
    saved.live.signal(libc::SIGKILL);
    let restoring = saved
        .restoring(&["--detach"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    saved.live.is_gone();
    let output = ended(restoring);
    assert!(output.status.success(), "{output:?}");
    saved.live.is_back();
    saved.live.must("quit");
    saved.live.wait();
    saved.is_untouched(&before);
}

/// A script in place of `criu`, which may call the real one as "$CRIU" "$@".
fn fake(saved: &Saved, script: &str) -> PathBuf {
    let path = saved.live.scratch().join("fake-criu");
    let criu = criu::can_checkpoint().unwrap().display();
    let text = format!(
        "#!/bin/sh\nCRIU={criu}\ncase $1 in --version|check) exec $CRIU \"$@\";; esac\n{script}\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_fails_midway_leaves_nobody_and_can_be_tried_again() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::frozen();
    let pid = saved.live.pid();
    let with = |script: String, words: &[&str]| {
        let fake = fake(&saved, &script);
        let criu = ["--criu", text(&fake), "--criu-timeout", "2"];
        let again = "nothing of it was left running";
        saved.refused(
            saved.restoring(&criu),
            &[words, &[again, "tried again"]].concat(),
        );
    };
    with("exit 3".into(), &["criu restore failed", "status: 3"]);
    with("sleep 1000".into(), &["longer than 2 s"]);
    with(r#""$CRIU" "$@"; sleep 1000"#.into(), &["longer than 2 s"]);
    with(r#""$CRIU" "$@"; exit 1"#.into(), &["criu restore failed"]);
    let killed = format!("process {pid} was killed or ended");
    with(format!(r#""$CRIU" "$@"; kill -9 {pid}"#), &[&killed]);
    with(
        r#""$CRIU" "$@" --action-script /bin/false"#.into(),
        &["criu restore failed"],
    );

    saved.live.make_scarce(4096 << 20);
    saved.refused(saved.restoring(&[]), &["memory", "tried again"]);
    saved.live.make_scarce(0);
    saved.restore();
    saved.live.quit();
}

fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ"))
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let all = rewarm::proc::parents().into_iter();
    all.filter(|(_, parent)| *parent == pid)
        .map(|(child, _)| child)
        .collect()
}

#[test]
fn whoever_is_killed_nobody_half_alive_is_left() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::frozen();
    let pid = saved.live.pid();
    let before = contents(&saved.folder);
    // The thaw waits for memory, with all else done.
    saved.live.make_scarce(4096 << 20);
    let hangs = fake(&saved, "\"$CRIU\" \"$@\"; sleep 1000");
    for criu in [criu::can_checkpoint().unwrap(), &*hangs] {
        for (signal, whom) in [
            (libc::SIGKILL, "the first process"),
            (libc::SIGKILL, "the worker"),
            (libc::SIGTERM, "the first process"),
            (libc::SIGINT, "the first process"),
        ] {
            let mut command = saved.restoring(&["--wait", "--criu", text(criu)]);
            let mut restoring = command.stderr(Stdio::piped()).spawn().unwrap();
            let first = restoring.id();
            until("the process is back", || lives(pid));
            let worker = children(first)[0];
            let target = if whom == "the worker" { worker } else { first };
            // SAFETY: our own child, or its child, neither waited for.
            unsafe { libc::kill(target as i32, signal) };
            until("it is killed again", || !lives(pid) && !lives(worker));
            let status = restoring.wait().unwrap();
            let expected = match whom {
                "the worker" => Some(1),
                _ if signal == libc::SIGKILL => None,
                _ => Some(128 + signal),
            };
            assert_eq!(status.code(), expected, "{whom} {signal}");
            until("its pid is free", || !reap_and_see(pid));
            saved.is_untouched(&before);
        }
    }
    saved.live.make_scarce(0);
    saved.restore();
    saved.live.quit();
}

/// Whether there is anything of a process, which may be ours to wait for.
fn reap_and_see(pid: u32) -> bool {
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn in_the_foreground_signals_and_the_status_are_passed_on() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::plain();
    let pid = saved.live.pid();
    for (signal, code) in [(libc::SIGTERM, 143), (libc::SIGUSR1, 138), (0, 0)] {
        let mut command = saved.restoring(&[]);
        let mut restoring = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(restoring.stdout.take().unwrap()).lines();
        let line = said.next().unwrap().unwrap();
        assert!(
            line.contains(&format!("process {pid} is restored: ")),
            "{line}"
        );
        saved.live.is_back();
        saved.live.must("check");
        if signal == 0 {
            saved.live.must("quit");
        } else {
            // SAFETY: our own child, not waited for.
            unsafe { libc::kill(restoring.id() as i32, signal) };
        }
        let status = restoring.wait().unwrap();
        saved.live.has_ended(status);
        assert_eq!(status.code(), Some(code));
        assert!(!lives(pid));
    }
}

#[test]
fn what_is_no_checkpoint_is_told() {
    let scratch = common::Scratch::new();
    let restore = |name: &str| {
        let folder = scratch.file(name);
        common::cli::rewarm(&["restore", "--from", text(&folder)])
    };
    let refused = common::cli::refused;
    refused(&mut restore("nothing"), 1, &["there is no such folder"]);
    fs::create_dir(scratch.file("empty")).unwrap();
    refused(&mut restore("empty"), 1, &["holds no checkpoint"]);
    fs::create_dir(scratch.file("images")).unwrap();
    fs::write(scratch.file("images/inventory.img"), "").unwrap();
    refused(
        &mut restore("images"),
        1,
        &["plain `criu dump`", "rewarm page-server", "criu restore"],
    );
    refused(
        &mut common::cli::rewarm(&["restore", "--from", ""]),
        2,
        &["--from"],
    );
}
