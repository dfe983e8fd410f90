//! Plain CRIU with plugins: its own CUDA plugin with `cuda-checkpoint`, and
//! `rewarm_pages.so`, which starts the page server.

mod common;

use common::cli::{rewarm, text};
use common::live::{Live, Sleeper};
use common::plugin::{becomes_active, freezable, plain, snapshots};
use common::plugins::{Plugins, cuda_plugin_or_skip};
use common::{criu, until};
use std::fs;
use std::path::{Path, PathBuf};

const OPTIONS: [&str; 2] = ["--shell-job", "--file-locks"];

fn images(live: &Live) -> PathBuf {
    live.scratch().join("images")
}

fn log_of(live: &Live, name: &str) -> String {
    fs::read_to_string(images(live).join(name)).unwrap_or_default()
}

/// CRIU dumps it, and its plugins do their part.
#[track_caller]
fn dump(live: &mut Live, plugins: &Plugins) {
    criu::adopt();
    let _ = fs::remove_dir_all(images(live));
    fs::create_dir(images(live)).expect("it is our folder");
    let pid = live.pid().to_string();
    let options = [&["--tree", &pid], &OPTIONS[..]].concat();
    let dumped = criu::act("dump", &images(live), &options, Some(plugins));
    dumped.unwrap_or_else(|why| live.fail(&why));
    live.is_gone();
}

fn try_restore(live: &Live, plugins: &Plugins) -> Result<(), String> {
    let options = [&OPTIONS[..], &["--restore-detached"]].concat();
    criu::act("restore", &images(live), &options, Some(plugins))
}

#[track_caller]
fn restore(live: &mut Live, plugins: &Plugins) {
    let restored = try_restore(live, plugins);
    restored.unwrap_or_else(|why| live.fail(&why));
    live.is_back();
}

/// Whether pages can come later here; if not, says so.
fn can_serve() -> bool {
    let can = rewarm::criu::pages::can_serve();
    if let Err(why) = &can {
        eprintln!("SKIPPED, as pages cannot come later here: {why}");
    }
    can.is_ok()
}

#[test]
fn a_process_without_rewarm_comes_back_by_plain_criu() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    let mut live = plain();
    let plugins = Plugins::with_cuda(live.scratch(), &cuda);
    let used = live.used();
    for seed in 1..=3 {
        dump(&mut live, &plugins);
        let log = log_of(&live, "dump.log");
        assert!(log.contains("Checkpointing CUDA devices"), "{log}");
        restore(&mut live, &plugins);
        assert_eq!(live.used(), used);
        live.must("check");
        live.must(&format!("touch 3 {seed}"));
    }
    live.quit();
}

#[test]
fn device_memory_of_a_freezable_process_is_not_in_criu_s_images() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    let mut live = freezable();
    let plugins = Plugins::with_cuda(live.scratch(), &cuda);
    for round in 1..=2 {
        dump(&mut live, &plugins);
        assert_eq!(snapshots(&live).len(), round, "it was frozen");
        restore(&mut live, &plugins);
        becomes_active(&live);
        live.must("check");
        live.must("touch 3 7");
    }
    live.quit();
}

#[test]
fn a_dump_that_fails_leaves_the_process_as_it_was() {
    let Some(cuda) = cuda_plugin_or_skip() else {
        return;
    };
    let mut live = freezable();
    let plugins = Plugins::with_cuda(live.scratch(), &cuda);
    fs::create_dir(images(&live)).expect("it is our folder");
    let pid = live.pid().to_string();
    let used = live.used();
    // A file that is open and gone, larger than CRIU may take along.
    live.must("check");
    let options = ["--tree", &pid];
    let dumped = criu::act("dump", &images(&live), &options, Some(&plugins));
    assert!(dumped.is_err(), "it is no leader of a session");
    becomes_active(&live);
    assert_eq!(live.used(), used);
    live.must("check");
    live.quit();
}

/// A program that is dumped by CRIU, and the plugin of pages alone.
fn dumped() -> Option<(Live, Plugins)> {
    criu::criu_or_skip()?;
    if !can_serve() {
        return None;
    }
    let mut live = plain();
    let plugins = Plugins::new(live.scratch());
    dump(&mut live, &plugins);
    Some((live, plugins))
}

fn is_there(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Page servers for the images of a test.
fn servers(live: &Live) -> Vec<String> {
    let folder = images(live);
    let is_server = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        arguments.contains("page-server") && arguments.contains(text(&folder))
    };
    let found = rewarm::proc::numbers_in("/proc").into_iter();
    let found = found.filter(is_server).map(|pid| pid.to_string());
    found.filter(|pid| is_there(pid)).collect()
}

