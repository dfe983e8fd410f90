//! `rewarm freeze` and `rewarm thaw`, against stand-ins for processes that can be
//! frozen, and against processes that cannot.

mod common;

use common::cli::{documented, json, refused, rewarm, stderr};
use common::standin::{RunDir, Standin};
use common::{Link, app, libraries};
use rewarm::control::State;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};

/// A process, of no interest but for its pid.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(Sleeper::command().spawn().unwrap())
    }

    fn command() -> Command {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        command
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Children of this process that answer: this process is the root of their tree.
struct Tree {
    run_dir: RunDir,
    sleepers: Vec<Sleeper>,
    standins: Vec<Standin>,
}

impl Tree {
    fn new(members: usize) -> Tree {
        let run_dir = RunDir::new();
        let begin = |_| {
            let (standin, child) = Standin::inside(&run_dir, &mut Sleeper::command(), &[]);
            (standin, Sleeper(child))
        };
        let (standins, sleepers) = (0..members).map(begin).unzip();
        Tree {
            run_dir,
            sleepers,
            standins,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = rewarm(arguments);
        command.env("REWARM_RUN_DIR", &self.run_dir.0);
        command
    }

    fn pid(&self, member: usize) -> String {
        self.sleepers[member].pid().to_string()
    }

    fn states(&self) -> Vec<State> {
        self.standins.iter().map(Standin::state).collect()
    }
}

fn own_pid() -> String {
    std::process::id().to_string()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_process_is_frozen_and_thawed_and_each_told_in_a_line() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    let output = tree
        .command(&["freeze", "--pid", &pid, "--to", "here/snapshot"])
        .args(["--drain", "2.5", "--budget", "20G"])
        .current_dir("/tmp")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr(&output), "", "no bar without a terminal");
    assert_eq!(
        stdout(&output),
        format!(
            "process {pid}: frozen: 3.22 GB in 0.50 s (6.4 GB/s); snapshot /tmp/here/snapshot; GPU memory given back\n"
        )
    );
    let asked = json!({
        "version": 1, "request": "freeze", "to": "/tmp/here/snapshot",
        "drain_seconds": 2.5, "budget_bytes": 20u64 << 30,
    });
    assert_eq!(tree.standins[0].asked("freeze"), [asked]);

    let output = tree
        .command(&["thaw", "--pid", &pid, "--from", "/moved", "--no-verify"])
        .args(["--wait", "--keep-snapshot", "--order", "smallest"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("thawed: 3.22 GB"), "{output:?}");
    let asked = json!({
        "version": 1, "request": "thaw", "from": "/moved", "keep_snapshot": true,
        "verify": false, "wait_seconds": 1e9, "order": "smallest",
    });
    assert_eq!(tree.standins[0].asked("thaw"), [asked]);
}

#[test]
fn what_is_asked_by_default() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    json(&mut tree.command(&[
        "freeze",
        "--pid",
        &pid,
        "--to",
        "/nonexistent/s",
        "--prepare",
        "--json",
    ]));
    assert_eq!(tree.states(), [State::Active], "only prepared");
    assert_eq!(
        tree.standins[0].asked("prepare"),
        [json!({"version": 1, "request": "prepare", "to": "/nonexistent/s"})]
    );
    json(&mut tree.command(&["freeze", "--pid", &pid, "--to", "/nonexistent/s", "--json"]));
    assert_eq!(tree.standins[0].asked("freeze")[0]["drain_seconds"], 10.0);
    assert_eq!(
        tree.standins[0].asked("freeze")[0]["budget_bytes"],
        Value::Null
    );
    json(&mut tree.command(&["thaw", "--pid", &pid, "--wait=1.5", "--json"]));
    let asked = json!({
        "version": 1, "request": "thaw", "from": null, "keep_snapshot": false,
        "verify": true, "wait_seconds": 1.5, "order": "largest",
    });
    assert_eq!(tree.standins[0].asked("thaw"), [asked]);
}

#[test]
fn the_keys_of_json_are_explained() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    for arguments in [
        &["freeze", "--to", "/nonexistent/s", "--prepare"][..],
        &["freeze", "--to", "/nonexistent/s"],
        &["thaw"],
    ] {
        let one = json(tree.command(arguments).args(["--pid", &pid, "--json"]));
        assert_eq!(one["version"], 1);
        assert_eq!(one["pid"].to_string(), pid);
        assert_eq!(one["snapshot"], "/nonexistent/s");
        documented(&one, "docs/sleep.md", "## Keys");
    }
}

