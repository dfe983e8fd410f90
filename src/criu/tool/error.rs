//! What can go wrong with CRIU, and what to do about it.

use super::Version;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// The CRIU at hand cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum CriuError {
    /// There is none.
    #[error(
        "criu is not on the PATH: install CRIU 4.0 or newer, or name it with --criu or {}",
        super::VARIABLE
    )]
    Absent,
    /// It did not start, or not answer.
    #[error("{}: cannot be started: {error}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// It is something else.
    #[error("{}: does not tell its version as CRIU does", path.display())]
    NotCriu {
        /// The program.
        path: PathBuf,
    },
    /// It is too old.
    #[error("{}: is CRIU {version}, and 4.0 or newer is needed", path.display())]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: Version,
    },
    /// `criu check` found something missing.
    #[error("`{} check` fails: {said}", path.display())]
    Check {
        /// The program.
        path: PathBuf,
        /// What it said.
        said: String,
    },
    /// It took too long, and was killed.
    #[error("criu {doing} took longer than {seconds} s and was killed{}", said.text())]
    Late {
        /// `dump` or `restore`.
        doing: &'static str,
        /// What it was given, in seconds.
        seconds: u64,
        /// What its log says.
        said: Said,
    },
    /// It was killed because this command was.
    #[error("criu {doing} was interrupted")]
    Stopped {
        /// `dump` or `restore`.
        doing: &'static str,
    },
    /// It failed.
    #[error("criu {doing} failed ({status}){}", said.text())]
    Failed {
        /// `dump` or `restore`.
        doing: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What its log says.
        said: Said,
    },
}

/// What it says of a connection that a process outside of the tree has just then,
/// such as one that asks for the state.
const PASSING: [&str; 2] = ["External socket is used", "in-flight socket"];

impl CriuError {
    /// Whether it failed for what may be gone a moment later.
    pub fn is_passing(&self) -> bool {
        let CriuError::Failed { said, .. } = self else {
            return false;
        };
        let is_one = |line: &String| PASSING.iter().any(|part| line.contains(part));
        said.errors.iter().any(is_one)
    }

    pub(super) fn start(path: &Path, error: io::Error) -> CriuError {
        CriuError::Start {
            path: path.to_owned(),
            error,
        }
    }
}

/// What a log of CRIU says, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The last errors, without time and place in CRIU's source.
    pub errors: Vec<String>,
    /// What to do about them, if it is known.
    pub advice: Option<&'static str>,
}

impl Said {
    pub(super) fn of(log: &str) -> Said {
        let errors = worst_lines(log);
        let known = |line: &String| {
            let advice = ADVICE.iter().find(|(part, _)| line.contains(part));
            advice.map(|(_, advice)| *advice)
        };
        Said {
            advice: errors.iter().find_map(known),
            errors,
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.errors {
            text += &format!("\n    {line}");
        }
        if let Some(advice) = self.advice {
            text += &format!("\n  {advice}");
        }
        text
    }
}

/// Lines of a log that are kept, at most.
const MOST_LINES: usize = 6;

/// The last errors of a log. What they are followed by ("FAILED.") says nothing.
pub(super) fn worst_lines(log: &str) -> Vec<String> {
    let error = |line: &str| {
        let (_, what) = line.split_once("Error (")?;
        let (_, what) = what.split_once("): ").unwrap_or(("", what));
        let what = what.trim();
        // It warns so in every container, and goes on.
        let is_usual = what.starts_with("rlimit: ");
        let says_nothing = what.is_empty() || what.ends_with("FAILED.") || is_usual;
        (!says_nothing).then(|| what.to_owned())
    };
    let mut lines: Vec<_> = log.lines().filter_map(error).collect();
    lines.split_off(lines.len().saturating_sub(MOST_LINES))
}

/// Parts of CRIU's messages, and what helps.
const ADVICE: [(&str, &str); 16] = [
    (
        "External socket is used",
        "A unix socket of the tree has its other end in a process outside of it: close that connection, or checkpoint both ends as one tree.",
    ),
    (
        "Unix socket",
        "A unix socket cannot be saved: close it, or checkpoint both of its ends as one tree.",
    ),
    (
        "in-flight socket",
        "A client has connected to a unix socket, and the server has not taken it up: have it accept, or try again.",
    ),
    (
        "Connected TCP socket",
        "An established TCP connection appeared meanwhile: try again.",
    ),
    (
        "io_uring",
        "The process has an io_uring: start it so that it uses none.",
    ),
    (
        "userfaultfd",
        "The process has a userfaultfd: start it so that it uses none.",
    ),
    (
        "hugetlb",
        "The process has huge pages of hugetlbfs: start it without.",
    ),
    (
        "shell job",
        "The process belongs to a session or terminal of another process.",
    ),
    (
        "Session leader",
        "The process belongs to the session of a process outside of the tree.",
    ),
    (
        "bad build-ID",
        "A program or library was changed since the checkpoint: bring the old file back.",
    ),
    (
        "has bad size",
        "A file was changed since the checkpoint: bring the old file back.",
    ),
    (
        "File exists",
        "A pid of the checkpoint is taken by another process: wait until it ends, and try again.",
    ),
    (
        "Can't open file",
        "A file that the processes had open is missing: bring it back.",
    ),
    (
        "No space left on device",
        "The disk is full: free some space, or choose another folder.",
    ),
    (
        "Operation not permitted",
        "CRIU lacks a right: run it as root, in a container with the capabilities CHECKPOINT_RESTORE, SYS_PTRACE and SYS_ADMIN.",
    ),
    (
        "Compel: Unexpected signal",
        "A process died or was traced meanwhile: detach debuggers, and try again.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_are_told_without_their_places() {
        let log = "(00.01) Warn  (criu/x.c:1): harmless\n\
                   (00.02) Error (criu/sk-unix.c:866): unix: External socket is used. Consider using --ext-unix-sk\n\
                   (00.03) Error (criu/cr-dump.c:2098): Dumping FAILED.\n";
        let said = Said::of(log);
        let line = "unix: External socket is used. Consider using --ext-unix-sk";
        assert_eq!(said.errors, [line]);
        assert!(said.advice.unwrap().contains("other end"));
        assert_eq!(Said::of(""), Said::default());
    }

    #[test]
    fn a_long_log_is_cut_to_its_end() {
        let line = |number| format!("(0) Error (a.c:1): {number}\n");
        let log: String = (0..100).map(line).collect();
        let said = Said::of(&log);
        assert_eq!(said.errors.len(), MOST_LINES);
        assert_eq!(said.errors.last().unwrap(), "99");
    }
}
