//! Undoing a checkpoint that did not come about, and letting processes go on after
//! one that did.
//!
//! What there is to do is seen from the processes and the folder: it does not matter
//! how far it came, or whether it was undone half way before.

use super::driver::at_once;
use super::survey::Survey;
use super::work::Work;
use anyhow::{Context, Result, anyhow, bail};
use rewarm::checkpoint::tree::Facts;
use rewarm::checkpoint::{GPU, Manifest, Place};
use rewarm::control::{Process, State, Thaw};
use rewarm::driver::{CheckpointDriver, CheckpointError, CudaState};
use rewarm::pidfd::Pidfd;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// How long a thaw waits for memory that others may have taken meanwhile.
const WAIT_SECONDS: f64 = 60.0;

/// How often a process is asked whether it has ended what it is at.
const PAUSE: Duration = Duration::from_millis(50);

/// What an undo must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) place: Place,
    /// Id of the checkpoint.
    pub(super) id: u128,
    pub(super) leave_running: bool,
    /// Folder of CRIU's log.
    pub(super) work: PathBuf,
    processes: Vec<Planned>,
}

/// A process of the tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Planned {
    pid: u32,
    start_time: u64,
    uses_cuda: bool,
    is_freezable: bool,
}

/// What became of the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is none, and the processes run.
    Undone,
    /// It is whole.
    Kept,
}

impl Plan {
    pub(super) fn new(survey: &Survey, work: &Work, leave_running: bool) -> Plan {
        // Those that have ended are nobody's loss.
        let living = survey.tree.members.iter().map(|member| &member.facts);
        let living = living.filter(|facts| !facts.is_zombie());
        let planned = |facts: &Facts| {
            let gpu = survey.gpus.iter().find(|gpu| gpu.process.pid == facts.pid);
            Planned {
                pid: facts.pid,
                start_time: facts.start_time,
                uses_cuda: gpu.is_some(),
                is_freezable: gpu.is_some_and(|gpu| gpu.freezable.is_some()),
            }
        };
        Plan {
            place: survey.place.clone(),
            id: fresh_id(),
            leave_running,
            work: work.path().to_owned(),
            processes: living.map(planned).collect(),
        }
    }

    /// Whether the folder is the checkpoint already.
    fn is_committed(&self) -> bool {
        Manifest::read(&self.place.folder).is_ok_and(|manifest| manifest.id == self.id)
    }
}

/// Tells a checkpoint from all others of this machine.
fn fresh_id() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos()) << 32 | u128::from(std::process::id())
}

impl Planned {
    /// Whether it is still there.
    fn lives(&self) -> bool {
        let found = Facts::look(self.pid);
        found.is_ok_and(|found| found.start_time == self.start_time && !found.is_zombie())
    }
}

/// Undoes all. CRIU must have ended.
///
/// # Errors
/// What could not be undone, and what holds.
pub(super) fn undo(plan: &Plan, driver: Option<&CheckpointDriver>) -> Result<Outcome> {
    let place = &plan.place;
    if plan.is_committed() {
        if plan.leave_running {
            go_on(plan, driver)?;
            place.remove_partial()?;
            return Ok(Outcome::Kept);
        }
        if !plan.processes.iter().all(Planned::lives) {
            // CRIU was ending them: half of a tree is of no use.
            plan.processes.iter().for_each(kill);
            place.remove_partial()?;
            return Ok(Outcome::Kept);
        }
        place.retract()?;
    }
    bring_back(plan, driver, &place.partial(), false)?;
    place.remove_partial()?;
    Ok(Outcome::Undone)
}

/// Lets the processes go on after a checkpoint that is whole.
///
/// # Errors
/// Which of them do not, and what holds.
pub(super) fn go_on(plan: &Plan, driver: Option<&CheckpointDriver>) -> Result<()> {
    bring_back(plan, driver, &plan.place.folder, true)
}

/// Brings all processes back to the GPU.
fn bring_back(
    plan: &Plan,
    driver: Option<&CheckpointDriver>,
    folder: &Path,
    keep_snapshot: bool,
) -> Result<()> {
    let users = plan.processes.iter().filter(|one| one.uses_cuda);
    let pids: Vec<_> = users.map(|one| one.pid).collect();
    let opened = match driver {
        None if !pids.is_empty() => Some(CheckpointDriver::open()?),
        _ => None,
    };
    let Some(driver) = driver.or(opened.as_ref()) else {
        return Ok(());
    };
    let results = at_once(&pids, |pid| {
        let planned = plan.processes.iter().find(|one| one.pid == pid);
        // One that has ended needs nothing.
        let Some(planned) = planned.filter(|one| one.lives()) else {
            return Ok(());
        };
        to_the_gpu(driver, pid).with_context(|| format!("process {pid}"))?;
        if planned.is_freezable {
            let from = folder.join(GPU).join(pid.to_string());
            thaw(pid, from, keep_snapshot).with_context(|| format!("process {pid}"))?;
        }
        Ok(())
    });
    let failures: Vec<_> = results
        .into_iter()
        .filter_map(|result: Result<()>| Some(format!("{:#}", result.err()?)))
        .collect();
    if !failures.is_empty() {
        bail!(
            "{}; what is frozen is in {}",
            failures.join("; "),
            folder.join(GPU).display()
        );
    }
    Ok(())
}

/// The driver's part, from wherever it stands.
fn to_the_gpu(driver: &CheckpointDriver, pid: u32) -> Result<()> {
    /// Restore and unlock, and a look at what they came to; once more if somebody else
    /// is at it, too.
    const STEPS: u32 = 6;
    for _ in 0..STEPS {
        match driver.state(pid) {
            Ok(CudaState::Running) | Err(CheckpointError::NotCuda { .. }) => return Ok(()),
            Ok(CudaState::Locked) => driver.unlock(pid)?,
            Ok(CudaState::Checkpointed) => driver.restore(pid, &[])?,
            Ok(CudaState::Failed) => bail!("the driver has lost its device memory: end it"),
            Err(error) => return Err(error.into()),
        }
    }
    bail!("somebody else locks or checkpoints it again and again")
}

fn thaw(pid: u32, from: PathBuf, keep_snapshot: bool) -> Result<()> {
    let process = Process::find(pid)?;
    loop {
        let state = process.connect()?.status()?.state;
        match state {
            State::Freezing | State::Thawing => thread::sleep(PAUSE),
            State::Frozen => break,
            State::Inert | State::Active | State::Disabled => return Ok(()),
        }
    }
    let request = Thaw {
        from: Some(from),
        keep_snapshot,
        wait_seconds: WAIT_SECONDS,
        ..Thaw::default()
    };
    let thawed = process.connect()?.thaw(request, &mut |_| {});
    thawed
        .map(drop)
        .map_err(|error| anyhow!("stays frozen: {error}"))
}

fn kill(planned: &Planned) {
    // Once it is in hand, its number stays its own while we look who it is.
    if let Some(process) = Pidfd::open(planned.pid).ok().filter(|_| planned.lives()) {
        process.signal(libc::SIGKILL);
    }
}
