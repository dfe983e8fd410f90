//! Standard input, output and error of programs that were checkpointed while these
//! led to others, by `rewarm checkpoint` and `rewarm restore` with a real CRIU.

mod common;

use common::cli::{self, text};
use common::live::ended;
use common::{Scratch, criu};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::ptr;

/// Says what it is told, to both.
const ECHO: &str = "while read line; do echo err $line >&2; echo out $line; done";

/// Reads its input when it is told so by other means.
const WAITS: &str = "
import os, sys
os.mkfifo('go')
go = os.open('go', os.O_RDWR)
os.write(1, b'begun\\n')
os.read(go, 1)
os.write(1, sys.stdin.read().encode())
";

/// A program whose input, output and error are pipes of this test.
struct Program {
    scratch: Scratch,
    child: Child,
    input: ChildStdin,
}

impl Program {
    fn start(interpreter: &str, script: &str) -> Program {
        criu::adopt();
        let scratch = Scratch::new();
        let mut command = Command::new(interpreter);
        command
            .args(["-c", script])
            .current_dir(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: system calls, after the fork.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                // Whoever started the tests may have left it something.
                let at_exec = libc::CLOSE_RANGE_CLOEXEC;
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, at_exec);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("the interpreter is there");
        let input = child.stdin.take().unwrap();
        Program {
            scratch,
            child,
            input,
        }
    }

    /// One that echoes, and has begun to.
    fn echo(before: &str) -> Program {
        Program::begun(&format!("{before} {ECHO}"))
    }

    fn begun(script: &str) -> Program {
        let mut program = Program::start("sh", script);
        writeln!(program.input, "1").unwrap();
        let mut output = BufReader::new(program.child.stdout.as_mut().unwrap());
        while line(&mut output) != "out 1" {}
        program
    }

    fn rewarm(&self, arguments: &[&str]) -> Command {
        let mut command = cli::rewarm(arguments);
        let criu = criu::can_checkpoint().expect("who has none skips");
        command
            .env("REWARM_CRIU", criu)
            .env("TMPDIR", self.scratch.path());
        command
    }

    fn folder(&self) -> PathBuf {
        self.scratch.file("checkpoint")
    }

    /// Ends it with a checkpoint, and everything that it wrote to. Returns what is
    /// said of it.
    #[track_caller]
    fn checkpoint(&mut self) -> String {
        let (pid, folder) = (self.child.id().to_string(), self.folder());
        let given = ["checkpoint", "--pid", &pid, "--tree", "--to", text(&folder)];
        let pids = criu::tree(self.child.id());
        let output = self.rewarm(&given).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        criu::gone(&pids);
        drop((self.child.stdout.take(), self.child.stderr.take()));
        cli::stderr(&output)
    }

    fn restoring(&self, options: &[&str]) -> Command {
        let folder = self.folder();
        let mut command = self.rewarm(&[&["restore", "--from", text(&folder)], options].concat());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(Stdio::piped());
        command
    }
}

#[track_caller]
fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_descriptors_of_the_restore_take_the_place_of_pipes() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    for (before, said) in [("", "err 2"), ("exec 2>&1;", "")] {
        let mut program = Program::echo(before);
        let notes = program.checkpoint();
        assert!(!notes.contains("pipe"), "{notes}");
        let mut restoring = program.restoring(&[]);
        let mut restoring = restoring.stdin(Stdio::piped()).spawn().unwrap();
        writeln!(restoring.stdin.take().unwrap(), "2").unwrap();
        // It has read all of its input, and ends.
        let output = ended(restoring);
        let told = succeeded(&output);
        assert!(told.contains("is restored") && told.contains("out 2\n"));
        assert_eq!(told.contains("err 2\n"), said.is_empty(), "{told}");
        assert_eq!(cli::stderr(&output).trim_end(), said);
    }
}

#[test]
fn pipes_within_the_tree_stay() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut program = Program::begun(&format!("cat | ({ECHO}) | cat; echo end"));
    program.checkpoint();
    for _ in 0..2 {
        let mut restoring = program.restoring(&[]);
        let mut restoring = restoring.stdin(Stdio::piped()).spawn().unwrap();
        restoring.stdin.take().unwrap().write_all(b"2\n").unwrap();
        let output = ended(restoring);
        let told = succeeded(&output);
        assert!(told.contains("out 2\n") && told.contains("end\n"), "{told}");
        assert_eq!(cli::stderr(&output), "err 2\n");
    }
}

