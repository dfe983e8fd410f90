//! The files of processes that are checkpointed and restored: they are not in the
//! checkpoint, and go on to change.

mod common;

use common::live::ended;
use common::{Scratch, cli, criu};
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A shell that writes what it reads from a pipe into a file.
struct Writer {
    scratch: Scratch,
    pid: u32,
    input: File,
}

impl Writer {
    fn start(redirection: &str) -> Writer {
        let scratch = Scratch::new();
        let made = Command::new("mkfifo").arg(scratch.file("in")).status();
        assert!(made.expect("coreutils are installed").success());
        let script = format!("while read line; do echo $line; done <in {redirection}log");
        let input = File::options()
            .read(true)
            .write(true)
            .open(scratch.file("in"))
            .expect("it was just made");
        let child = Command::new("sh")
            .args(["-c", &script])
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let pid = child.expect("there is a shell").id();
        Writer {
            scratch,
            pid,
            input,
        }
    }

    /// Has it write a line.
    #[track_caller]
    fn write(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the pipe is open");
        let is_written = || self.log().ends_with(&format!("{line}\n"));
        let begun = Instant::now();
        while !is_written() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.file("log")).unwrap_or_default()
    }

    fn kill(&self) {
        // SAFETY: our own child, not reaped yet.
        unsafe { libc::kill(self.pid as i32, libc::SIGKILL) };
        criu::gone(&[self.pid]);
    }

    fn rewarm(&self, arguments: &[&str]) -> Output {
        let mut command = cli::rewarm(arguments);
        command
            .current_dir(self.scratch.path())
            .env(
                "REWARM_CRIU",
                criu::can_checkpoint().expect("who has none skips"),
            )
            .env("TMPDIR", self.scratch.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        ended(command.spawn().expect("rewarm starts"))
    }
}

/// What a process writes after its checkpoint is in its files at the restore.
#[test]
fn logs_may_have_grown_and_other_files_are_told() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    criu::adopt();
    for (redirection, may_grow) in [(">>", true), (">", false)] {
        let mut writer = Writer::start(redirection);
        writer.write("first");
        let pid = writer.pid.to_string();
        let given = ["checkpoint", "--pid", &pid, "--to", "c", "--leave-running"];
        let output = writer.rewarm(&given);
        assert!(output.status.success(), "{output:?}");
        let is_noted = cli::stderr(&output).contains("longer");
        assert_eq!(is_noted, !may_grow, "{output:?}");
        writer.write("second");
        writer.kill();
        let restore = ["restore", "--from", "c", "--detach"];
        let mut output = writer.rewarm(&restore);
        if !may_grow {
            let said = cli::stderr(&output);
            assert!(said.contains("from 6 to 13 bytes"), "{output:?}");
            output = writer.rewarm(&[&restore[..], &["--truncate-files"]].concat());
        }
        assert!(output.status.success(), "{output:?}");
        writer.write("third");
        let second = if may_grow { "second\n" } else { "" };
        assert_eq!(writer.log(), format!("first\n{second}third\n"));
        writer.kill();
    }
}
