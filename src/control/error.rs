//! What can go wrong between a process and whoever asks it.

use super::PROTOCOL_VERSION;
use super::frame::FrameError;
use std::io;
use std::path::{Path, PathBuf};

/// A failure of the control socket or of the report's file.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A system call on a path failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A path is there but must not be used.
    #[error("{} is not usable: {problem}", path.display())]
    Unusable {
        /// Which path.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No folder for the socket was given.
    #[error("there is no folder for control sockets")]
    NoFolder,
    /// The thread that serves the socket did not start.
    #[error("the control thread did not start: {0}")]
    Thread(#[source] io::Error),
    /// No process of that pid listens in any of the folders.
    #[error("process {pid} does not listen in {}", join(folders))]
    NotListening {
        /// The process asked for.
        pid: u32,
        /// Where was looked.
        folders: Vec<PathBuf>,
    },
    /// It ended, or became another program.
    #[error("process {pid} hung up without an answer: it may have ended")]
    HungUp {
        /// The process asked.
        pid: u32,
    },
    /// What it says cannot be understood.
    #[error(
        "process {pid} speaks version {version} of the protocol, and this rewarm version {PROTOCOL_VERSION}: ask with the rewarm that the process runs under"
    )]
    Version {
        /// The process asked.
        pid: u32,
        /// What it speaks.
        version: u32,
    },
    /// A message did not arrive whole.
    #[error("the conversation with process {pid} broke off: {source}")]
    Conversation {
        /// The process asked.
        pid: u32,
        /// How.
        source: FrameError,
    },
    /// A process answers soon, and at work says at least once a second how far it is.
    #[error(
        "process {pid} has said nothing for {seconds} s: it may be stopped; when it goes on, `rewarm status` tells what became of it"
    )]
    Silent {
        /// The process asked.
        pid: u32,
        /// How long was waited for a word, in seconds.
        seconds: u64,
    },
    /// The process answered that it cannot.
    #[error("process {pid} refused: {message}")]
    Refused {
        /// The process asked.
        pid: u32,
        /// What it said.
        message: String,
    },
}

impl ControlError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ControlError {
        move |source| ControlError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

fn join(folders: &[PathBuf]) -> String {
    let names: Vec<_> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    names.join(", ")
}
