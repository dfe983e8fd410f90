//! The asking side.

use super::protocol::{Request, Response, Versioned, understand_answer};
use super::socket::{self, Timed};
use super::{
    ControlError, Discard, Freeze, FreezeReport, Prepare, PrepareReport, ProcessReport, Progress,
    Thaw, ThawReport, frame,
};
use crate::config::effective_uid;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a process may take to answer; a stopped one never does.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// How long a process at work may say nothing. It speaks once a second.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to one process.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pid: u32,
    silence: Duration,
}

impl Client {
    /// Connects to a process that listens in one of the folders, under the pid
    /// that it sees itself.
    ///
    /// # Errors
    /// If it does not listen there, or does not let this user in.
    pub fn connect(run_dirs: &[PathBuf], pid: u32) -> Result<Client, ControlError> {
        Client::connect_by(run_dirs, pid, |path| socket::connect(path, PATIENCE))
    }

    /// The same in a way of one's own.
    pub(super) fn connect_by(
        run_dirs: &[PathBuf],
        pid: u32,
        connect: impl Fn(&Path) -> io::Result<UnixStream>,
    ) -> Result<Client, ControlError> {
        for folder in run_dirs {
            let path = socket_path(folder, pid);
            match connect(&path) {
                Ok(stream) => {
                    return Ok(Client {
                        stream,
                        pid,
                        silence: SILENCE,
                    });
                }
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(ControlError::io("connect to", &path)(error)),
            }
        }
        Err(ControlError::NotListening {
            pid,
            folders: run_dirs.to_vec(),
        })
    }

    /// Gives a process at work up after such a silence, in place of 30 s.
    pub fn give_up_after(mut self, silence: Duration) -> Client {
        self.silence = silence;
        self
    }

