//! A program that lives while a test commands it and freezes and thaws it.

use super::{Run, Scratch, cli, run};
use rewarm::pidfd::Pidfd;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than anything takes that is not stuck.
const LONGEST: Duration = Duration::from_secs(120);

/// A running program that answers each line with one.
///
/// It may be killed by whoever dumps it, and be restored under the same pid.
pub struct Live {
    /// Our own child, also when it was restored (see [`super::criu::adopt`]).
    pid: u32,
    /// How it ended.
    ended: Option<ExitStatus>,
    input: File,
    lines: Receiver<String>,
    scratch: Scratch,
    shown: String,
}

impl Live {
    /// Starts a program under rewarm and waits until it is ready. The devices belong
    /// to a machine of the test's own.
    pub fn start(run: Run) -> Live {
        let run = run
            .env("SIMCUDA_MACHINE", "{scratch}/machine")
            .env("REWARM_FREEZABLE", "1");
        Live::start_as_it_is(run)
    }

    /// The same without settings of freezing.
    pub fn start_as_it_is(run: Run) -> Live {
        let run::Begun {
            child,
            input,
            output,
            scratch,
            shown,
        } = run.begin();
        let live = Live {
            pid: child.id(),
            ended: None,
            input,
            lines: lines(move || output),
            scratch,
            shown,
        };
        let ready = live.answer();
        assert!(ready.starts_with("ready "), "{ready}\n{}", live.shown);
        live
    }

    /// A program that a container's runtime starts, which tells its process: it speaks
    /// by the named pipes `input` and `output` of the folder. It has to become a child
    /// of this process (see [`super::criu::adopt`]).
    pub fn of_runtime(scratch: Scratch, start: impl FnOnce() -> u32) -> Live {
        let (stdin, input) = run::named_pipe(&scratch.file("input"));
        let (output, stdout) = run::named_pipe(&scratch.file("output"));
        let live = Live {
            pid: start(),
            ended: None,
            input,
            lines: lines(move || output),
            scratch,
            shown: "a container".into(),
        };
        let ready = live.answer();
        assert!(ready.starts_with("ready "), "{ready}\n{}", live.shown);
        drop((stdin, stdout));
        live
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The folder that it was given.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Sends a command without waiting for the answer.
    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap_or_else(|error| self.fail(&error.to_string()));
    }

