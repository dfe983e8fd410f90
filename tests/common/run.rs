//! Running a program in a fresh process, plain or under rewarm.

use super::{Scratch, libraries, shared_library};
use rewarm::control::{DeviceReport, ProcessReport};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything takes that is not stuck, on a busy machine with two CPUs.
pub(super) const LONGEST: Duration = Duration::from_secs(120);

/// Variables that would change what is tested.
const FOREIGN: [&str; 2] = ["REWARM_", "CRIU_CUDA_"];

/// A program about to be run.
pub struct Run {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    preload: Option<Vec<PathBuf>>,
    driver: bool,
    search: Vec<PathBuf>,
    longest: Duration,
    in_scratch: bool,
    prepare: Option<fn(&mut Command)>,
    user: Option<u32>,
}

/// What became of it.
pub struct Outcome {
    /// Exit status or signal.
    pub status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    /// The report of the process, where it left one.
    pub report: Option<ProcessReport>,
    /// How it was run, to be repeated by hand.
    pub command: String,
    scratch: Scratch,
}

/// A program that was started.
pub(super) struct Begun {
    /// Its process.
    pub(super) child: Child,
    /// What it reads.
    pub(super) input: File,
    /// What it writes.
    pub(super) output: File,
    /// The folder that it was given.
    pub(super) scratch: Scratch,
    /// How it was started.
    pub(super) shown: String,
}

impl Run {
    /// A program on the software driver, without rewarm.
    pub fn plain(program: impl AsRef<Path>) -> Run {
        Run {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            preload: None,
            driver: true,
            search: Vec::new(),
            longest: LONGEST,
            in_scratch: false,
            prepare: None,
            user: None,
        }
    }

    /// The same under rewarm.
    pub fn rewarmed(program: impl AsRef<Path>) -> Run {
        Run {
            preload: Some(vec![libraries().join("librewarm.so")]),
            ..Run::plain(program)
        }
    }

    /// Under rewarm, or not.
    pub fn either(program: impl AsRef<Path>, rewarmed: bool) -> Run {
        if rewarmed {
            Run::rewarmed(program)
        } else {
            Run::plain(program)
        }
    }

    /// Under another build of the front than the installed one.
    pub fn under(mut self, front: impl AsRef<Path>) -> Run {
        let preload = self.preload.get_or_insert_default();
        preload.splice(..preload.len().min(1), [front.as_ref().to_owned()]);
        self
    }

    /// With one more library preloaded, behind what is there.
    pub fn also_preload(mut self, library: impl AsRef<Path>) -> Run {
        self.preload
            .get_or_insert_default()
            .push(library.as_ref().to_owned());
        self
    }

    /// On a machine without a driver.
    pub fn without_driver(mut self) -> Run {
        self.driver = false;
        self
    }

