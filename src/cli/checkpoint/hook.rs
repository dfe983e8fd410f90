//! What CRIU starts at each stage of a dump: this program again, which asks the
//! command that waits for it. CRIU leaves it no descriptors, but its work folder as
//! the current one: there is a socket in it.

use anyhow::{Context, Result};
use std::env;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Says that this is the hook.
pub(super) const VARIABLE: &str = "REWARM_CHECKPOINT_HOOK";

/// Name of the socket.
pub(super) const SOCKET: &str = "hook.sock";

/// CRIU names the stage in it, see criu(8).
const STAGE: &str = "CRTOOLS_SCRIPT_ACTION";

/// All is written, and the processes stand still.
const POST_DUMP: &str = "post-dump";

/// What is answered if the checkpoint is committed.
const COMMITTED: u8 = b'!';

/// If this is the hook, asks whether the checkpoint is committed. Anything but a yes
/// makes CRIU let the processes go on.
pub(in crate::cli) fn run() -> Option<ExitCode> {
    let (stage, socket) = (env::var_os(STAGE)?, env::var_os(VARIABLE)?);
    if stage != POST_DUMP {
        return Some(ExitCode::SUCCESS);
    }
    let mut answer = [0];
    let asked = UnixStream::connect(PathBuf::from(socket))
        .and_then(|mut socket| socket.read_exact(&mut answer));
    let is_committed = asked.is_ok() && answer == [COMMITTED];
    Some(ExitCode::from(u8::from(!is_committed)))
}

/// Where the hook is waited for.
pub(super) struct Hook(UnixListener);

impl Hook {
    /// Waits in CRIU's work folder.
    pub(super) fn listen(work: &Path) -> Result<Hook> {
        let listen = || -> io::Result<Hook> {
            // However long its path is: those of sockets are short.
            let folder = std::fs::File::open(work)?;
            let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(Hook(listener))
        };
        listen().with_context(|| format!("cannot make a socket in {}", work.display()))
    }

    /// The hook, if it has come.
    pub(super) fn asked(&self) -> Option<Question> {
        let (socket, _) = self.0.accept().ok()?;
        Some(Question(socket))
    }
}

/// A hook that waits for an answer. Without one CRIU lets the processes go on.
pub(super) struct Question(UnixStream);

impl Question {
    /// Says that the checkpoint is committed.
    ///
    /// # Errors
    /// If the hook has ended: then CRIU lets the processes go on.
    pub(super) fn committed(mut self) -> io::Result<()> {
        self.0.write_all(&[COMMITTED])
    }
}
