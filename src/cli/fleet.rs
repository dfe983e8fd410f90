//! One or several processes that are frozen or thawed together.

use super::progress::Bars;
use anyhow::{Result, anyhow};
use rewarm::control::{Process, Progress, State};
use serde::Serialize;
use std::thread;

/// Version of the keys that `--json` prints.
pub(super) const VERSION: u32 = 1;

/// What `--json` says of one process of several; docs/sleep.md explains it.
#[derive(Serialize)]
pub(super) struct Told<'a, R> {
    /// The process, as seen from here.
    pid: u32,
    #[serde(flatten)]
    report: &'a R,
}

/// What `--json` says of the only process.
#[derive(Serialize)]
pub(super) struct Alone<'a, R> {
    version: u32,
    #[serde(flatten)]
    told: Told<'a, R>,
}

impl<'a, R> Told<'a, R> {
    pub(super) fn new(pid: u32, report: &'a R) -> Told<'a, R> {
        Told { pid, report }
    }

    pub(super) fn alone(self) -> Alone<'a, R> {
        Alone {
            version: VERSION,
            told: self,
        }
    }
}

/// Does the same with all processes at once, with a progress bar each. The results
/// are in the order of the processes.
pub(super) fn together<'a, R: Send>(
    processes: impl IntoIterator<Item = &'a Process>,
    work: impl Fn(&Process, &mut dyn FnMut(Progress)) -> Result<R> + Sync,
) -> Vec<Result<R>> {
    let bars = Bars::new();
    thread::scope(|scope| {
        let begin = |process: &'a Process| {
            let mut bar = bars.add(format!("process {}", process.pid));
            let work = &work;
            let body = move || work(process, &mut |progress| bar.show(progress));
            thread::Builder::new().spawn_scoped(scope, body)
        };
        let begun: Vec<_> = processes.into_iter().map(begin).collect();
        begun
            .into_iter()
            .map(|thread| match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("it was left undone"))),
                Err(error) => Err(anyhow!("cannot start a thread: {error}")),
            })
            .collect()
    })
}

/// What became of a process that something failed for.
pub(super) fn what_holds(process: &Process) -> String {
    let report = match process.connect().and_then(|client| Ok(client.status()?)) {
        Ok(report) => report,
        Err(_) if process.ends() => return "the process has ended".into(),
        Err(error) => return format!("what became of it is not known ({error})"),
    };
    match (report.state, report.memory.snapshot) {
        (State::Frozen, Some(snapshot)) => {
            format!("it is frozen, its snapshot is in {}", snapshot.display())
        }
        (State::Frozen, None) => "it is frozen".into(),
        (State::Freezing | State::Thawing, _) => {
            "the process is still at it: `rewarm status` shows how it ends".into()
        }
        _ => "it runs as before".into(),
    }
}

/// 10⁹ bytes, and how fast.
pub(super) fn rate(bytes: u64, seconds: f64) -> String {
    let giga = bytes as f64 / 1e9;
    if bytes == 0 || seconds <= 0.0 {
        format!("{giga:.2} GB in {seconds:.2} s")
    } else {
        format!(
            "{giga:.2} GB in {seconds:.2} s ({:.1} GB/s)",
            giga / seconds
        )
    }
}

/// Says at SIGINT and SIGTERM that the process goes on with what was begun.
pub(super) fn explain_interrupts() {
    extern "C" fn explain(signal: libc::c_int) {
        const NOTE: &str = "\nrewarm: the process goes on with what was begun; `rewarm status` shows how it ends\n";
        // SAFETY: these may be called in a handler; the signal comes again and ends
        // this process.
        unsafe {
            libc::write(libc::STDERR_FILENO, NOTE.as_ptr().cast(), NOTE.len());
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
    let handler = explain as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a handler that only calls what handlers may.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}
