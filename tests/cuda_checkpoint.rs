//! `cuda-checkpoint` as CRIU's CUDA plugin and other agents use it.

mod common;

use common::live::Live;
use common::plugin::{
    MEMORY, Plugin, Stopped, becomes_active, freezable, plain, printed, refusing, snapshots,
};
use common::{Link, Run, app};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// CUDA's error codes, as much of them as fits into an exit code.
const NOT_READY: i32 = 600 % 256;
const ILLEGAL_STATE: i32 = 401 % 256;
const UNKNOWN: i32 = 999 % 256;

/// What CRIU does to a process from the start of a dump to its end, all threads
/// but one stopped. Returns them, and the one.
#[track_caller]
fn dump(plugin: &Plugin, live: &Live) -> (Stopped, u32) {
    let pid = live.pid();
    let thread = plugin.restore_thread(pid).expect("it uses CUDA");
    assert_eq!(plugin.state(thread), "running");
    plugin.act("lock", pid);
    assert_eq!(plugin.state(pid), "locked");
    let stopped = Stopped::all(pid);
    assert_eq!(plugin.restore_thread(pid), Some(thread));
    stopped.with_running(thread, || {
        plugin.act("checkpoint", pid);
        assert_eq!(plugin.state(pid), "checkpointed");
    });
    (stopped, thread)
}

/// What CRIU does before the process goes on.
#[track_caller]
fn resume(plugin: &Plugin, live: &Live, (stopped, thread): (Stopped, u32)) {
    let pid = live.pid();
    assert_eq!(plugin.restore_thread(pid), Some(thread));
    stopped.with_running(thread, || {
        plugin.act("restore", pid);
        plugin.act("unlock", pid);
        assert_eq!(plugin.state(pid), "running");
    });
}

#[test]
fn criu_dumps_a_process_without_rewarm() {
    let mut live = plain();
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    assert!(plugin.is_usable());
    for seed in 1..=2 {
        let stopped = dump(&plugin, &live);
        assert_eq!(live.used(), 0, "device memory is given back");
        resume(&plugin, &live, stopped);
        live.must("check");
        live.must(&format!("touch 3 {seed}"));
    }
    live.quit();
}

#[test]
fn device_memory_leaves_before_the_lock_and_is_back_after_the_unlock() {
    let mut live = freezable();
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    for seed in 1..=3 {
        let stopped = dump(&plugin, &live);
        assert_eq!(live.used(), 0, "device memory is given back");
        resume(&plugin, &live, stopped);
        becomes_active(&live);
        live.must("check");
        live.must(&format!("touch 3 {seed}"));
        // An image may need each of them yet.
        assert_eq!(snapshots(&live).len(), seed);
    }
    let name = snapshots(&live)[0].file_name().unwrap().to_owned();
    let name = name.to_str().unwrap();
    assert!(name.contains(&format!("-{}-", live.pid())), "{name}");
    live.quit();
}

#[test]
fn two_processes_are_dumped_together() {
    let mut lives = [freezable(), plain()];
    let run_dirs = lives.each_ref().map(|live| live.scratch().join("run"));
    let plugins = run_dirs.each_ref().map(|run_dir| Plugin { run_dir });
    let dumped = [0, 1].map(|index| dump(&plugins[index], &lives[index]));
    for (index, stopped) in dumped.into_iter().enumerate() {
        resume(&plugins[index], &lives[index], stopped);
    }
    becomes_active(&lives[0]);
    for live in &mut lives {
        live.must("check");
    }
    lives.into_iter().for_each(Live::quit);
}

#[test]
fn a_folder_of_the_command_serves_processes_without_one() {
    let run = Run::rewarmed(app("freeze", Link::Dlopen))
        .lanes(2)
        .arg(MEMORY);
    let mut live = Live::start(run);
    let folder = live.scratch().join("snapshots");
    fs::create_dir(&folder).unwrap();
    let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
    let toggle = |folder: Option<&PathBuf>| {
        let mut command = Plugin { run_dir: &run_dir }.command(&["--toggle", "--pid", &pid]);
        command.envs(folder.map(|folder| ("REWARM_SNAPSHOT_DIR", folder)));
        assert_eq!(printed(&mut command), (0, String::new()));
    };
    toggle(None);
    assert_eq!(snapshots(&live).len(), 0, "nobody asked for a freeze");
    toggle(None);
    live.must("check");
    toggle(Some(&folder));
    assert_eq!(snapshots(&live).len(), 1);
    assert_eq!(live.state(), "frozen");
    toggle(None);
    becomes_active(&live);
    live.must("check");
    live.quit();
}

#[test]
fn a_toggle_takes_a_process_out_and_back() {
    for mut live in [plain(), freezable()] {
        let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
        let plugin = Plugin { run_dir: &run_dir };
        for state in ["checkpointed", "running"] {
            assert_eq!(plugin.run(&["--toggle", "-p", &pid]), (0, String::new()));
            assert_eq!(plugin.state(live.pid()), state);
        }
        live.must("check");
        plugin.act("lock", live.pid());
        let (code, text) = plugin.run(&["--toggle", "--pid", &pid]);
        assert_eq!(code, ILLEGAL_STATE);
        assert!(text.contains("locked"), "{text}");
        plugin.act("unlock", live.pid());
        live.must("check");
        live.quit();
    }
}

