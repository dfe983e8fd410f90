//! A server that goes on when its command has returned, for scripts and CRIU's plugin.

use anyhow::{Context, Result, bail};
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

/// How a text begins that says what the background does; all else is why it cannot.
const READY: &str = "ready: ";

/// What is taken of a text, in bytes.
const MOST_BYTES: u64 = 16 << 10;

/// The two processes after a fork.
pub(super) enum Side {
    /// The command, which waits for the other one.
    Starter(Started),
    /// The process that goes on.
    Background(Background),
}

/// The way on which the background tells what became of its start.
pub(super) struct Started(PipeReader);

/// The process that goes on: in a session of its own, with nothing of the command's
/// terminal and pipes open.
pub(super) struct Background(Option<PipeWriter>);

/// Splits in two. This process must have one thread only.
///
/// # Errors
/// The system's, and if the log cannot be written.
pub(super) fn fork(log: Option<&Path>) -> Result<Side> {
    let log = open_log(log)?;
    let (reader, writer) = io::pipe()?;
    // SAFETY: there is one thread, so the child can go on like this process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot start a process"),
        0 => {
            leave(&log)?;
            Ok(Side::Background(Background(Some(writer))))
        }
        _ => Ok(Side::Starter(Started(reader))),
    }
}

/// Anew for each start; CRIU's work folder may be anybody's, so links are not followed.
fn open_log(log: Option<&Path>) -> Result<File> {
    let log = log.unwrap_or(Path::new("/dev/null"));
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(log);
    opened.with_context(|| log.display().to_string())
}

/// Who waits for the end of what the command holds must not wait for the server.
fn leave(log: &File) -> Result<()> {
    let null = File::open("/dev/null").context("/dev/null")?;
    // SAFETY: descriptors that are open, onto numbers that are for this.
    unsafe {
        libc::setsid();
        libc::dup2(null.as_raw_fd(), 0);
        libc::dup2(log.as_raw_fd(), 1);
        libc::dup2(log.as_raw_fd(), 2);
    }
    Ok(())
}

impl Started {
    /// Waits until the background is ready, and tells what it does.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn wait(self) -> Result<String> {
        let mut said = Vec::new();
        self.0.take(MOST_BYTES).read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        match said.strip_prefix(READY) {
            Some(text) => Ok(text.to_owned()),
            None if said.is_empty() => bail!("the page server was killed before it could listen"),
            None => bail!(said.into_owned()),
        }
    }
}

impl Background {
    /// CRIU may begin.
    pub(super) fn ready(&mut self, text: &str) {
        self.say(&format!("{READY}{text}"));
    }

    /// Does the work to its end. Until it is ready, the command says what is wrong.
    ///
    /// # Errors
    /// Those of the work, for the log.
    pub(super) fn run(
        mut self,
        work: impl FnOnce(&mut Background) -> Result<()>,
    ) -> Result<ExitCode> {
        let end = work(&mut self);
        if let Err(error) = &end {
            self.say(&format!("{error:#}"));
        }
        end.map(|()| ExitCode::SUCCESS)
    }

    fn say(&mut self, text: &str) {
        if let Some(mut starter) = self.0.take() {
            // If the command was killed, there is nobody to tell.
            let _ = starter.write_all(text.as_bytes());
        }
    }
}
