//! Device memory that goes to a snapshot before a lock, and comes back after an unlock.

use rewarm::config::Settings;
use rewarm::control::{ControlError, Freeze, Process, ProcessError, ProcessReport, State, Thaw};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    #[error("a freeze or thaw is under way")]
    Busy,
    #[error("REWARM_SNAPSHOT_DIR={} is not an absolute path", .0.display())]
    Relative(PathBuf),
}

/// Freezes a process, if it can and a folder for that is set. Tells where the
/// snapshot is.
///
/// # Errors
/// If it should have frozen and did not. It then goes on as before.
pub(crate) fn freeze(
    process: &Process,
    timeout: Duration,
) -> Result<Option<PathBuf>, FreezingError> {
    let longest = match timeout.is_zero() {
        true => Freeze::MAX_DRAIN_SECONDS,
        false => timeout.as_secs_f64().min(Freeze::MAX_DRAIN_SECONDS),
    };
    let Some(report) = settled(process, Duration::from_secs_f64(longest))? else {
        return Ok(None);
    };
    let Some(folder) = folder(process, &report)? else {
        return Ok(None);
    };
    let place = place(process, &folder);
    let request = Freeze {
        to: place.clone(),
        drain_seconds: longest,
        budget_bytes: None,
    };
    if let Err(error) = process.connect()?.freeze_for_lock(request) {
        // If it freezes all the same, it thaws then.
        let _ = post_thaw(process);
        remove_empty(process, &place);
        return Err(error.into());
    }
    Ok(Some(place))
}

/// What the process says when no freeze or thaw is under way, such as the thaw of an
/// unlock just before. Who does not answer is left to the driver, as a process
/// without rewarm is.
fn settled(process: &Process, longest: Duration) -> Result<Option<ProcessReport>, FreezingError> {
    const PAUSE: Duration = Duration::from_millis(10);
    let begun = Instant::now();
    loop {
        let Ok(client) = process.connect() else {
            return Ok(None);
        };
        let Ok(report) = client.status() else {
            return Ok(None);
        };
        match report.state {
            State::Freezing | State::Thawing if begun.elapsed() > longest => {
                return Err(FreezingError::Busy);
            }
            State::Freezing | State::Thawing => thread::sleep(PAUSE),
            _ => return Ok(Some(report)),
        }
    }
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
        .find(|place| !process.has(place))
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
pub(crate) fn undo(process: &Process, place: &Path) -> Result<(), FreezingError> {
    let request = Thaw {
        keep_snapshot: false,
        ..request()
    };
    process.connect()?.thaw(request, &mut |_| {})?;
    remove_empty(process, place);
    Ok(())
}

/// Removes the folder of a snapshot that is not there. In a container it may stay.
fn remove_empty(process: &Process, place: &Path) {
    if !process.is_elsewhere() {
        let _ = std::fs::remove_dir(place);
    }
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
        keep_snapshot: true,
        wait_seconds: WAIT_SECONDS,
        ..Thaw::default()
    }
}
