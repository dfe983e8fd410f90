//! `rewarm checkpoint` and `rewarm restore` together, on trees of processes: what
//! comes back, and what is left when something dies, fills up or is damaged in the
//! middle. Always either the processes run as before, or the checkpoint is whole and
//! comes back; never both, never half of one.

mod common;

use common::cli::text;
use common::live::{Live, ended};
use common::whole::{
    checkpoint, checkpointing, checkpointing_to, command, folder, restore, restoring, succeeds,
};
use common::{Link, Run, app, criu, number};
use rewarm::pidfd::Pidfd;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A tree with everything that programs hold. Three of its processes use CUDA.
fn tree() -> Live {
    Live::start(Run::rewarmed(app("tree", Link::Dlopen)).lanes(2))
}

/// A single process, whose checkpoint takes little time.
fn single() -> Live {
    let run = Run::rewarmed(app("freeze", Link::Dlopen)).lanes(2);
    Live::start(run.arg("memory=small,tiny,own,zero"))
}

/// Insists that a restore fails, says all the words, and leaves nobody.
#[track_caller]
fn is_refused(live: &Live, pids: &[u32], words: &[&str]) {
    println!("refused because of {words:?}");
    let message = live.refused(restoring(live), words);
    for pid in pids {
        assert!(!is_there(*pid), "process {pid} is left: {message}");
    }
}

fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Kills what there is of a tree that the test restores.
fn kill(live: &Live, pids: &[u32]) {
    for pid in pids {
        let Ok(process) = Pidfd::open(*pid) else {
            continue;
        };
        // A process that took the pid of one that is gone has another environment.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        if environment.contains(text(live.scratch())) {
            process.signal(libc::SIGKILL);
        }
    }
}

fn is_whole(live: &Live) -> bool {
    folder(live).join("checkpoint.json").exists()
}

/// Waits until something holds.
#[track_caller]
fn until(live: &Live, what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > Duration::from_secs(60) {
            live.fail(&format!("not so: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the process still runs, with all that it had.
#[track_caller]
fn runs_as_before(live: &mut Live) {
    until(live, "it is active again", || {
        live.is_alive() && live.state() == "active"
    });
    live.must("check");
    live.must("touch 3");
    live.must("check");
}

#[test]
fn a_tree_comes_back_again_and_again() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = tree();
    let before = live.ask("pids");
    for round in 2..5 {
        live.must(&format!("touch {round}"));
        checkpoint(&mut live);
        restore(&mut live);
        fs::remove_dir_all(folder(&live)).expect("nobody needs it any more");
    }
    assert_eq!(live.ask("pids"), before);
    live.quit();
}

#[test]
fn a_checkpoint_comes_back_as_often_as_wanted() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = tree();
    let pids = checkpoint(&mut live);
    for _ in 0..3 {
        restore(&mut live);
        kill(&live, &pids);
        live.is_gone();
        criu::gone(&pids);
    }
}

#[test]
fn who_runs_on_is_as_before_and_its_checkpoint_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    succeeds(&live, &mut checkpointing(&live, &["--leave-running"]));
    live.must("check");
    // What it does and logs now is not in the checkpoint.
    live.freeze(&[]);
    live.thaw(&[]);
    live.signal(libc::SIGKILL);
    live.is_gone();
    restore(&mut live);
    live.quit();
}

#[test]
fn the_process_of_another_user_comes_back() {
    const ANOTHER_USER: u32 = 65534;
    if criu::criu_or_skip().is_none() {
        return;
    }
    let run = Run::rewarmed(app("freeze", Link::Dlopen)).lanes(2);
    if !criu::can_take_others() {
        eprintln!("SKIPPED: CRIU needs CAP_SYS_RESOURCE for processes of other users");
        return;
    }
    if !run.can_be_run_by(ANOTHER_USER) {
        eprintln!("SKIPPED: user {ANOTHER_USER} cannot reach the programs of the tests");
        return;
    }
    let mut live = Live::start(run.arg("memory=small,own").user(ANOTHER_USER));
    checkpoint(&mut live);
    let snapshot = folder(&live).join("gpu").join(live.pid().to_string());
    let owner = fs::metadata(snapshot.join("manifest.json")).map(|found| found.uid());
    assert_eq!(owner.ok(), Some(ANOTHER_USER));
    restore(&mut live);
    live.quit();
}

/// A script in place of `criu` that says with a file that it was started for
/// something, and goes on when there is another.
fn waiting_criu(live: &Live, action: &str) -> (PathBuf, PathBuf, PathBuf) {
    let file = |name: &str| live.scratch().join(name);
    let (script, begun, go) = (file("waiting-criu"), file("begun"), file("go"));
    let criu = criu::can_checkpoint().expect("who has none skips");
    let (criu, said, waits) = (text(criu), text(&begun), text(&go));
    let lines = format!(
        "#!/bin/sh\nif [ $1 = {action} ]; then\n touch {said}\n while [ ! -e {waits} ]; do sleep 0.01; done\nfi\nexec {criu} \"$@\"\n"
    );
    fs::write(&script, lines).expect("it is our folder");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    (script, begun, go)
}

#[test]
fn of_two_checkpoints_at_once_in_one_folder_the_later_leaves_the_other_alone() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let (mut first, mut second) = (single(), single());
    let to = folder(&first);
    let start = |live: &Live, action| {
        let (criu, begun, go) = waiting_criu(live, action);
        let mut command = checkpointing_to(live, &to, &[]);
        let child = command.env("REWARM_CRIU", criu).spawn();
        until(live, "criu was started", || begun.exists());
        (child.expect("rewarm starts"), go)
    };
    // Its folder is not there yet when the second one looks.
    let (late, go_late) = start(&second, "check");
    let (early, go_early) = start(&first, "dump");
    fs::write(go_late, "").expect("it is our folder");
    let late = ended(late);
    fs::write(go_early, "").expect("it is our folder");
    let early = ended(early);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert!(early.status.success(), "{early:?}");
    runs_as_before(&mut second);
    first.is_gone();
    restore(&mut first);
    first.quit();
    second.quit();
}

