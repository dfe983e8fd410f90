//! The log: to a file, and only when asked. Nothing is ever written to the host
//! process's own output.

use rewarm::config::Settings;
use rewarm::control::out_of_the_way;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

/// Starts logging if the settings name a file that can be opened.
pub(crate) fn start(settings: &Settings) {
    let Some(path) = &settings.log else { return };
    let Ok(file) = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
    else {
        return;
    };
    let file = File::from(out_of_the_way(file.into()));
    // A second start, in a forked child, finds the first one's log.
    let _ = tracing_subscriber::fmt()
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .try_init();
}