    /// With one more folder to find libraries in.
    pub fn also_search(mut self, folder: impl AsRef<Path>) -> Run {
        self.search.push(folder.as_ref().to_owned());
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Run {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<I: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = I>) -> Run {
        arguments
            .into_iter()
            .fold(self, |run, argument| run.arg(argument))
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.environment
            .push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Has copies of 64 KiB and more fanned out over four lanes, whatever the
    /// machine, as the small programs of tests want it.
    pub fn small_copies_too(self) -> Run {
        self.lanes(4).env("REWARM_MIN_COPY_KB", "64")
    }

    /// So many lanes, at most eight, whatever the machine.
    pub fn lanes(self, lanes: usize) -> Run {
        let run = self.env("CRIU_CUDA_STREAMS", lanes.to_string());
        if run.preload.is_some() {
            run.also_preload(shared_library("many_cpus"))
        } else {
            run
        }
    }

    /// With its scratch folder as the working directory.
    pub fn directory_is_scratch(mut self) -> Run {
        self.in_scratch = true;
        self
    }

    /// Another time-out.
    pub fn longest(mut self, longest: Duration) -> Run {
        self.longest = longest;
        self
    }

    /// As another user, to whom its scratch folder is given.
    pub fn user(mut self, user: u32) -> Run {
        self.user = Some(user);
        self
    }

    /// Whether another user reaches the program and the libraries.
    pub fn can_be_run_by(&self, user: u32) -> bool {
        let mut command = Command::new("test");
        let libraries = libraries().join("librewarm_core.so");
        command.arg("-x").arg(&self.program).arg("-a").arg("-r");
        command.arg(libraries).uid(user).gid(user);
        command.status().is_ok_and(|status| status.success())
    }

    /// Changes the process just before it starts.
    pub fn prepare(mut self, prepare: fn(&mut Command)) -> Run {
        self.prepare = Some(prepare);
        self
    }

    /// Runs it to its end. A program that does not end is a failure.
    pub fn finish(self) -> Outcome {
        let scratch = Scratch::new();
        let (out, err) = (scratch.file("stdout"), scratch.file("stderr"));
        let mut command = self.command(&scratch);
        command
            .stdin(Stdio::null())
            .stdout(create(&out))
            .stderr(create(&err))
            .process_group(0);
        if let Some(prepare) = self.prepare {
            prepare(&mut command);
        }
        let shown = self.shown();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let Some(status) = wait(&mut child, self.longest) else {
            panic!(
                "hang: {shown}\nwas still running after {:?}\nthreads:\n{}stdout:\n{}\nstderr:\n{}\njournal ends:\n{}",
                self.longest,
                end(&mut child),
                tail(&text(&out)),
                tail(&text(&err)),
                tail(&text(&scratch.file("journal"))),
            );
        };
        Outcome {
            status,
            stdout: text(&out),
            stderr: text(&err),
            report: read_report(&scratch.file("report.json")),
            command: shown,
            scratch,
        }
    }

    /// Starts it with named pipes for its input and output, which it finds again when
    /// it was away, in a process group of its own.
    pub(super) fn begin(self) -> Begun {
        let scratch = Scratch::new();
        let mut command = self.command(&scratch);
        let (stdin, input) = named_pipe(&scratch.file("input"));
        let (output, stdout) = named_pipe(&scratch.file("output"));
        command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(create(&scratch.file("stderr")))
            .process_group(0);
        // What the shell or the test runner left open is none of its business, and
        // would be noticed in its checkpoint.
        // SAFETY: one system call.
        unsafe { command.pre_exec(close_the_rest_at_exec) };
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        Begun {
            child,
            input,
            output,
            scratch,
            shown: self.shown(),
        }
    }

    fn command(&self, scratch: &Scratch) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(user) = self.user {
            let given = std::os::unix::fs::chown(scratch.path(), Some(user), Some(user));
            given.expect("only root does such tests");
            command.uid(user).gid(user);
        }
        command.args(&self.arguments);
        for (name, _) in std::env::vars_os() {
            if FOREIGN
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        if let Some(path) = self.library_path() {
            command.env("LD_LIBRARY_PATH", path);
        }
        if let Some(preload) = self.preload() {
            command.env("LD_PRELOAD", preload);
        }
        if self.in_scratch {
            command.current_dir(scratch.path());
        }
        command
            .env("REWARM_RUN_DIR", scratch.file("run"))
            .env("REWARM_STATS", scratch.file("report.json"))
            .env("REWARM_LOG", scratch.file("log"))
            .env("TMPDIR", scratch.path());
        for (name, value) in &self.environment {
            let value = value
                .to_str()
                .map(|text| text.replace("{scratch}", scratch.path().to_str().unwrap()));
            command.env(name, value.as_deref().map(OsStr::new).unwrap_or_default());
        }
        command
    }

    fn preload(&self) -> Option<String> {
        self.preload.as_deref().map(joined)
    }

    fn library_path(&self) -> Option<String> {
        let mut folders = self.search.clone();
        folders.extend(self.driver.then(|| libraries().join("sim")));
        (!folders.is_empty()).then(|| joined(&folders))
    }

    /// A line for the shell.
    fn shown(&self) -> String {
        let mut words = Vec::new();
        words.extend(
            self.library_path()
                .map(|path| format!("LD_LIBRARY_PATH={path}")),
        );
        words.extend(
            self.preload()
                .map(|preload| format!("LD_PRELOAD={preload}")),
        );
        for (name, value) in &self.environment {
            words.push(format!(
                "{}={:?}",
                name.to_string_lossy(),
                value.to_string_lossy()
            ));
        }
        words.push(self.program.display().to_string());
        words.extend(
            self.arguments
                .iter()
                .map(|argument| format!("{:?}", argument.to_string_lossy())),
        );
        words.join(" ")
    }
}

impl Outcome {
    /// Insists on exit status 0.
    pub fn ok(self) -> Outcome {
        if !self.status.success() {
            self.fail("did not succeed");
        }
        self
    }

    /// Whether it ended with status 0.
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Ends the test with everything that is known.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!(
            "{why}\n{}\nexit status: {:?}, signal: {:?}\nstdout:\n{}\nstderr:\n{}\nlog:\n{}",
            self.command,
            self.status.code(),
            self.status.signal(),
            tail(&self.stdout),
            tail(&self.stderr),
            tail(&text(&self.scratch.file("log"))),
        )
    }

    /// The program said and ended as in the plain run.
    #[track_caller]
    pub fn must_be_like(&self, plain: &Outcome) {
        let alike = plain.stdout == self.stdout
            && plain.stderr == self.stderr
            && plain.status == self.status;
        self.must(
            alike,
            &format!(
                "plain run: {:?}\n{}\n{}",
                plain.status, plain.stdout, plain.stderr
            ),
        );
    }

    /// Insists on a condition.
    #[track_caller]
    pub fn must(&self, condition: bool, why: &str) {
        if !condition {
            self.fail(&format!("{why}\nreport: {:#?}", self.report));
        }
    }

    /// The report of the process.
    #[track_caller]
    pub fn report(&self) -> &ProcessReport {
        match &self.report {
            Some(report) => report,
            None => self.fail("the process left no report"),
        }
    }

    /// What was counted for device 0.
    #[track_caller]
    pub fn device(&self) -> &DeviceReport {
        match self.report().devices.first() {
            Some(device) => device,
            None => self.fail("no copy was counted for any device"),
        }
    }

    /// A file that the process left in its scratch folder.
    pub fn left(&self, name: &str) -> String {
        text(&self.scratch.file(name))
    }

    /// The folder that it was given for its files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

fn joined(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.to_string_lossy())
        .collect::<Vec<_>>()
        .join(":")
}

fn read_report(path: &Path) -> Option<ProcessReport> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error} in the report:\n{text}")),
    )
}

