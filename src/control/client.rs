//! The asking side.

use super::protocol::{Request, Response, Versioned};
use super::socket::{self, Timed};
use super::{ControlError, ProcessReport, frame};
use crate::config::effective_uid;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a process may take to answer; a stopped one never does.
const PATIENCE: Duration = Duration::from_secs(3);

/// A connection to one process.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pid: u32,
}

impl Client {
    /// Connects to a process that listens in one of the folders, under the pid
    /// that it sees itself.
    ///
    /// # Errors
    /// If it does not listen there, or does not let this user in.
    pub fn connect(run_dirs: &[PathBuf], pid: u32) -> Result<Client, ControlError> {
        for folder in run_dirs {
            let path = socket_path(folder, pid);
            match socket::connect(&path, PATIENCE) {
                Ok(stream) => return Ok(Client { stream, pid }),
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(ControlError::io("connect to", &path)(error)),
            }
        }
        Err(ControlError::NotListening {
            pid,
            folders: run_dirs.to_vec(),
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If the conversation breaks off or the process refuses.
    pub fn ask(self, request: Request) -> Result<Response, ControlError> {
        let pid = self.pid;
        match self.converse(request) {
            Ok(Response::Error(message)) => Err(ControlError::Refused { pid, message }),
            Ok(response) => Ok(response),
            Err(source) => Err(ControlError::Conversation { pid, source }),
        }
    }

    /// Asks for the report.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(self) -> Result<ProcessReport, ControlError> {
        let pid = self.pid;
        match self.ask(Request::Status)? {
            Response::Status(report) => Ok(*report),
            other => Err(ControlError::Refused {
                pid,
                message: format!("an answer to something else: {other:?}"),
            }),
        }
    }

    fn converse(&self, request: Request) -> Result<Response, frame::FrameError> {
        let mut timed = Timed::new(&self.stream, PATIENCE);
        frame::write(&mut timed, &Versioned::new(request))?;
        Ok(frame::read::<Versioned<Response>>(&mut timed)?.message)
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
