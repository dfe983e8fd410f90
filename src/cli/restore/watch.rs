//! Two processes, so that nothing half alive stays behind.
//!
//! The restore is done by a worker, a child of the process that the user started.
//! The restored tree descends from both ([`Family`]). If the worker fails or is
//! killed, the first process kills all that descends from it; if the first process
//! is killed, the worker does ([`leash`]). Only when the worker has declared
//! success does either leave the tree alone. The first process stays small (it
//! never touches the driver), as it may have to stay for as long as the tree runs.

use super::family::{self, End, Family};
use crate::cli::work::{self, Doing};
use anyhow::{Context, Result, bail};
use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{ptr, thread};

/// Those that end a restore, and are passed on to a restored process.
const PASSED_ON: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Which of the two a process is.
pub(super) enum Side {
    /// The one that the user started.
    First(Supervisor),
    /// The one that restores.
    Worker(Worker),
}

/// Makes two of this process, which must have one thread only.
///
/// # Errors
/// The system's.
pub(super) fn split() -> Result<Side> {
    let family = Family::begin().context("cannot become the parent of the restored processes")?;
    let work = work::make(Doing::Restore)?;
    let (first, second) = UnixStream::pair().context("cannot make a socket")?;
    // SAFETY: there is one thread, so the child can go on like this process.
    match unsafe { libc::fork() } {
        0 => {
            drop(first);
            Ok(Side::Worker(Worker::new(second, work)?))
        }
        -1 => {
            let error = io::Error::last_os_error();
            work::remove(&work);
            Err(error).context("cannot start a process")
        }
        worker => Ok(Side::First(Supervisor {
            family,
            work,
            socket: first,
            worker: worker as u32,
        })),
    }
}

/// The process that restores.
pub(super) struct Worker {
    shared: Arc<Shared>,
    socket: UnixStream,
}

/// What the thread that restores and the leash have in common.
struct Shared {
    family: Family,
    work: PathBuf,
    /// Success was declared.
    is_declared: AtomicBool,
    /// The first process is gone.
    is_broken_off: AtomicBool,
}

impl Worker {
    fn new(socket: UnixStream, work: PathBuf) -> Result<Worker> {
        // Ctrl-C is for the first process, which knows what to do.
        // SAFETY: no pointers.
        unsafe { libc::setsid() };
        let family = Family::begin().context("cannot become the parent of restored processes")?;
        let shared = Arc::new(Shared {
            family,
            work,
            is_declared: AtomicBool::new(false),
            is_broken_off: AtomicBool::new(false),
        });
        let end = socket.try_clone().context("cannot keep a socket")?;
        let leashed = Arc::clone(&shared);
        thread::Builder::new()
            .spawn(move || leash(end, &leashed))
            .context("cannot start a thread")?;
        Ok(Worker { shared, socket })
    }

    /// CRIU's folder.
    pub(super) fn work(&self) -> &Path {
        &self.shared.work
    }

    /// Whether the restore is to end, as the first process is gone.
    pub(super) fn is_broken_off(&self) -> &AtomicBool {
        &self.shared.is_broken_off
    }

    /// Declares that the tree with this root is restored, all of it.
    ///
    /// # Errors
    /// If the first process is gone: then the tree has to go, too.
    pub(super) fn succeeded(&self, root: u32) -> Result<()> {
        // CRIU has ended, and who is killed from now on leaves nothing behind.
        work::remove(&self.shared.work);
        let word = root.to_ne_bytes();
        let socket = self.socket.as_raw_fd();
        // SAFETY: a buffer of the length given. There may be nobody to read it.
        let sent =
            unsafe { libc::send(socket, word.as_ptr().cast(), word.len(), libc::MSG_NOSIGNAL) };
        if sent != word.len() as isize {
            bail!("the restore was broken off");
        }
        self.shared.is_declared.store(true, SeqCst);
        Ok(())
    }

    /// Kills all that was restored, and says what is left of it: nothing, but for
    /// the worst.
    pub(super) fn undo(&self) -> String {
        let left = self.shared.family.kill();
        work::remove(&self.shared.work);
        what_is_left(&left)
    }
}

/// Ends everything when the first process ends before success was declared. It
/// never says anything: the socket ends when it does.
fn leash(mut socket: UnixStream, shared: &Shared) {
    /// How long the thread that restores may take to notice.
    const PATIENCE: Duration = Duration::from_secs(30);
    while let Err(error) = socket.read(&mut [0]) {
        if error.kind() != ErrorKind::Interrupted {
            break;
        }
    }
    if shared.is_declared.load(SeqCst) {
        return;
    }
    shared.is_broken_off.store(true, SeqCst);
    // The thread that restores may be about to start one more process. It fails at
    // its next step, kills what there is, and ends this process with this thread.
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        shared.family.kill();
        work::remove(&shared.work);
        thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: ends the process, whatever its other threads do.
    unsafe { libc::_exit(1) };
}