/// No descriptor but the standard ones outlives `exec`.
pub(super) fn close_the_rest_at_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: a system call with numbers.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, CLOSE_RANGE_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A new named pipe: the end to read from, and the one to write to.
pub(super) fn named_pipe(path: &Path) -> (File, File) {
    let name = CString::new(path.as_os_str().as_bytes()).expect("it has no zero byte");
    // SAFETY: a string that ends.
    let failed = unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0;
    assert!(
        !failed,
        "{}: {}",
        path.display(),
        io::Error::last_os_error()
    );
    let open = |options: &mut OpenOptions| {
        let opened = options.open(path);
        opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    // An end alone would wait for the other.
    let _both = open(OpenOptions::new().read(true).write(true));
    (
        open(OpenOptions::new().read(true)),
        open(OpenOptions::new().write(true)),
    )
}

/// Waits for the child; `None` if it does not end.
pub(super) fn wait(child: &mut Child, longest: Duration) -> Option<ExitStatus> {
    repeat(longest, || child.try_wait().expect("the child is ours"))
}

/// Tries again and again; `None` if nothing comes of it.
pub(super) fn repeat<T>(longest: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(result) = attempt() {
            return Some(result);
        }
        if begun.elapsed() > longest {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Kills the child and what it started (its own process group), and says what
/// its threads were waiting for.
fn end(child: &mut Child) -> String {
    let mut threads = String::new();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id()))
        .into_iter()
        .flatten()
        .flatten();
    for task in tasks {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        threads += &format!("  {:<16} in {}\n", read("comm").trim(), read("wchan"));
    }
    // SAFETY: the group was made for this child, which is not reaped yet.
    unsafe { libc::killpg(child.id() as i32, libc::SIGKILL) };
    let _ = child.wait();
    threads
}

fn create(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(4000);
    &text[(start..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len())..]
}