#[test]
fn a_tree_is_frozen_and_thawed_together() {
    let tree = Tree::new(3);
    let freeze = [
        "freeze",
        "--pid",
        &own_pid(),
        "--tree",
        "--to",
        "/nonexistent/s",
    ];
    let told = json(tree.command(&freeze).arg("--json"));
    assert_eq!(tree.states(), [State::Frozen; 3]);
    for member in 0..3 {
        let folder = format!("/nonexistent/s/{}", tree.pid(member));
        assert_eq!(tree.standins[member].asked("freeze")[0]["to"], *folder);
        let pids = told["processes"].as_array().unwrap().iter();
        let mut pids = pids.map(|process| process["pid"].to_string());
        assert!(pids.any(|pid| pid == tree.pid(member)), "{told}");
    }
    let thaw = ["thaw", "--pid", &own_pid(), "--tree", "--from", "/t"];
    let output = tree.command(&thaw).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output).lines().count(), 3);
    assert_eq!(tree.states(), [State::Active; 3]);
    let folder = format!("/t/{}", tree.pid(1));
    assert_eq!(tree.standins[1].asked("thaw")[0]["from"], *folder);
}

#[test]
fn a_large_tree_is_frozen_and_thawed_together() {
    let tree = Tree::new(200);
    let pid = own_pid();
    let freeze = [
        "freeze",
        "--pid",
        &pid,
        "--tree",
        "--to",
        "/nonexistent/s",
        "--json",
    ];
    for arguments in [&freeze[..], &["thaw", "--pid", &pid, "--tree", "--json"]] {
        let told = json(&mut tree.command(arguments));
        assert_eq!(told["processes"].as_array().unwrap().len(), 200);
    }
    assert_eq!(tree.states(), [State::Active; 200]);
}

#[test]
fn if_one_of_a_tree_cannot_be_frozen_the_others_run_again() {
    let tree = Tree::new(3);
    tree.standins[1].refuse("freeze", "a stream does not drain");
    let message = refused(
        &mut tree.command(&[
            "freeze",
            "--pid",
            &own_pid(),
            "--tree",
            "--to",
            "/nonexistent/s",
        ]),
        1,
        &[
            "1 of 3 processes could not be frozen",
            "a stream does not drain; it runs as before",
        ],
    );
    assert!(message.contains(&format!("process {} refused", tree.pid(1))));
    for member in [0, 2] {
        let again = format!("process {} was frozen, and runs again", tree.pid(member));
        assert!(message.contains(&again), "{message}");
        assert_eq!(tree.standins[member].asked("thaw").len(), 1);
    }
    assert_eq!(tree.states(), [State::Active; 3]);
}

#[test]
fn one_that_cannot_be_thawed_again_is_named_with_its_snapshot() {
    let tree = Tree::new(2);
    tree.standins[0].refuse("freeze", "no space left");
    tree.standins[1].refuse("thaw", "3 GiB of GPU memory are missing");
    let place = format!(
        "it is frozen, its snapshot is in /nonexistent/s/{}",
        tree.pid(1)
    );
    refused(
        &mut tree.command(&[
            "freeze",
            "--pid",
            &own_pid(),
            "--tree",
            "--to",
            "/nonexistent/s",
        ]),
        1,
        &["no space left", "3 GiB of GPU memory are missing", &place],
    );
    assert_eq!(tree.states(), [State::Active, State::Frozen]);
}