#[test]
fn files_go_on_where_they_end_and_sockets_do_for_pipes() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    for append in [false, true] {
        let mut program = Program::echo("");
        program.checkpoint();
        let path = program.scratch.file("log");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"before\n").unwrap();
        if append {
            file = OpenOptions::new().append(true).open(&path).unwrap();
        }
        let (mut input, theirs) = UnixStream::pair().unwrap();
        let (error, errors) = UnixStream::pair().unwrap();
        let mut restoring = program.restoring(&[]);
        restoring.stdin(OwnedFd::from(theirs)).stdout(file);
        let child = restoring.stderr(OwnedFd::from(errors)).spawn().unwrap();
        drop(restoring);
        let mut error = BufReader::new(error);
        for text in ["2", "3"] {
            writeln!(input, "{text}").unwrap();
            assert_eq!(line(&mut error), format!("err {text}"));
        }
        input.shutdown(Shutdown::Write).unwrap();
        let status = ended(child).status;
        assert!(status.success(), "{status}");
        let log = fs::read_to_string(&path).unwrap();
        assert!(log.starts_with("before\n"), "{log}");
        let lines = ["out 2\n", "out 3\n", "is restored"];
        assert!(lines.iter().all(|one| log.contains(one)), "{log}");
        // Nobody is left who holds the socket.
        let mut rest = String::new();
        error.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

#[test]
fn what_goes_to_one_file_keeps_its_order() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut program = Program::echo("");
    program.checkpoint();
    let path = program.scratch.file("log");
    let log = File::create(&path).unwrap();
    let mut restoring = program.restoring(&[]);
    restoring.stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = restoring.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines = (2..200).map(|number| format!("{number}\n"));
    input
        .write_all(lines.collect::<String>().as_bytes())
        .unwrap();
    drop(input);
    let status = ended(child).status;
    assert!(status.success(), "{status}");
    let log = fs::read_to_string(&path).unwrap();
    let said = |line: &&str| line.starts_with("err ") || line.starts_with("out ");
    let found: Vec<_> = log.lines().filter(said).map(str::to_owned).collect();
    let echoed = |number| [format!("err {number}"), format!("out {number}")];
    assert_eq!(found, (2..200).flat_map(echoed).collect::<Vec<_>>());
}

/// Both ends of a terminal.
fn terminal() -> (File, OwnedFd) {
    let (mut own, mut theirs) = (0, 0);
    // SAFETY: two numbers are written, and nothing else is asked for; both are ours.
    unsafe {
        let (name, modes, size) = (ptr::null_mut(), ptr::null(), ptr::null());
        let done = libc::openpty(&raw mut own, &raw mut theirs, name, modes, size);
        assert_eq!(done, 0);
        (File::from_raw_fd(own), OwnedFd::from_raw_fd(theirs))
    }
}

#[test]
fn terminals_do_for_pipes_and_are_not_looked_for_later() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut program = Program::echo("");
    program.checkpoint();
    for number in [2, 3] {
        let (mut own, theirs) = terminal();
        let mut restoring = program.restoring(&[]);
        restoring
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs);
        let child = restoring.spawn().unwrap();
        drop(restoring);
        writeln!(own, "{number}").unwrap();
        let mut output = BufReader::new(own);
        let mut lines = Vec::new();
        while lines.last() != Some(&format!("out {number}")) {
            lines.push(line(&mut output));
        }
        assert!(lines.contains(&format!("err {number}")), "{lines:?}");
        fs::remove_dir_all(program.folder()).unwrap();
        program.checkpoint();
        assert_eq!(ended(child).status.code(), Some(128 + libc::SIGKILL));
    }
}

#[test]
fn json_stays_json_and_ends_with_the_restore() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut program = Program::echo("");
    program.checkpoint();
    let mut restoring = program.restoring(&["--detach", "--json"]);
    let mut restoring = restoring.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = restoring.stdin.take().unwrap();
    let mut error = BufReader::new(restoring.stderr.take().unwrap());
    writeln!(input, "2").unwrap();
    // The program lives on and has its output, which is not this one.
    let mut told = String::new();
    let mut output = restoring.stdout.take().unwrap();
    output.read_to_string(&mut told).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["pid"], program.child.id());
    assert!(restoring.wait().unwrap().success());
    writeln!(input, "3").unwrap();
    drop(input);
    let said: Vec<_> = error.by_ref().lines().map(Result::unwrap).collect();
    assert_eq!(said, ["err 2", "out 2", "err 3", "out 3"]);
    criu::gone(&[program.child.id()]);
}

#[test]
fn input_that_nobody_has_read_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut program = Program::start("python3", WAITS);
    let mut output = BufReader::new(program.child.stdout.as_mut().unwrap());
    assert_eq!(line(&mut output), "begun");
    writeln!(program.input, "unread").unwrap();
    let notes = program.checkpoint();
    assert!(notes.contains("(descriptors 0)"), "{notes}");
    let mut restoring = program.restoring(&[]);
    let restoring = restoring.spawn().unwrap();
    let go = program.scratch.file("go");
    fs::write(go, "!").unwrap();
    let told = succeeded(&ended(restoring));
    assert!(told.contains("unread\n"), "{told}");
}
