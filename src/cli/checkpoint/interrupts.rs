//! Ctrl-C and SIGTERM: noted, so that what was done can be undone.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// From here on the first signal is noted. The second ends this command, and the
/// guardian undoes.
pub(super) fn catch() {
    extern "C" fn note(signal: libc::c_int) {
        const NOTE: &str =
            "\nrewarm: interrupted; what was done is undone, and the processes run on\n";
        CAUGHT.store(signal, Relaxed);
        // SAFETY: these may be called in a handler.
        unsafe {
            libc::write(libc::STDERR_FILENO, NOTE.as_ptr().cast(), NOTE.len());
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a handler that only calls what handlers may.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    // CRIU and the guardian may end at any time; that is no reason to end, too.
    // SAFETY: no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// From here on all signals do what they usually do.
pub(super) fn let_go() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGPIPE] {
        // SAFETY: the default action; no handler runs.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Whether a signal came.
pub(super) fn came() -> bool {
    CAUGHT.load(Relaxed) != 0
}

/// The exit status that tells the signal that came.
pub(super) fn status() -> Option<u8> {
    let signal = CAUGHT.load(Relaxed);
    (signal != 0).then_some(128 + signal as u8)
}

/// Fails if a signal came.
pub(super) fn check() -> Result<()> {
    match came() {
        true => bail!("it was interrupted"),
        false => Ok(()),
    }
}
