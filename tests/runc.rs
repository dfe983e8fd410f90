//! Containers of an unmodified runc: their processes are reached from this machine,
//! and are checkpointed and restored by CRIU with plugins, as `runc` does it.

mod common;

use common::cli::{self, text};
use common::pages::commands;
use common::plugin::{Plugin, becomes_active, freezable};
use common::plugins::cuda_plugin_or_skip;
use common::runc::{Container, SNAPSHOTS, Wanted, runc_or_skip};
use common::{Link, Run, app, criu, until};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Snapshots of a container's program, as they are seen from here.
fn snapshots(container: &Container) -> usize {
    let entries = fs::read_dir(container.file("snapshots"));
    entries.expect("it is our folder").count()
}

/// The page server has done its part, if it can here.
#[track_caller]
fn pages_came_later(container: &Container) {
    if rewarm::criu::pages::can_serve().is_ok() {
        let log = container.file("work/rewarm-pages.log");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        until("all pages are in place", || said().contains("in place: "));
    }
}

#[test]
fn runc_checkpoints_and_restores_a_program_that_can_be_frozen() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    if !runc_or_skip() {
        return;
    }
    let wanted = Wanted {
        rewarmed: true,
        ..Wanted::default()
    };
    let mut container = Container::start(&wanted, Some(&cuda));
    for round in 1..=2 {
        container.live.must(&format!("touch 3 {round}"));
        container.checkpoint();
        assert_eq!(snapshots(&container), round, "its device memory was frozen");
        container.restore();
        becomes_active(&container.live);
        container.live.must("check");
        pages_came_later(&container);
    }
    container.quit();
}

#[test]
fn runc_checkpoints_and_restores_a_program_without_rewarm() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    if !runc_or_skip() {
        return;
    }
    let mut container = Container::start(&Wanted::default(), Some(&cuda));
    container.live.must("touch 3 1");
    container.checkpoint();
    // As often as wanted.
    for _ in 0..2 {
        container.restore();
        container.live.must("check");
        pages_came_later(&container);
        container.live.signal(libc::SIGKILL);
        container.live.is_gone();
        container.delete();
    }
}

#[test]
fn the_example_sets_a_bundle_up_and_undoes_it() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    if !runc_or_skip() {
        return;
    }
    let wanted = Wanted {
        by_example: true,
        ..Wanted::default()
    };
    let mut container = Container::start(&wanted, Some(&cuda));
    let own = container.file("bundle/rewarm");
    let before = fs::read(own.join("config.json.before")).expect("it was kept");
    assert_eq!(container.live.state(), "active");
    container.checkpoint();
    let frozen = fs::read_dir(own.join("snapshots")).expect("it was made");
    assert_eq!(frozen.count(), 1, "its device memory was frozen");
    container.restore();
    becomes_active(&container.live);
    container.live.must("check");
    pages_came_later(&container);

    let again = container.example("set-up");
    assert!(cli::stderr(&again).contains("undo the set-up"), "{again:?}");
    let early = container.example("undo");
    assert!(cli::stderr(&early).contains("images need"), "{early:?}");
    fs::remove_dir_all(own.join("snapshots")).expect("it is our folder");
    fs::create_dir(own.join("snapshots")).expect("it is our folder");
    let undone = container.example("undo");
    assert!(undone.status.success(), "{undone:?}");
    assert!(!own.exists());
    let after = fs::read(container.file("bundle/config.json"));
    assert_eq!(after.expect("it is there"), before);
    container.quit();
}

#[test]
fn the_page_says_what_works() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    if !runc_or_skip() {
        return;
    }
    let [start, checkpoint, restore, end] = &commands("docs/runc.md")[..] else {
        panic!("docs/runc.md has other commands than this test knows");
    };
    let mut container = Container::start_typed(start, &cuda);
    let own = container.file("bundle/rewarm");
    assert_eq!(container.live.state(), "active");
    container.live.must("touch 3 7");
    container.end_typed(checkpoint);
    let frozen = fs::read_dir(own.join("snapshots")).expect("it was made");
    assert_eq!(frozen.count(), 1, "its device memory was frozen");
    container.restore_typed(restore);
    becomes_active(&container.live);
    container.live.must("check");
    container.end_typed(end);
    assert!(!own.exists(), "the page ends with undo");
}