    /// Pid of the process that listens, as seen from here; 0 if it cannot be seen.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn peer_pid(&self) -> io::Result<u32> {
        Ok(socket::peer(&self.stream)?.pid as u32)
    }

    /// Asks for the report.
    ///
    /// # Errors
    /// If the conversation breaks off or the process refuses.
    pub fn status(self) -> Result<ProcessReport, ControlError> {
        match self.ask(Request::Status)? {
            Response::Status(report) => Ok(*report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Says what need not survive a freeze, or must after all.
    ///
    /// # Errors
    /// If the conversation breaks off or the process refuses.
    pub fn discard(self, range: Discard) -> Result<(), ControlError> {
        match self.ask(Request::Discard(range))? {
            Response::Discarded => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Makes room for a snapshot, and tells meanwhile how far that is.
    ///
    /// # Errors
    /// As [`Client::freeze`].
    pub fn prepare(
        self,
        request: Prepare,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<PrepareReport, ControlError> {
        match self.work(Request::Prepare(request), tell)? {
            Response::Prepared(report) => Ok(report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Freezes the process, and tells meanwhile how far that is. Takes as long as
    /// it takes.
    ///
    /// # Errors
    /// If the process refuses or fails: then it goes on as before. If the
    /// conversation breaks off or the process falls silent, what became of it is
    /// not known.
    pub fn freeze(
        self,
        request: Freeze,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<FreezeReport, ControlError> {
        match self.work(Request::Freeze(request), tell)? {
            Response::Frozen(report) => Ok(report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Freezes the process because the driver is about to lock it: the same, but
    /// that [`Client::post_thaw`] undoes it.
    ///
    /// # Errors
    /// As [`Client::freeze`].
    pub fn freeze_for_lock(self, request: Freeze) -> Result<FreezeReport, ControlError> {
        match self.work(Request::FreezeForLock(request), &mut |_| {})? {
            Response::Frozen(report) => Ok(report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Leaves the request to thaw what was frozen for a lock, and waits for nothing:
    /// the process finds it as soon as it runs. A freeze under way is thawed after.
    /// What was frozen for another reason stays frozen.
    ///
    /// # Errors
    /// If the request cannot be left.
    pub fn post_thaw(self, request: Thaw) -> Result<(), ControlError> {
        let mut timed = Timed::new(&self.stream, PATIENCE);
        frame::write(&mut timed, &Versioned::new(Request::ThawAfterLock(request)))
            .map_err(|source| self.broken_off(source, PATIENCE))
    }

    /// Thaws the process, and tells meanwhile how far that is. Takes as long as it
    /// takes.
    ///
    /// # Errors
    /// If the process refuses or fails: then it stays frozen. If the conversation
    /// breaks off or the process falls silent, what became of it is not known.
    pub fn thaw(
        self,
        request: Thaw,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<ThawReport, ControlError> {
        match self.work(Request::Thaw(request), tell)? {
            Response::Thawed(report) => Ok(report),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What is answered at once.
    fn ask(&self, request: Request) -> Result<Response, ControlError> {
        let mut timed = Timed::new(&self.stream, PATIENCE);
        frame::write(&mut timed, &Versioned::new(request))
            .map_err(|source| self.broken_off(source, PATIENCE))?;
        self.hear(PATIENCE)
    }

    /// What takes long.
    fn work(
        &self,
        request: Request,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Response, ControlError> {
        let mut timed = Timed::new(&self.stream, PATIENCE);
        frame::write(&mut timed, &Versioned::new(request))
            .map_err(|source| self.broken_off(source, PATIENCE))?;
        loop {
            match self.hear(self.silence)? {
                Response::Progress(progress) => tell(progress),
                answer => return Ok(answer),
            }
        }
    }

    /// The next word, which has to come within a time.
    fn hear(&self, limit: Duration) -> Result<Response, ControlError> {
        let pid = self.pid;
        let answer = frame::read_bytes(&mut Timed::new(&self.stream, limit))
            .map_err(|source| self.broken_off(source, limit))?;
        match understand_answer(&answer) {
            Ok(Response::Error(message)) => Err(ControlError::Refused { pid, message }),
            Ok(response) => Ok(response),
            Err((Some(version), _)) => Err(ControlError::Version { pid, version }),
            Err((None, error)) => Err(self.broken_off(error.into(), limit)),
        }
    }

    fn broken_off(&self, source: frame::FrameError, limit: Duration) -> ControlError {
        let pid = self.pid;
        let kind = match &source {
            frame::FrameError::Io(error) => Some(error.kind()),
            _ => None,
        };
        match kind {
            Some(io::ErrorKind::TimedOut) => ControlError::Silent {
                pid,
                seconds: limit.as_secs(),
            },
            Some(
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe,
            ) => ControlError::HungUp { pid },
            _ => ControlError::Conversation { pid, source },
        }
    }

    fn unexpected(&self, response: &Response) -> ControlError {
        ControlError::Refused {
            pid: self.pid,
            message: format!("an answer to something else: {response:?}"),
        }
    }
}

/// Processes that listen in the folders, by the pids that they see themselves.
/// Sockets that this user's processes left behind are removed.
pub fn list(run_dirs: &[PathBuf]) -> Vec<u32> {
    let mut pids = Vec::new();
    for folder in run_dirs.iter().filter(|folder| is_trusted(folder)) {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for pid in entries.flatten().filter_map(|entry| pid_of(&entry.path())) {
            if is_served(folder, pid) {
                pids.push(pid);
            }
        }
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Whether anyone listens. A socket is removed only if its process is gone: one
/// of another container may answer to a pid that does not exist here.
fn is_served(folder: &Path, pid: u32) -> bool {
    let path = socket_path(folder, pid);
    match socket::connect(&path, PATIENCE) {
        Ok(_) => true,
        Err(error) => {
            if error.kind() == io::ErrorKind::ConnectionRefused && !socket::is_alive(pid) {
                let _ = fs::remove_file(&path);
            }
            false
        }
    }
}

fn is_trusted(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == effective_uid())
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn socket_path(folder: &Path, pid: u32) -> PathBuf {
    folder.join(format!("{pid}.sock"))
}

fn pid_of(path: &Path) -> Option<u32> {
    path.file_name()?
        .to_str()?
        .strip_suffix(".sock")?
        .parse()
        .ok()
}