#[test]
fn of_a_tree_all_are_thawed_that_can_be() {
    let tree = Tree::new(3);
    let pid = own_pid();
    json(&mut tree.command(&[
        "freeze",
        "--pid",
        &pid,
        "--tree",
        "--to",
        "/nonexistent/s",
        "--json",
    ]));
    tree.standins[2].refuse("thaw", "chunk 7 is corrupt");
    let output = tree
        .command(&["thaw", "--pid", &pid, "--tree"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let place = format!(
        "it is frozen, its snapshot is in /nonexistent/s/{}",
        tree.pid(2)
    );
    assert!(stderr(&output).contains("chunk 7 is corrupt"), "{output:?}");
    assert!(stderr(&output).contains(&place), "{output:?}");
    assert_eq!(stdout(&output).matches("thawed:").count(), 2);
    assert_eq!(tree.states(), [State::Active, State::Active, State::Frozen]);
    // Again, when it can be: only the one that is left.
    tree.standins[2].0.lock().refusals.clear();
    let told = json(&mut tree.command(&["thaw", "--pid", &pid, "--tree", "--json"]));
    assert_eq!(told["processes"].as_array().unwrap().len(), 1);
    assert_eq!(tree.standins[0].asked("thaw").len(), 1);
}

#[test]
fn one_that_cannot_be_frozen_keeps_its_tree_untouched() {
    let tree = Tree::new(2);
    tree.standins[1].0.lock().report.memory.freezable = false;
    let words = ["was not started with --freezable", &tree.pid(1)];
    let mut command = tree.command(&[
        "freeze",
        "--pid",
        &own_pid(),
        "--tree",
        "--to",
        "/nonexistent/s",
    ]);
    refused(&mut command, 1, &words);
    assert_eq!(tree.standins[0].asked("freeze").len(), 0);
}

#[test]
fn states_that_do_not_fit_are_told_with_what_to_do() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    let freeze = ["freeze", "--pid", &pid, "--to", "/nonexistent/s"];
    let thaw = ["thaw", "--pid", &pid];
    refused(&mut tree.command(&thaw), 1, &["is not frozen"]);
    let words = ["neither process", "is frozen"];
    refused(tree.command(&thaw).arg("--tree"), 1, &words);
    json(tree.command(&freeze).arg("--json"));
    let words = [
        "is frozen already",
        "is in /nonexistent/s",
        "rewarm thaw --pid",
    ];
    refused(&mut tree.command(&freeze), 1, &words);
    tree.standins[0].0.lock().report.state = State::Thawing;
    refused(&mut tree.command(&freeze), 1, &["under way"]);
    refused(&mut tree.command(&thaw), 1, &["just now"]);
}

#[test]
fn what_the_process_refuses_is_told_with_what_holds() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    tree.standins[0].refuse("freeze", "managed memory cannot be frozen");
    tree.standins[0].refuse("prepare", "no space left in /nonexistent/s");
    let words = ["managed memory cannot be frozen", "it runs as before"];
    let freeze = ["freeze", "--pid", &pid, "--to", "/nonexistent/s"];
    refused(&mut tree.command(&freeze), 1, &words);
    refused(
        tree.command(&freeze).arg("--prepare"),
        1,
        &["no space left in /nonexistent/s"],
    );
}

#[test]
fn processes_without_rewarm_are_told_apart() {
    let run_dir = RunDir::new();
    let sleeper = Sleeper::new();
    let plain = sleeper.pid().to_string();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let ended = ended.id().to_string();
    for arguments in [&["freeze", "--to", "/nonexistent/s"][..], &["thaw"]] {
        let command = |pid: &str| {
            let mut command = rewarm(arguments);
            command.env("REWARM_RUN_DIR", &run_dir.0);
            command.args(["--pid", pid]);
            command
        };
        refused(&mut command(&plain), 1, &["runs without rewarm"]);
        refused(&mut command(&ended), 1, &["there is no process"]);
        let words = ["nor a descendant of it uses CUDA under rewarm"];
        refused(command(&plain).arg("--tree"), 1, &words);
    }
}

#[test]
fn what_a_process_says_does_not_command_the_terminal() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    tree.standins[0].refuse("freeze", "\u{1b}]0;title\u{7}no");
    let mut command = tree.command(&["freeze", "--pid", &pid, "--to", "/nonexistent/s"]);
    let message = refused(&mut command, 1, &["]0;title"]);
    assert!(!message.contains('\u{7}'), "{message:?}");
}

#[test]
fn one_that_has_ended_is_told_before_its_parent_has_asked() {
    let ended = Command::new("true").spawn().unwrap();
    // SAFETY: a structure of numbers, and our own child, which stays to be reaped.
    unsafe {
        let mut end: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOWAIT;
        assert_eq!(
            libc::waitid(libc::P_PID, ended.id(), &raw mut end, options),
            0
        );
    }
    let ended = Sleeper(ended);
    let pid = ended.pid().to_string();
    refused(&mut rewarm(&["thaw", "--pid", &pid]), 1, &["has ended"]);
}

/// Whether this is root, who alone can be another user.
fn is_root(what: &str) -> bool {
    // SAFETY: has no requirements.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        println!("not checked, as this is not root: {what}");
    }
    is_root
}

const ANOTHER_USER: u32 = 54_321;

#[test]
fn another_users_folder_is_not_asked() {
    if !is_root("sockets in another user's folder") {
        return;
    }
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    chown(&tree.run_dir.0, Some(ANOTHER_USER), None).unwrap();
    let mut command = tree.command(&["freeze", "--pid", &pid, "--to", "/nonexistent/s"]);
    refused(&mut command, 1, &["runs without rewarm"]);
    assert!(tree.standins[0].0.lock().asked.is_empty());
}

