//! Processes that the driver holds: until it lets them go, whatever takes a GPU waits
//! in them for ever.

use anyhow::{Result, bail};
use rewarm::control::Process;
use rewarm::driver::{CheckpointDriver, CudaState};

/// Refuses processes that somebody has locked or checkpointed by the driver. Where the
/// driver cannot be asked, nothing is known, and nothing is refused.
///
/// # Errors
/// Which they are, and what to do.
pub(super) fn refuse_held(processes: &[Process]) -> Result<()> {
    let Ok(driver) = CheckpointDriver::open() else {
        return Ok(());
    };
    let held = processes.iter().filter_map(|process| {
        let pid = process.pid;
        let state = driver.state(pid).ok()?;
        let way = match state {
            CudaState::Locked => "--action unlock",
            CudaState::Checkpointed => "--toggle",
            CudaState::Running | CudaState::Failed => return None,
        };
        Some(format!(
            "process {pid} is {state} by the driver, for a checkpoint that is under way or was broken off: if none is, `cuda-checkpoint {way} --pid {pid}` brings it back"
        ))
    });
    let held: Vec<_> = held.collect();
    if held.is_empty() {
        return Ok(());
    }
    bail!(held.join("\n  "))
}