/// Somebody's checkpoint was broken off.
#[test]
fn whom_the_driver_holds_is_neither_frozen_nor_thawed() {
    // Without a folder for snapshots.
    let program = Run::rewarmed(app("freeze", Link::Dlopen)).lanes(2);
    let mut live = Live::start(program.arg(MEMORY));
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    let pid = live.pid();
    plugin.act("lock", pid);
    live.refused(
        live.freezing(&[]),
        &["locked by the driver", "--action unlock"],
    );
    plugin.act("unlock", pid);
    live.freeze(&[]);
    plugin.act("lock", pid);
    plugin.act("checkpoint", pid);
    live.refused(
        live.thawing(&[]),
        &["checkpointed by the driver", "--toggle"],
    );
    plugin.act("restore", pid);
    plugin.act("unlock", pid);
    live.thaw(&[]);
    live.must("check");
    live.quit();
}

/// The thaw of an unlock is under way when the next lock comes.
#[test]
fn a_lock_waits_for_the_thaw_before_it() {
    let mut live = freezable();
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    for locks in 1..=12 {
        plugin.act("lock", live.pid());
        assert_eq!((snapshots(&live).len(), live.used()), (locks, 0));
        plugin.act("unlock", live.pid());
    }
    becomes_active(&live);
    live.must("check");
    live.quit();
}

#[test]
fn a_step_at_the_wrong_time_changes_nothing() {
    for mut live in [plain(), freezable()] {
        let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
        let plugin = Plugin { run_dir: &run_dir };
        for action in ["checkpoint", "restore", "unlock"] {
            let (code, text) = plugin.run(&["--action", action, "--pid", &pid]);
            assert_eq!(code, ILLEGAL_STATE, "{action}: {text}");
            assert!(
                text.contains(&format!("{action} process ID {pid}: ")),
                "{text}"
            );
        }
        plugin.act("lock", live.pid());
        let (code, _) = plugin.run(&["--action", "lock", "--pid", &pid]);
        assert_eq!(code, ILLEGAL_STATE);
        plugin.act("unlock", live.pid());
        live.must("check");
        live.quit();
    }
}

#[test]
fn a_lock_that_takes_too_long_leaves_the_process_as_it_was() {
    for (mut live, expected) in [(plain(), NOT_READY), (freezable(), UNKNOWN)] {
        let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
        let plugin = Plugin { run_dir: &run_dir };
        live.must("busy");
        let lock = ["--action", "lock", "--pid", &pid, "-t", "200"];
        let (code, text) = plugin.run(&lock);
        assert_eq!(code, expected, "{text}");
        assert!(
            text.starts_with("Could not") && text.lines().count() == 1,
            "{text}"
        );
        assert_eq!(plugin.state(live.pid()), "running");
        live.must("idle");
        live.must("check");
        live.quit();
    }
}

#[test]
fn a_folder_that_is_not_there_leaves_the_process_as_it_was() {
    let mut live = freezable();
    let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
    fs::remove_dir(live.scratch().join("snapshots")).unwrap();
    let plugin = Plugin { run_dir: &run_dir };
    let (code, text) = plugin.run(&["--action", "lock", "--pid", &pid]);
    assert_eq!(code, UNKNOWN, "{text}");
    assert!(text.contains(&format!("freeze process ID {pid}")), "{text}");
    assert_eq!(
        (live.state().as_str(), &*plugin.state(live.pid())),
        ("active", "running")
    );
    live.must("check");
    live.quit();
}

/// The driver's lock fails after the freeze.
#[test]
fn what_was_frozen_for_nothing_is_thawed() {
    let mut live = freezable();
    let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
    let plugin = Plugin { run_dir: &run_dir };
    let mut lock = plugin.command(&["--action", "lock", "--pid", &pid]);
    let (code, text) = printed(refusing(&mut lock, "cuCheckpointProcessLock=304"));
    assert_eq!(code, 304 % 256, "{text}");
    assert_eq!(
        (live.state().as_str(), snapshots(&live).len()),
        ("active", 0)
    );
    live.must("check");
    live.quit();
}

/// CRIU kills a lock that takes longer than its own time limit, and unlocks.
#[test]
fn an_unlock_thaws_what_a_killed_lock_freezes() {
    let mut live = freezable();
    let (pid, run_dir) = (live.pid().to_string(), live.scratch().join("run"));
    let plugin = Plugin { run_dir: &run_dir };
    live.must("busy");
    let mut lock = plugin
        .command(&["--action", "lock", "--pid", &pid])
        .spawn()
        .unwrap();
    while live.state() != "freezing" {
        std::thread::sleep(Duration::from_millis(5));
    }
    lock.kill().unwrap();
    lock.wait().unwrap();
    let (code, _) = plugin.run(&["--action", "unlock", "--pid", &pid]);
    assert_eq!(code, ILLEGAL_STATE);
    live.must("idle");
    // The freeze comes to its end first.
    while snapshots(&live)
        .iter()
        .all(|one| !one.join("manifest.json").exists())
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    becomes_active(&live);
    live.must("check");
    live.quit();
}

#[test]
fn what_somebody_else_froze_stays_frozen() {
    let mut live = freezable();
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    live.freeze(&[]);
    let stopped = dump(&plugin, &live);
    resume(&plugin, &live, stopped);
    assert_eq!(snapshots(&live).len(), 0);
    assert_eq!(live.settled(), "frozen");
    live.thaw(&[]);
    live.must("check");
    live.quit();
}

#[test]
fn any_thread_stands_for_its_process() {
    let mut live = freezable();
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    let thread = plugin.restore_thread(live.pid()).unwrap();
    assert_ne!(thread, live.pid());
    let threads = fs::read_dir(format!("/proc/{}/task", live.pid())).unwrap();
    for entry in threads {
        let tid = entry
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(plugin.state(tid), "running");
        assert_eq!(plugin.restore_thread(tid), Some(thread));
    }
    plugin.act("lock", thread);
    assert_eq!(plugin.state(live.pid()), "locked");
    assert_eq!(live.state(), "frozen");
    plugin.act("unlock", thread);
    becomes_active(&live);
    live.must("check");
    live.quit();
}