/// No program goes on with pages that are missing.
#[test]
fn a_page_server_that_is_killed_takes_the_container_with_it() {
    if criu::criu_or_skip().is_none() || !runc_or_skip() {
        return;
    }
    if let Err(why) = rewarm::criu::pages::can_serve() {
        eprintln!("SKIPPED, as pages cannot come later here: {why}");
        return;
    }
    let mut container = Container::start(&Wanted::default(), None);
    container.live.must("touch 3 7");
    container.checkpoint();
    // Both of its processes stand still as soon as it listens: no page comes.
    container.instead_of_rewarm(
        "\"$rewarm\" \"$@\" || exit
found=
for process in /proc/[0-9]*; do
    words=$(tr '\\0' ' ' <\"$process/cmdline\" 2>/dev/null) || continue
    case ${process#/proc/}:$words in $$:*) ;; *\"--detach --or-read-ahead\"*\"--for-pid $PPID \"*) found=\"$found ${process#/proc/}\" ;; esac
done
kill -STOP $found
(sleep 1; kill -KILL $found) >/dev/null 2>&1 </dev/null &",
    );
    let succeeded = container.try_restore();
    until("it is dead", || {
        !["running", "created"].contains(&container.status().as_str())
    });
    eprintln!("runc restore succeeded: {succeeded}");
    // And so is nobody else's: the next restore has a server of its own.
    container.delete();
    container.instead_of_rewarm("exec \"$rewarm\" \"$@\"");
    container.restore();
    container.live.must("check");
    container.quit();
}

/// What this machine's commands do with a container's program.
#[track_caller]
fn is_reached(mut container: Container) {
    let live = &mut container.live;
    let run_dir = live.scratch().join("run");
    let plugin = Plugin { run_dir: &run_dir };
    let pid = live.pid();
    assert_eq!(live.state(), "active");
    let used = live.used_by(1);

    // The folder is the container's.
    let into = format!("{SNAPSHOTS}/by hand");
    let number = pid.to_string();
    let freeze = ["freeze", "--pid", &number, "--to"];
    let relative = live.rewarm(&[&freeze[..], &["relative"]].concat()).output();
    assert_eq!(relative.expect("rewarm starts").status.code(), Some(2));
    let frozen = live.rewarm(&[&freeze[..], &[&into]].concat()).output();
    let frozen = frozen.expect("rewarm starts");
    assert!(frozen.status.success(), "{}", cli::stderr(&frozen));
    let snapshot = live.scratch().join("snapshots/by hand/manifest.json");
    assert!(snapshot.exists(), "{}", snapshot.display());
    assert_eq!((live.state().as_str(), live.used_by(1)), ("frozen", 0));
    live.thaw(&[]);
    assert!(!snapshot.exists(), "it is there no more");
    live.must("check");

    // As CRIU's plugin has it done.
    for _ in 0..2 {
        plugin.act("lock", pid);
        plugin.act("checkpoint", pid);
        assert_eq!(plugin.state(pid), "checkpointed");
        assert_eq!(live.used_by(1), 0);
        plugin.act("restore", pid);
        plugin.act("unlock", pid);
        becomes_active(live);
        assert_eq!(live.used_by(1), used);
        live.must("check");
    }
    let names = fs::read_dir(live.scratch().join("snapshots")).expect("it is our folder");
    let names: Vec<_> = names
        .map(|entry| entry.expect("it is there").file_name())
        .filter(|name| name != "by hand")
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // The process's own number.
    for name in names {
        assert!(text(Path::new(&name)).contains("-1-"), "{name:?}");
    }
    container.quit();
}

#[test]
fn a_program_in_namespaces_of_its_own_is_reached() {
    if criu::criu_or_skip().is_none() || !runc_or_skip() {
        return;
    }
    for run_dir in [None, Some("/links/rewarm"), Some("/run/a folder")] {
        let wanted = Wanted {
            rewarmed: true,
            run_dir,
            ..Wanted::default()
        };
        is_reached(Container::start(&wanted, None));
    }
}

#[test]
fn a_program_whose_users_are_others_is_reached() {
    const ROOT_OF_CONTAINER: u32 = 100_000;
    if criu::criu_or_skip().is_none() || !runc_or_skip() {
        return;
    }
    let run = Run::rewarmed(app("freeze", Link::Dlopen));
    if !run.can_be_run_by(ROOT_OF_CONTAINER) {
        eprintln!("SKIPPED: user {ROOT_OF_CONTAINER} cannot reach the programs of the tests");
        return;
    }
    let wanted = Wanted {
        rewarmed: true,
        root_is: Some(ROOT_OF_CONTAINER),
        ..Wanted::default()
    };
    is_reached(Container::start(&wanted, None));
}

#[test]
fn links_in_a_container_lead_to_nobody_else() {
    if criu::criu_or_skip().is_none() || !runc_or_skip() {
        return;
    }
    let other = freezable();
    let wanted = Wanted {
        rewarmed: true,
        ..Wanted::default()
    };
    let container = Container::start(&wanted, None);
    // Seen from the container, there is nothing of that name.
    let pid = container.live.pid();
    let folder = Path::new("/proc")
        .join(pid.to_string())
        .join("root/run/rewarm");
    let socket = folder.join("1.sock");
    let of_other = other
        .scratch()
        .join("run")
        .join(format!("{}.sock", other.pid()));
    fs::rename(&socket, folder.join("kept")).expect("we are root");
    symlink(&of_other, &socket).expect("we are root");
    let refused = |arguments: &[&str]| {
        let number = pid.to_string();
        let given = [&arguments[..1], &["--pid", &number], &arguments[1..]].concat();
        container
            .live
            .refused(container.live.rewarm(&given), &["does not listen"]);
    };
    refused(&["status"]);
    refused(&["freeze", "--to", "/snapshots/x"]);
    assert_eq!(other.state(), "active");
    fs::remove_file(&socket).expect("we are root");
    fs::rename(folder.join("kept"), &socket).expect("we are root");
    assert_eq!(container.live.state(), "active");
    container.quit();
    other.quit();
}