fn what_is_left(left: &[u32]) -> String {
    match left {
        [] => "nothing of it was left running".into(),
        left => format!("processes {left:?} were killed, but do not end"),
    }
}

/// The process that the user started.
pub(super) struct Supervisor {
    family: Family,
    work: PathBuf,
    socket: UnixStream,
    worker: u32,
}

impl Supervisor {
    /// Waits for the worker; then, unless detached, for the root of the tree, and
    /// tells its exit code.
    ///
    /// # Errors
    /// If the restore failed and the worker did not say so, or was broken off.
    pub(super) fn supervise(self, detach: bool) -> Result<ExitCode> {
        let signals = Signals::block();
        let result = self.wait_for_worker(&signals);
        work::remove(&self.work);
        match result? {
            Outcome::Failed(code) => Ok(code.into()),
            Outcome::Restored { .. } if detach => Ok(ExitCode::SUCCESS),
            Outcome::Restored { root, early } => {
                early.into_iter().for_each(|signal| pass_on(root, signal));
                Ok(wait_for_root(root, &signals)?.code().into())
            }
        }
    }

    fn wait_for_worker(&self, signals: &Signals) -> Result<Outcome> {
        let mut early = Vec::new();
        let end = loop {
            if let Some(end) = family::end_of(self.worker) {
                break end;
            }
            let signal = signals.next();
            if signal == libc::SIGCHLD {
                continue;
            }
            if self.root().is_none() {
                let left = self.undo();
                bail!(BrokenOff { signal, left });
            }
            // All is restored, and the worker is about to end.
            early.push(signal);
        };
        if let Some(root) = self.root() {
            return Ok(Outcome::Restored { root, early });
        }
        let left = self.undo();
        match end {
            // It has said why.
            End::Status(code) if code != 0 => Ok(Outcome::Failed(code)),
            end => bail!("the process that restores ended too early ({end}); {left}"),
        }
    }

    /// Kills all that was restored, so that its pids are free, and says what is left.
    fn undo(&self) -> String {
        let left = self.family.kill();
        self.family.reap();
        what_is_left(&left)
    }

    /// The root that the worker has declared to be restored.
    fn root(&self) -> Option<u32> {
        let mut word = [0; 4];
        let (socket, buffer) = (self.socket.as_raw_fd(), word.as_mut_ptr().cast());
        // SAFETY: a buffer of the length given.
        let found = unsafe {
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            libc::recv(socket, buffer, word.len(), flags)
        };
        (found == word.len() as isize).then(|| u32::from_ne_bytes(word))
    }
}

/// What became of a restore.
enum Outcome {
    /// It failed with this exit code, and said why.
    Failed(u8),
    /// The tree is there.
    Restored {
        /// Its root.
        root: u32,
        /// Signals that came between that and the worker's end.
        early: Vec<i32>,
    },
}

/// A signal ended the restore.
#[derive(Debug, thiserror::Error)]
#[error("broken off by signal {signal}; {left}, and the checkpoint is as it was")]
pub(in super::super) struct BrokenOff {
    signal: i32,
    left: String,
}

impl BrokenOff {
    /// The exit code, as shells have it.
    pub(in super::super) fn code(&self) -> u8 {
        End::Signal(self.signal).code()
    }
}

/// Waits for the root of a restored tree, which is a child of this process, and
/// passes signals on to it.
fn wait_for_root(root: u32, signals: &Signals) -> Result<End> {
    loop {
        let next = || family::next_end().with_context(|| format!("cannot wait for process {root}"));
        while let Some((pid, end)) = next()? {
            if pid == root {
                return Ok(end);
            }
        }
        match signals.next() {
            libc::SIGCHLD => {}
            signal => pass_on(root, signal),
        }
    }
}

/// To a child that is not reaped yet.
fn pass_on(root: u32, signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::kill(root as i32, signal) };
}

/// The signals that are waited for, in place of their actions.
struct Signals(libc::sigset_t);

impl Signals {
    /// From now on. What whoever started this process has ignored (`nohup`) stays so.
    fn block() -> Signals {
        // SAFETY: sets and actions of this function's own.
        unsafe {
            let mut set = MaybeUninit::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in PASSED_ON {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, ptr::null(), &mut action);
                if action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&mut set, signal);
                }
            }
            libc::sigaddset(&mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
            Signals(set)
        }
    }

    fn next(&self) -> i32 {
        loop {
            // SAFETY: our own set; no more than the number is asked for.
            let signal = unsafe { libc::sigwaitinfo(&self.0, ptr::null_mut()) };
            if signal > 0 {
                return signal;
            }
        }
    }
}
