//! A process that undoes if the command is killed.
//!
//! It reads from a pipe whose other end the command holds, and CRIU. When it ends
//! without a word, both have ended, and there is something to undo.

use super::undo::{self, Outcome, Plan};
use crate::cli::text;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

/// Name of the hidden command.
const NAME: &str = "checkpoint-guardian";

/// The last word: there is nothing to undo.
const DONE: &str = "done\n";

const CANNOT: &str = "cannot start the process that undoes a checkpoint if this one is killed";

/// A plan is at most so long, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// Undo a checkpoint whose command was killed
#[derive(clap::Args)]
pub(in crate::cli) struct GuardianArgs {}

/// The guardian, as the command sees it.
pub(super) struct Guardian {
    child: Child,
    pipe: PipeWriter,
}

impl Guardian {
    /// Starts it, before there is anything to undo.
    pub(super) fn start() -> Result<Guardian> {
        let start = || -> Result<Guardian> {
            let (reader, pipe) = pipe()?;
            let mut command = Command::new("/proc/self/exe");
            command.arg(NAME).stdin(reader).stdout(Stdio::piped());
            // SAFETY: one system call, after the fork.
            unsafe {
                command.pre_exec(|| {
                    libc::setsid();
                    Ok(())
                });
            }
            let child = command.spawn()?;
            Ok(Guardian { child, pipe })
        };
        start().context(CANNOT)
    }

    /// Tells it what to undo from here on, and waits until it has understood.
    pub(super) fn entrust(&mut self, plan: &Plan) -> Result<()> {
        let mut entrust = || -> Result<()> {
            let mut line = serde_json::to_vec(plan)?;
            line.push(b'\n');
            self.pipe.write_all(&line)?;
            let mut ready = [0];
            let mut said = self.child.stdout.take().context("its output is a pipe")?;
            Ok(said.read_exact(&mut ready)?)
        };
        entrust().context(CANNOT)
    }

    /// The end of the pipe that CRIU holds, too.
    pub(super) fn descriptor(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }

    /// Tells it that there is nothing to undo, and waits until it has ended.
    pub(super) fn release(mut self) {
        // If it was killed, there is nobody to tell.
        let _ = self.pipe.write_all(DONE.as_bytes());
        drop(self.pipe);
        let _ = self.child.wait();
    }
}

/// The guardian itself.
pub(in crate::cli) fn run(_args: &GuardianArgs) -> Result<ExitCode> {
    let mut input = BufReader::new(io::stdin().lock().take(MOST_BYTES));
    let mut line = String::new();
    input.read_line(&mut line)?;
    if line.is_empty() {
        // Nothing was begun.
        return Ok(ExitCode::SUCCESS);
    }
    let plan: Plan = serde_json::from_str(&line)
        .context("`rewarm checkpoint` starts this command when it needs it")?;
    io::stdout().write_all(b".")?;
    io::stdout().flush()?;
    let mut word = String::new();
    input.read_line(&mut word)?;
    if word == DONE {
        return Ok(ExitCode::SUCCESS);
    }
    let undone = undo::undo(&plan, None);
    let _ = fs::remove_dir_all(&plan.work);
    match undone {
        Ok(Outcome::Undone) => {
            eprintln!("rewarm: the checkpoint was killed half way; the processes run on as before");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Outcome::Kept) => {
            let folder = plan.place.folder.display().to_string();
            let folder = text::printable(&folder);
            eprintln!("rewarm: the checkpoint was killed at its end; it is whole, in {folder}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            bail!("the checkpoint was killed half way, and not all could be undone: {error:#}")
        }
    }
}