/// `rewarm` is killed at ever later moments of its work.
fn killed_after(step: u64, steps: u64, whole: Duration, child: &mut Child) {
    std::thread::sleep(whole.mul_f64(step as f64 / steps as f64));
    let _ = child.kill();
}

#[test]
fn a_checkpoint_whose_command_line_is_killed_is_whole_or_none() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    let begun = Instant::now();
    checkpoint(&mut live);
    let whole = begun.elapsed();
    restore(&mut live);
    fs::remove_dir_all(folder(&live)).expect("nobody needs it any more");
    let steps = number("REWARM_TEST_STEPS", 8);
    for step in 0..=steps {
        let pids = criu::tree(live.pid());
        let mut child = checkpointing(&live, &[]).spawn().expect("rewarm starts");
        killed_after(step, steps, whole, &mut child);
        let _ = child.wait();
        until(
            &live,
            "it runs, or has ended and the checkpoint is whole",
            || match live.is_alive() {
                true => !is_whole(&live) && live.try_state().as_deref() == Some("active"),
                false => is_whole(&live),
            },
        );
        if live.is_alive() {
            runs_as_before(&mut live);
        } else {
            live.is_gone();
            criu::gone(&pids);
            restore(&mut live);
            fs::remove_dir_all(folder(&live)).expect("nobody needs it any more");
        }
        until(&live, "nothing is left of the folder", || {
            !live.scratch().join("checkpoint.partial").exists()
        });
    }
    live.quit();
}

/// Whether a `rewarm restore` of this test, or what it has left, is at work.
fn is_restored_by_somebody() -> bool {
    let restores = |pid: u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| line.contains("\0restore\0"))
    };
    criu::tree(std::process::id()).into_iter().any(restores)
}

#[test]
fn a_restore_whose_command_line_is_killed_leaves_nobody() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    let pids = checkpoint(&mut live);
    let begun = Instant::now();
    restore(&mut live);
    let whole = begun.elapsed();
    let steps = number("REWARM_TEST_STEPS", 8);
    kill(&live, &pids);
    live.is_gone();
    criu::gone(&pids);
    for step in 0..=steps {
        let mut child = restoring(&live).spawn().expect("rewarm starts");
        killed_after(step, steps, whole, &mut child);
        child.wait().expect("it is ours");
        until(&live, "nobody restores any more", || {
            !is_restored_by_somebody()
        });
        // It may have been killed after success was declared.
        if live.is_alive() {
            live.is_back();
            live.must("check");
            kill(&live, &pids);
            live.is_gone();
        }
        criu::gone(&pids);
    }
    restore(&mut live);
    live.quit();
}

