//! CRIU as its CUDA plugin sees a process: the commands that it runs, and threads that
//! stand still. Written after `plugins/cuda/cuda_plugin.c` of CRIU 4.2.

use super::live::Live;
use super::{Link, Run, app, driver, libraries};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

/// None of it stays behind when it is frozen.
pub const MEMORY: &str = "memory=tiny,own,zero";

/// What the plugin keeps of an answer, in bytes.
const KEPT: usize = 127;

/// `cuda-checkpoint ARGUMENTS` on the software driver, in an environment without
/// settings.
pub fn cuda_checkpoint(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuda-checkpoint"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = ["REWARM_", "CRIU_CUDA_", "SIMCUDA_"];
        if ours.iter().any(|prefix| name.starts_with(prefix)) || name == "LD_PRELOAD" {
            command.env_remove(&*name);
        }
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .env("LD_LIBRARY_PATH", libraries().join("sim"));
    command
}

/// Runs a command with both streams on one pipe: its exit code, and what it printed.
pub fn printed(command: &mut Command) -> (i32, String) {
    let (mut reader, writer) = std::io::pipe().expect("there are descriptors");
    let mut child = command
        .stdout(writer.try_clone().expect("there are descriptors"))
        .stderr(writer)
        .spawn()
        .expect("cuda-checkpoint starts");
    // The command holds the writing end, too.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("it prints text");
    let status = child.wait().expect("it is ours");
    let code = status
        .code()
        .unwrap_or_else(|| panic!("{command:?}: {status}"));
    (code, text)
}

/// The plugin, for processes whose control sockets are in a folder.
pub struct Plugin<'a> {
    /// Of the control sockets.
    pub run_dir: &'a Path,
}

impl Plugin<'_> {
    /// A command that the plugin runs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = cuda_checkpoint(arguments);
        command.env("REWARM_RUN_DIR", self.run_dir);
        command
    }

    /// Runs it, and keeps what the plugin keeps.
    pub fn run(&self, arguments: &[&str]) -> (i32, String) {
        let (code, mut text) = printed(&mut self.command(arguments));
        text.truncate(KEPT);
        (code, text)
    }

    /// Whether the tool is one that the plugin can use.
    pub fn is_usable(&self) -> bool {
        let (code, text) = printed(&mut self.command(&["-h"]));
        code == 0 && text[..text.len().min(2047)].contains("--action")
    }

    /// The restore thread, `None` for a process without CUDA.
    #[track_caller]
    pub fn restore_thread(&self, pid: u32) -> Option<u32> {
        let (code, text) = self.run(&["--get-restore-tid", "--pid", &pid.to_string()]);
        if code > 0 {
            return None;
        }
        let thread = text.trim_end().parse();
        Some(thread.unwrap_or_else(|_| panic!("not a thread: {text:?}")))
    }

    /// The state of a process, by its pid or a thread.
    #[track_caller]
    pub fn state(&self, pid: u32) -> String {
        let (code, text) = self.run(&["--get-state", "--pid", &pid.to_string()]);
        assert_eq!(code, 0, "{text}");
        text.trim_end().to_owned()
    }

    /// A step that must succeed, and print nothing.
    #[track_caller]
    pub fn act(&self, action: &str, pid: u32) {
        let pid = pid.to_string();
        let mut arguments = vec!["--action", action, "--pid", &pid];
        if action == "lock" {
            arguments.extend(["--timeout", "10000"]);
        }
        assert_eq!(self.run(&arguments), (0, String::new()), "{arguments:?}");
    }
}

/// A program without rewarm, on a machine of its own.
pub fn plain() -> Live {
    let run = Run::plain(app("freeze", Link::Dlopen)).arg(MEMORY);
    Live::start_as_it_is(run.env("SIMCUDA_MACHINE", "{scratch}/machine"))
}

/// A program under rewarm. Its snapshots go to a folder that is made for them.
pub fn freezable() -> Live {
    let run = Run::rewarmed(app("freeze", Link::Dlopen))
        .lanes(2)
        .arg(MEMORY);
    let live = Live::start(run.env("REWARM_SNAPSHOT_DIR", "{scratch}/snapshots"));
    fs::create_dir(live.scratch().join("snapshots")).unwrap();
    live
}

/// What is in the folder of its snapshots.
pub fn snapshots(live: &Live) -> Vec<PathBuf> {
    let entries = fs::read_dir(live.scratch().join("snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The command on a driver that refuses calls, see `tests/apps/refusing_driver.c`.
pub fn refusing<'a>(command: &'a mut Command, calls: &str) -> &'a mut Command {
    command
        .env("LD_LIBRARY_PATH", driver("refusing_driver"))
        .env("REAL_DRIVER", libraries().join("sim/libcuda.so.1"))
        .env("REFUSE", calls)
}

/// Waits until a thaw that nobody asks about is over.
#[track_caller]
pub fn becomes_active(live: &Live) {
    let begun = Instant::now();
    while live.settled() != "active" {
        if begun.elapsed() > Duration::from_secs(60) {
            live.fail("it does not thaw");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The threads of a process, all of them stopped but for those let go. They go on
/// when dropped, which has to be on the thread that stopped them.
pub struct Stopped(Vec<i32>);

impl Stopped {
    /// Stops all threads of a child.
    pub fn all(pid: u32) -> Stopped {
        let mut stopped = Stopped(Vec::new());
        let folder = format!("/proc/{pid}/task");
        // New ones come only from such as are not stopped yet.
        loop {
            let before = stopped.0.len();
            for entry in fs::read_dir(&folder).expect("it lives") {
                let name = entry.expect("it can be read").file_name();
                let thread = name.to_str().and_then(|name| name.parse().ok());
                let thread: i32 = thread.expect("threads have numbers");
                if !stopped.0.contains(&thread) && ptrace(libc::PTRACE_SEIZE, thread) {
                    stopped.0.push(thread);
                    interrupt(thread);
                }
            }
            if stopped.0.len() == before {
                return stopped;
            }
        }
    }

    /// Lets a thread run for a while.
    pub fn with_running<T>(&self, thread: u32, work: impl FnOnce() -> T) -> T {
        let thread = thread as i32;
        assert!(self.0.contains(&thread), "it is not a thread of it");
        assert!(ptrace(libc::PTRACE_CONT, thread), "it cannot go on");
        let result = work();
        interrupt(thread);
        result
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for thread in &self.0 {
            ptrace(libc::PTRACE_DETACH, *thread);
        }
    }
}

fn interrupt(thread: i32) {
    assert!(
        ptrace(libc::PTRACE_INTERRUPT, thread),
        "it cannot be stopped"
    );
    let mut status = 0;
    // SAFETY: an out-pointer to a local; the thread is traced by this one.
    let stopped = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
    assert!(stopped == thread && libc::WIFSTOPPED(status), "{status:#x}");
}

fn ptrace(request: libc::c_uint, thread: i32) -> bool {
    // SAFETY: requests that take neither address nor data.
    unsafe { libc::ptrace(request, thread, null_mut::<u8>(), null_mut::<u8>()) == 0 }
}