#[test]
fn the_folder_of_a_tree_is_its_users() {
    if !is_root("a tree of another user") {
        return;
    }
    let run_dir = RunDir::new();
    chown(&run_dir.0, Some(ANOTHER_USER), None).unwrap();
    let mut command = Sleeper::command();
    let (standin, child) = Standin::inside(&run_dir, command.uid(ANOTHER_USER), &[]);
    let sleeper = Sleeper(child);
    let pid = sleeper.pid().to_string();
    let folder = run_dir.0.join("snapshots");
    let freeze = |command: &mut Command| {
        command.env("REWARM_RUN_DIR", &run_dir.0);
        command.args(["--tree", "--pid", &pid, "--to"]).arg(&folder);
        json(command.arg("--json"))
    };
    freeze(&mut rewarm(&["freeze"]));
    let made = std::fs::metadata(&folder).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o777), (ANOTHER_USER, 0o700));
    assert_eq!(standin.state(), State::Frozen);
}

#[test]
fn wrong_options_are_told_before_anything_is_done() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    for wrong in [
        &["freeze", "--pid", &pid][..],
        &["freeze", "--to", "/nonexistent/s"],
        &["freeze", "--pid", &pid, "--to", ""],
        &["freeze", "--pid", "x", "--to", "/nonexistent/s"],
        &[
            "freeze",
            "--pid",
            &pid,
            "--to",
            "/nonexistent/s",
            "--budget",
            "many",
        ],
        &[
            "freeze",
            "--pid",
            &pid,
            "--to",
            "/nonexistent/s",
            "--budget",
            "0",
        ],
        &[
            "freeze",
            "--pid",
            &pid,
            "--to",
            "/nonexistent/s",
            "--drain=-1",
        ],
        &[
            "freeze",
            "--pid",
            &pid,
            "--to",
            "/nonexistent/s",
            "--drain",
            "nan",
        ],
        &[
            "freeze",
            "--pid",
            &pid,
            "--to",
            "/nonexistent/s",
            "--prepare",
            "--budget",
            "1G",
        ],
        &["thaw", "--pid", &pid, "--wait=inf"],
        &["thaw", "--pid", &pid, "--order", "random"],
        &["thaw", "--pid", &pid, "--from", ""],
    ] {
        refused(&mut tree.command(wrong), 2, &[]);
    }
    assert!(tree.standins[0].0.lock().asked.is_empty());
}

#[test]
fn whoever_interrupts_is_told_that_the_process_goes_on() {
    let tree = Tree::new(1);
    let pid = tree.pid(0);
    let asked = tree.standins[0].leave_unanswered("freeze");
    let child = tree
        .command(&["freeze", "--pid", &pid, "--to", "/nonexistent/s"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    asked.recv().unwrap();
    // SAFETY: our own child.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGINT));
    let said = stderr(&output);
    assert!(said.contains("goes on with what was begun"), "{said}");
}

/// A shell that has started a program under rewarm, which waits.
struct Holding(Child);

impl Holding {
    fn start(run_dir: &RunDir, options: &[&str], script: &str) -> Holding {
        let mut child = rewarm(&["run", "--sim"])
            .args(options)
            .args(["--", "sh", "-c", script])
            .arg(app("holds", Link::Dlopen))
            .env("REWARM_LIB_DIR", libraries())
            .env("REWARM_RUN_DIR", &run_dir.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Holding(child)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn processes_under_rewarm_that_cannot_be_frozen_are_told_apart() {
    let run_dir = RunDir::new();
    let command = |arguments: &[&str], pid: u32| {
        let mut command = rewarm(arguments);
        command.args(["--pid", &pid.to_string()]);
        command
    };
    let freeze = ["freeze", "--to", "/nonexistent/snapshot"];
    let inert = Holding::start(&run_dir, &["--freezable"], "echo ready; read -r line");
    refused(
        &mut command(&freeze, inert.0.id()),
        1,
        &["has not used CUDA yet"],
    );
    // Found by its own environment, and below the shell by its parent.
    let holding = Holding::start(&run_dir, &[], "\"$0\" 33554432; true");
    let shell = holding.0.id();
    let words = ["was not started with --freezable", "rewarm run --freezable"];
    let message = refused(command(&freeze, shell).arg("--tree"), 1, &words);
    assert!(!message.contains(&format!("process {shell} ")), "{message}");
    let words = ["nor a descendant of it is frozen"];
    refused(command(&["thaw"], shell).arg("--tree"), 1, &words);
}