#[test]
fn pages_come_later_though_nobody_gave_the_option() {
    let Some((mut live, plugins)) = dumped() else {
        return;
    };
    restore(&mut live, &plugins);
    live.must("check");
    until("all is in place", || servers(&live).is_empty());
    let log = log_of(&live, "rewarm-pages.log");
    assert!(log.contains("\nin place: "), "{log}");
    live.quit();
}

#[test]
fn images_that_continue_others_are_left_to_criu() {
    let Some((mut live, plugins)) = dumped() else {
        return;
    };
    fs::create_dir(live.scratch().join("before")).expect("it is our folder");
    let link = images(&live).join("parent");
    std::os::unix::fs::symlink("../before", link).expect("it is our folder");
    restore(&mut live, &plugins);
    live.must("check");
    let log = log_of(&live, "restore.log");
    assert!(log.contains("continue those of another dump"), "{log}");
    live.quit();
}

#[test]
fn a_server_for_a_process_that_asks_for_no_pages_ends_with_it() {
    let Some((mut live, plugins)) = dumped() else {
        return;
    };
    let process = Sleeper::start();
    let folder = images(&live);
    let log = live.scratch().join("log of the server");
    let output = rewarm(&["page-server", "--images", text(&folder), "--detach"])
        .args(["--for-pid", &process.pid(), "--log", text(&log)])
        .output()
        .expect("rewarm starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let socket = folder.join("lazy-pages.socket");
    assert_eq!(said, format!("listening on {}\n", socket.display()));
    assert!(socket.exists());
    drop(process);
    until("it has ended", || servers(&live).is_empty());
    let said = fs::read_to_string(&log).expect("it has a log");
    assert!(said.ends_with("nobody asked for pages\n"), "{said}");
    assert!(!socket.exists());
    let output = rewarm(&["page-server", "--images", text(&folder), "--detach"])
        .args(["--for-pid", "1999999999"])
        .output()
        .expect("rewarm starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot watch process 1999999999"), "{said}");
    restore(&mut live, &plugins);
    live.quit();
}

#[test]
fn the_server_is_given_nothing_of_criu_s() {
    let Some((mut live, plugins)) = dumped() else {
        return;
    };
    let list = live.scratch().join("descriptors");
    let list = text(&list).to_owned();
    plugins.instead_of_rewarm(&format!(
        "ls /proc/self/fd >'{list}'\nexec \"$rewarm\" \"$@\""
    ));
    restore(&mut live, &plugins);
    // The last is that of the folder.
    let list = fs::read_to_string(list).expect("the script ran");
    assert_eq!(list, "0\n1\n2\n3\n");
    live.must("check");
    live.quit();
}

#[test]
fn without_its_program_the_plugin_ends_the_restore_and_says_what_to_do() {
    let Some((mut live, plugins)) = dumped() else {
        return;
    };
    let beside = plugins.folder().join("rewarm");
    fs::remove_file(&beside).expect("there is a link");
    let why = try_restore(&live, &plugins).expect_err("it is not there");
    for words in ["rewarm", "beside rewarm_pages.so or on PATH"] {
        assert!(why.contains(words), "{why}");
    }
    // One that cannot serve.
    fs::write(&beside, "").expect("it is our folder");
    plugins.instead_of_rewarm("echo 'no userfaultfd today' >&2; exit 1");
    let why = try_restore(&live, &plugins).expect_err("it cannot serve");
    for words in [
        "no userfaultfd today",
        "rewarm_pages.so out of CRIU's libdir",
    ] {
        assert!(why.contains(words), "{why}");
    }
    // Where packages put it.
    fs::remove_file(&beside).expect("there is a script");
    let packaged = Path::new(env!("CARGO_BIN_EXE_rewarm"));
    let lib = live.scratch().join("usr/lib/rewarm");
    let bin = live.scratch().join("usr/bin");
    fs::create_dir_all(&lib).expect("it is our folder");
    fs::create_dir_all(&bin).expect("it is our folder");
    std::os::unix::fs::symlink(packaged, bin.join("rewarm")).expect("it is our folder");
    let library = plugins.folder().join("rewarm_pages.so");
    fs::rename(&library, lib.join("rewarm_pages.so")).expect("it is our folder");
    std::os::unix::fs::symlink(lib.join("rewarm_pages.so"), &library).expect("it is our folder");
    restore(&mut live, &plugins);
    live.must("check");
    live.quit();
}
