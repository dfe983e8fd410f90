//! Device memory that goes to a snapshot before a lock, and comes back after an unlock.

use rewarm::config::Settings;
use rewarm::control::{
    ControlError, Freeze, Order, Process, ProcessError, ProcessReport, State, Thaw,
};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a thaw waits for GPU memory that others may hold, in seconds. Nobody
/// else would try again.
const WAIT_SECONDS: f64 = 600.0;

/// The device memory of a process could not be taken out, or brought back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FreezingError {
    #[error("{0}")]
    Process(#[from] ProcessError),
    #[error("{0}")]
    Control(#[from] ControlError),
    #[error("REWARM_SNAPSHOT_DIR={} is not an absolute path", .0.display())]
    Relative(PathBuf),
}

/// Freezes a process, if it can and a folder for that is set. Tells whether it did.
///
/// # Errors
/// If it should have frozen and did not. It then goes on as before.
pub(crate) fn freeze(process: &Process, timeout: Duration) -> Result<bool, FreezingError> {
    // Who does not answer is left to the driver, as a process without rewarm is.
    let Ok(report) = process.connect().map(|client| client.status()) else {
        return Ok(false);
    };
    let Ok(report) = report else { return Ok(false) };
    let Some(folder) = folder(process, &report)? else {
        return Ok(false);
    };
    let request = Freeze {
        to: place(process, &folder),
        drain_seconds: if timeout.is_zero() {
            Freeze::MAX_DRAIN_SECONDS
        } else {
            timeout.as_secs_f64().min(Freeze::MAX_DRAIN_SECONDS)
        },
        budget_bytes: None,
    };
    let frozen = process.connect()?.freeze_for_lock(request);
    if let Err(error) = frozen {
        // If it freezes all the same, it thaws then.
        let _ = post_thaw(process);
        return Err(error.into());
    }
    Ok(true)
}

/// The folder that is set for the process, if it can be frozen.
fn folder(process: &Process, report: &ProcessReport) -> Result<Option<PathBuf>, FreezingError> {
    let own = Settings::from_env().0;
    if report.state != State::Active || !report.memory.freezable || own.disable {
        return Ok(None);
    }
    match (&report.settings.snapshot_dir, own.snapshot_dir) {
        (Some(folder), _) if folder.is_absolute() => Ok(Some(folder.clone())),
        (Some(folder), _) => Err(FreezingError::Relative(folder.clone())),
        (None, Some(folder)) => Ok(Some(process.folder_named(&folder)?)),
        (None, None) => Ok(None),
    }
}

/// A name that no other snapshot has: an image of CRIU may need any of them yet.
fn place(process: &Process, folder: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut name = host_name();
    name.push(format!(
        "-{}-{}",
        process.own_pid().unwrap_or(process.pid),
        now.unwrap_or_default().as_secs()
    ));
    let first = folder.join(&name);
    let others = (2..).map(|number| {
        let mut other = name.clone();
        other.push(format!("-{number}"));
        folder.join(other)
    });
    std::iter::once(first.clone())
        .chain(others)
        .find(|place| process.folder_from_here(place).symlink_metadata().is_err())
        .unwrap_or(first)
}

fn host_name() -> OsString {
    let name = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: Vec<u8> = name
        .trim_ascii()
        .iter()
        .filter(|byte| **byte != b'/')
        .copied()
        .collect();
    match name.is_empty() {
        true => "host".into(),
        false => OsString::from_vec(name),
    }
}

/// Thaws what this command froze, as it cannot be locked, and removes the snapshot.
pub(crate) fn undo(process: &Process) -> Result<(), FreezingError> {
    let request = Thaw {
        keep_snapshot: false,
        ..request()
    };
    process.connect()?.thaw(request, &mut |_| {})?;
    Ok(())
}

/// Leaves the request to thaw what a lock froze. Whoever was frozen otherwise stays
/// so. Waits for nothing.
pub(crate) fn post_thaw(process: &Process) -> Result<(), FreezingError> {
    match process.connect() {
        Ok(client) => Ok(client.post_thaw(request())?),
        // There is nothing that could be frozen.
        Err(
            ProcessError::Plain { .. }
            | ProcessError::NotActive { .. }
            | ProcessError::Foreign { .. }
            | ProcessError::Gone { .. }
            | ProcessError::Ended { .. },
        ) => Ok(()),
        Err(ProcessError::NoSocket(_)) if process.variable("REWARM_FREEZABLE").is_none() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn request() -> Thaw {
    Thaw {
        from: None,
        keep_snapshot: true,
        verify: true,
        wait_seconds: WAIT_SECONDS,
        order: Order::default(),
    }
}
