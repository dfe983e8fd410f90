//! What CRIU starts at each stage of its work: this program again, which asks the
//! command that waits for it whether CRIU may go on. CRIU leaves it no descriptors,
//! but its work folder as the current one: there is a socket in it.

use anyhow::{Context, Result};
use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

/// Says that this is the hook, and at which stage it asks.
const VARIABLE: &str = "REWARM_HOOK_STAGE";

/// Name of the socket.
const SOCKET: &str = "hook.sock";

/// CRIU names the stage in it, see criu(8).
const STAGE: &str = "CRTOOLS_SCRIPT_ACTION";

/// What is answered if CRIU may go on.
const GO_ON: u8 = b'!';

/// When CRIU waits for the command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// All is written, and the processes stand still. Anything but a yes makes CRIU
    /// let them go on.
    PostDump,
    /// All is restored, and the processes stand still. Anything but a yes makes CRIU
    /// kill them.
    PostRestore,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Stage::PostDump => "post-dump",
            Stage::PostRestore => "post-restore",
        }
    }

    /// The environment that the hook needs.
    pub(super) fn environment(self) -> [(&'static str, OsString); 1] {
        [(VARIABLE, self.name().into())]
    }
}

/// If this is the hook, asks if it is the stage for it.
pub(super) fn run() -> Option<ExitCode> {
    let (now, asked_at) = (env::var_os(STAGE)?, env::var_os(VARIABLE)?);
    if now != asked_at {
        return Some(ExitCode::SUCCESS);
    }
    let mut answer = [0];
    let asked = UnixStream::connect(SOCKET).and_then(|mut socket| socket.read_exact(&mut answer));
    let may_go_on = asked.is_ok() && answer == [GO_ON];
    Some(ExitCode::from(u8::from(!may_go_on)))
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

/// A hook that waits for an answer; dropping it is a no.
pub(super) struct Question(UnixStream);

impl Question {
    /// Says yes.
    ///
    /// # Errors
    /// If the hook has ended: then CRIU has taken that for a no.
    pub(super) fn go_on(mut self) -> io::Result<()> {
        self.0.write_all(&[GO_ON])
    }
}