    /// The next line that it prints.
    #[track_caller]
    pub fn answer(&self) -> String {
        match self.lines.recv_timeout(LONGEST) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => self.fail("it does not answer"),
            Err(RecvTimeoutError::Disconnected) => self.fail("it has ended"),
        }
    }

    /// Sends a command and returns what it answers.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer()
    }

    /// Insists that a command is carried out.
    #[track_caller]
    pub fn must(&mut self, command: &str) {
        let answer = self.ask(command);
        if answer != "ok" {
            self.fail(&format!("{command}: {answer}"));
        }
    }

    /// Ends the test with everything that is known.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        let left = |name: &str| fs::read_to_string(self.scratch.file(name)).unwrap_or_default();
        panic!(
            "{why}\n{} (process {}, {})\nsaid: {:?}\nstderr:\n{}\nlog:\n{}",
            self.shown,
            self.pid(),
            self.end(),
            self.lines.try_iter().collect::<Vec<_>>(),
            left("stderr"),
            left("log"),
        )
    }

    /// Whether it has ended, and how.
    fn end(&self) -> String {
        // SAFETY: a structure of numbers, and our own child, which stays to be reaped.
        let end = unsafe {
            let mut end: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            libc::waitid(libc::P_PID, self.pid(), &raw mut end, options);
            (end.si_pid() != 0).then(|| (end.si_code, end.si_status()))
        };
        match end {
            None => "which runs".into(),
            Some((libc::CLD_EXITED, status)) => format!("ended with status {status}"),
            Some((_, signal)) => format!("killed by signal {signal}"),
        }
    }

    /// `rewarm ARGUMENTS`, which finds this program.
    pub fn rewarm(&self, arguments: &[&str]) -> Command {
        let mut command = cli::rewarm(arguments);
        command.env("REWARM_RUN_DIR", self.scratch.file("run"));
        command
    }

    /// Where its snapshots go.
    pub fn snapshot(&self) -> PathBuf {
        self.scratch.file("snapshot")
    }

    /// `rewarm freeze` of it.
    pub fn freezing(&self, options: &[&str]) -> Command {
        let (pid, folder) = (self.pid().to_string(), self.snapshot());
        let given = ["freeze", "--pid", &pid, "--to", cli::text(&folder)];
        self.rewarm(&[&given, options].concat())
    }

    /// `rewarm thaw` of it.
    pub fn thawing(&self, options: &[&str]) -> Command {
        let pid = self.pid().to_string();
        self.rewarm(&[&["thaw", "--pid", &pid], options].concat())
    }

    /// Freezes it.
    #[track_caller]
    pub fn freeze(&self, options: &[&str]) -> Value {
        self.succeeds(&mut self.freezing(&[&["--json"], options].concat()))
    }

    /// Thaws it.
    #[track_caller]
    pub fn thaw(&self, options: &[&str]) -> Value {
        self.succeeds(&mut self.thawing(&[&["--json"], options].concat()))
    }

    #[track_caller]
    fn succeeds(&self, command: &mut Command) -> Value {
        let output = command.output().expect("rewarm starts");
        if !output.status.success() {
            self.fail(&format!("{command:?}: {}", cli::stderr(&output)));
        }
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| self.fail(&format!("{error}: {output:?}")))
    }

    /// Insists that a command fails with status 1 and says all the words, whatever
    /// their case. Returns what it says.
    #[track_caller]
    pub fn refused(&self, mut command: Command, words: &[&str]) -> String {
        let output = command.output().expect("rewarm starts");
        let message = cli::stderr(&output);
        if output.status.code() != Some(1) {
            self.fail(&format!("not refused: {command:?}: {output:?}"));
        }
        for word in words {
            let is_there = message.to_lowercase().contains(&word.to_lowercase());
            assert!(is_there, "{word:?} is not in: {message}");
        }
        message
    }

    /// The state that `rewarm status` tells of a process of this program.
    #[track_caller]
    pub fn state_of(&self, pid: u32) -> String {
        let pid = pid.to_string();
        let report = self.succeeds(&mut self.rewarm(&["status", "--pid", &pid, "--json"]));
        let state = report["state"].as_str();
        state.expect("the state is a text").to_owned()
    }

    /// The state that `rewarm status` tells.
    #[track_caller]
    pub fn state(&self) -> String {
        self.state_of(self.pid())
    }

    /// The state, if `rewarm status` can tell it now.
    pub fn try_state(&self) -> Option<String> {
        let pid = self.pid().to_string();
        let output = self.rewarm(&["status", "--pid", &pid, "--json"]).output();
        let report: Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
        report["state"].as_str().map(str::to_owned)
    }

    /// Waits until a freeze or thaw that nobody watches is over, and tells the state.
    #[track_caller]
    pub fn settled(&self) -> String {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if state != "freezing" && state != "thawing" {
                return state;
            }
            if begun.elapsed() > LONGEST {
                self.fail(&format!("it is {state} for ever"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Bytes of the device memory of all devices that one of its processes uses.
    #[track_caller]
    pub fn used_by(&self, pid: u32) -> u64 {
        let file = self.scratch.file("machine").join(pid.to_string());
        let text = fs::read_to_string(&file).unwrap_or_else(|error| self.fail(&error.to_string()));
        text.split_whitespace()
            .map(|number| number.parse::<u64>().expect("a number"))
            .sum()
    }

    /// Bytes of the device memory of all devices that it uses.
    #[track_caller]
    pub fn used(&self) -> u64 {
        self.used_by(self.pid())
    }

    /// The processes that use the machine's devices.
    pub fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.scratch.file("machine")).expect("there is a machine");
        let names = entries.map(|entry| entry.expect("it can be read").file_name());
        let mut pids: Vec<u32> = names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        pids
    }

    /// Has somebody else use so many bytes of device 0; 0 gives them back.
    pub fn make_scarce(&self, bytes: u64) {
        let file = self.scratch.file("machine/somebody");
        fs::write(file, bytes.to_string()).expect("it is our folder");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, which is not reaped yet.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !"ZX".contains(state))
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        match run::repeat(LONGEST, || self.try_wait()) {
            Some(status) => status,
            None => self.fail("it does not end"),
        }
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        let mut status = 0;
        // SAFETY: an out-pointer to a local.
        let found = unsafe { libc::waitpid(self.pid as i32, &mut status, libc::WNOHANG) };
        if found == self.pid as i32 {
            self.ended = Some(ExitStatus::from_raw(status));
        }
        self.ended
    }

    /// Insists that it was killed, as by who dumped it.
    #[track_caller]
    pub fn is_gone(&mut self) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    }

    /// It has ended, and somebody else has waited for it.
    pub fn has_ended(&mut self, status: ExitStatus) {
        self.ended = Some(status);
    }

    /// Speaks with it again: it was restored.
    #[track_caller]
    pub fn is_back(&mut self) {
        self.ended = None;
        // Without somebody who reads, opening fails.
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.scratch.file("input"));
        match opened {
            Ok(input) => self.input = input,
            Err(error) => self.fail(&format!("it does not read: {error}")),
        }
        // Before it may answer: without somebody who reads, writing ends it.
        let output = File::open(self.scratch.file("output")).expect("the pipe is there");
        self.lines = lines(move || output);
    }

    /// The same where it has another process id now.
    #[track_caller]
    pub fn is_back_as(&mut self, pid: u32) {
        self.pid = pid;
        self.is_back();
    }

    /// Lets it free all and end.
    #[track_caller]
    pub fn quit(mut self) {
        self.must("quit");
        let status = self.wait();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.ended.is_none() && self.try_wait().is_none() {
            // SAFETY: the group was made for this child, which is not reaped yet.
            unsafe { libc::killpg(self.pid as i32, libc::SIGKILL) };
            self.wait();
        }
        if std::thread::panicking() {
            kill_all_of(self.scratch());
        }
    }
}

/// Kills every process that was given a scratch folder: a test that failed half way
/// leaves neither what it restored nor who restores.
fn kill_all_of(scratch: &Path) {
    let name = scratch.to_str().expect("it has a plain name").as_bytes();
    for pid in rewarm::proc::numbers_in("/proc") {
        let Ok(process) = Pidfd::open(pid) else {
            continue;
        };
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if environment.windows(name.len()).any(|part| part == name) {
            process.signal(libc::SIGKILL);
        }
    }
}

/// A process that does nothing, until the test is over.
pub struct Sleeper(pub Child);

impl Sleeper {
    /// Starts one that has nothing of this process open.
    pub fn start() -> Sleeper {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec it makes one system call.
        let child = unsafe { command.pre_exec(run::close_the_rest_at_exec) }.spawn();
        Sleeper(child.expect("coreutils are installed"))
    }

    /// Its process id, as arguments have it.
    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What comes out of a file, line by line.
fn lines(open: impl FnOnce() -> File + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(open()).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Waits for a command of `rewarm` that was started in the background.
#[track_caller]
pub fn ended(mut child: Child) -> Output {
    if run::wait(&mut child, LONGEST).is_none() {
        let _ = child.kill();
        panic!("rewarm does not end");
    }
    child.wait_with_output().expect("it has ended")
}
