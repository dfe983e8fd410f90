//! The driver's part: what is left of the processes on the GPUs.

use super::survey::Survey;
use anyhow::{Result, anyhow, bail};
use rewarm::checkpoint::Machine;
use rewarm::driver::{CheckpointDriver, CheckpointError, Devices, DevicesError};
use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The facts of the machine. The driver takes its time to start, so they are gathered
/// while the processes are frozen.
pub(super) struct Facts(Option<JoinHandle<Result<Devices, DevicesError>>>);

impl Facts {
    pub(super) fn gather(survey: &Survey) -> Facts {
        let is_needed = !survey.gpus.is_empty();
        let gather = || thread::Builder::new().spawn(Devices::look).ok();
        Facts(is_needed.then(gather).flatten())
    }

    pub(super) fn wait(self, survey: &Survey) -> Result<Machine> {
        if survey.gpus.is_empty() {
            return Ok(Machine::look(None));
        }
        let found = match self.0 {
            Some(thread) => thread.join().map_err(|_| anyhow!("a thread has ended"))?,
            None => Devices::look(),
        };
        Ok(Machine::look(Some(&found?)))
    }
}

/// Locks and checkpoints all processes that use CUDA, each step for all at once.
pub(super) fn checkpoint(survey: &Survey, drain: f64) -> Result<()> {
    let Some(driver) = &survey.driver else {
        return Ok(());
    };
    survey.still_holds()?;
    // No time at all would be for ever.
    let limit = Duration::from_secs_f64(drain.max(0.001));
    step(survey, driver, "lock", |driver, pid| {
        driver.lock(pid, limit)
    })?;
    step(survey, driver, "checkpoint", CheckpointDriver::checkpoint)
}

fn step(
    survey: &Survey,
    driver: &CheckpointDriver,
    doing: &str,
    work: impl Fn(&CheckpointDriver, u32) -> Result<(), CheckpointError> + Sync,
) -> Result<()> {
    let pids: Vec<_> = survey.gpus.iter().map(|gpu| gpu.process.pid).collect();
    let failures: Vec<_> = at_once(&pids, |pid| work(driver, pid))
        .into_iter()
        .filter_map(|result| Some(result.err()?.to_string()))
        .collect();
    if !failures.is_empty() {
        bail!("the driver cannot {doing}: {}", failures.join("\n  "));
    }
    Ok(())
}

/// Does the same for all processes at once. The results are in their order.
pub(super) fn at_once<R: Send>(pids: &[u32], work: impl Fn(u32) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let begin = |pid: &u32| {
            let pid = *pid;
            let thread = thread::Builder::new().spawn_scoped(scope, move || work(pid));
            (pid, thread.ok())
        };
        let begun: Vec<_> = pids.iter().map(begin).collect();
        let end = |(pid, thread): (u32, Option<thread::ScopedJoinHandle<R>>)| match thread {
            Some(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // What no thread could be had for is done here.
            None => work(pid),
        };
        begun.into_iter().map(end).collect()
    })
}
