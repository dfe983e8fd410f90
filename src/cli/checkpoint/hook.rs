//! What CRIU starts at each stage of a dump: this program again, with a socket to the
//! command that waits for it.

use std::env;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

/// Number of the socket's descriptor.
pub(super) const VARIABLE: &str = "REWARM_CHECKPOINT_HOOK";

/// CRIU names the stage in it, see criu(8).
const STAGE: &str = "CRTOOLS_SCRIPT_ACTION";

/// All is written, and the processes stand still.
const POST_DUMP: &str = "post-dump";

/// What the hook asks, and what it is answered if the checkpoint is committed.
pub(super) const QUESTION: u8 = b'?';
pub(super) const COMMITTED: u8 = b'!';

/// If this is the hook, asks whether the checkpoint is committed. Anything but a yes
/// makes CRIU let the processes go on.
pub(in crate::cli) fn run() -> Option<ExitCode> {
    let stage = env::var_os(STAGE)?;
    let socket: RawFd = env::var(VARIABLE).ok()?.parse().ok()?;
    if stage != POST_DUMP || socket <= libc::STDERR_FILENO {
        return Some(ExitCode::SUCCESS);
    }
    // SAFETY: whoever set the variable has left it open for us, and nobody here uses it.
    let mut socket = unsafe { UnixStream::from_raw_fd(socket) };
    let mut answer = [0];
    let asked = socket
        .write_all(&[QUESTION])
        .and_then(|()| socket.read_exact(&mut answer));
    let is_committed = asked.is_ok() && answer == [COMMITTED];
    Some(ExitCode::from(u8::from(!is_committed)))
}