#[test]
fn a_process_that_is_killed_meanwhile_makes_no_half_checkpoint() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    for step in 0..number("REWARM_TEST_STEPS", 8) {
        let mut live = single();
        let pids = criu::tree(live.pid());
        criu::adopt();
        let child = checkpointing(&live, &[]).spawn().expect("rewarm starts");
        std::thread::sleep(Duration::from_millis(step * 60));
        live.signal(libc::SIGKILL);
        let output = ended(child);
        live.is_gone();
        criu::gone(&pids);
        assert_eq!(output.status.success(), is_whole(&live), "{output:?}");
        if is_whole(&live) {
            restore(&mut live);
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_is_restored_makes_the_restore_fail() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    let pids = checkpoint(&mut live);
    for step in 0..number("REWARM_TEST_STEPS", 8) {
        let child = restoring(&live).spawn().expect("rewarm starts");
        until(&live, "it is there, or the restore is over", || {
            is_there(pids[0]) || step == 0
        });
        std::thread::sleep(Duration::from_millis(step * 20));
        kill(&live, &pids);
        let output = ended(child);
        if output.status.success() {
            // It was killed afterwards, or before it was itself.
            kill(&live, &pids);
        } else {
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(!output.stderr.is_empty());
        }
        criu::gone(&pids);
    }
    restore(&mut live);
    live.quit();
}

/// Every file of a checkpoint.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(files_in(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn damage_is_named_and_nobody_is_left() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    let pids = checkpoint(&mut live);
    for file in files_in(&folder(&live)) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = fs::metadata(&file).unwrap().len();
        let aside = file.with_extension("aside");
        // Logs and statistics are for people.
        if bytes == 0 || name.ends_with(".log") || name.starts_with("stats-") {
            continue;
        }
        let whole = fs::read(&file).unwrap();
        let writable = fs::OpenOptions::new().write(true).open(&file).unwrap();
        writable
            .write_all_at(&[!whole[bytes as usize / 2]], bytes / 2)
            .unwrap();
        is_refused(&live, &pids, &[&name]);
        writable.write_all_at(&whole, 0).unwrap();
        writable.set_len(bytes - 1).unwrap();
        is_refused(&live, &pids, &[&name]);
        writable.write_all_at(&whole, 0).unwrap();
        fs::rename(&file, &aside).unwrap();
        is_refused(&live, &pids, &[&name]);
        fs::rename(&aside, &file).unwrap();
    }
    restore(&mut live);
    live.quit();
}

/// A file system with little room, until it is dropped.
struct Little(PathBuf);

impl Little {
    fn mount(at: PathBuf, size: &str) -> Result<Little, String> {
        fs::create_dir_all(&at).expect("the scratch folder is writable");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .output()
            .expect("there is mount");
        if output.status.success() {
            Ok(Little(at))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for Little {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_leaves_the_process_as_it_was() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    // Too little from the beginning, for the snapshot, and for the images.
    for size in ["64k", "1m", "3m", "5m", "7m", "9m"] {
        let little = match Little::mount(live.scratch().join("little"), size) {
            Ok(little) => little,
            Err(why) => {
                eprintln!("SKIPPED, as no file system can be mounted here: {why}");
                break;
            }
        };
        let (pid, to) = (live.pid().to_string(), little.0.join("checkpoint"));
        let arguments = ["checkpoint", "--pid", &pid, "--to", text(&to)];
        let output = ended(command(&live, &arguments).spawn().expect("rewarm starts"));
        if output.status.success() {
            // It fitted.
            live.is_gone();
            return;
        }
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!to.exists() && !little.0.join("checkpoint.partial").exists());
        runs_as_before(&mut live);
    }
    live.quit();
}

#[test]
fn who_asks_for_the_state_all_the_time_is_in_nobody_s_way() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    for _ in 0..3 {
        let pid = live.pid().to_string();
        let mut asking = live.rewarm(&["status", "--pid", &pid, "--json"]);
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let asker = std::thread::spawn(move || {
            asking.stdout(Stdio::null()).stderr(Stdio::null());
            while stopped.try_recv().is_err() {
                let _ = asking.status();
            }
        });
        checkpoint(&mut live);
        let _ = stop.send(());
        asker.join().expect("it only asks");
        restore(&mut live);
        fs::remove_dir_all(folder(&live)).expect("nobody needs it any more");
    }
    live.quit();
}

#[test]
fn images_are_private() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut live = single();
    checkpoint(&mut live);
    let folder = folder(&live);
    for path in [&folder, &folder.join("images"), &folder.join("gpu")] {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}
