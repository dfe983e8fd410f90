//! What processes had on the GPU: the driver's part, and the memory.

use super::super::fleet::together;
use anyhow::{Context, Result, anyhow, bail};
use rewarm::checkpoint::fit::{self, GpuPlan, Misfit};
use rewarm::checkpoint::{GpuEntry, Machine, Manifest, ProcessEntry};
use rewarm::control::{Process, Progress, State, Thaw, ThawReport};
use rewarm::driver::sys::{CUresult, CUuuid};
use rewarm::driver::{CheckpointDriver, CudaState, DeviceFacts, Devices, Uuid};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// The driver, on its way: to start it takes a moment.
pub(super) struct Gpus {
    driver: Arc<CheckpointDriver>,
    /// Whether the checkpoint's own GPUs are all in this machine.
    are_all_here: bool,
    attaching: JoinHandle<Result<()>>,
}

impl Gpus {
    /// Opens the driver and has it start, if any process needs it.
    pub(super) fn begin(manifest: &Manifest) -> Result<Option<Gpus>, Misfit> {
        if manifest
            .processes
            .iter()
            .all(|process| process.gpu.is_none())
        {
            return Ok(None);
        }
        let cannot = |why: String| {
            Misfit::Machine(format!(
                "the checkpoint has processes that use a GPU, and here {why}: restore on a machine with the GPUs and the driver that it was made with"
            ))
        };
        let driver = CheckpointDriver::open().map_err(|error| cannot(error.to_string()))?;
        let driver = Arc::new(driver);
        // Before the driver starts: while it does, the kernel does not tell.
        let are_all_here = fit::are_all_here(&manifest.machine.gpus);
        let attached = Arc::clone(&driver);
        let attaching = thread::Builder::new()
            .spawn(move || Ok(attached.attach()?))
            .map_err(|error| cannot(format!("no thread can be started ({error})")))?;
        Ok(Some(Gpus {
            driver,
            are_all_here,
            attaching,
        }))
    }

    /// Where the memory of the checkpoint's GPUs goes.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub(super) fn plan(&self, manifest: &Manifest, folder: &Path) -> Result<GpuPlan, Vec<Misfit>> {
        let then = &manifest.machine.gpus;
        let devices = if self.are_all_here {
            // The same machine: no need to wait for the driver.
            let facts = then.iter().map(|gpu| DeviceFacts {
                name: gpu.name.clone(),
                uuid: gpu.uuid,
                bytes: gpu.bytes,
            });
            Devices {
                driver_version: self.driver.version(),
                devices: facts.collect(),
            }
        } else {
            Devices::look().map_err(|error| vec![Misfit::Machine(error.to_string())])?
        };
        fit::plan_gpus(manifest, folder, &Machine::look(Some(&devices)))
    }

    /// The driver, when it has started.
    pub(super) fn attached(self) -> Result<Arc<CheckpointDriver>> {
        match self.attaching.join() {
            Ok(attached) => attached.map(|()| self.driver),
            Err(_) => bail!("the driver's start was left undone"),
        }
    }
}

/// What a process got back.
pub(super) struct Back {
    pub(super) pid: u32,
    /// Seconds that the driver took.
    pub(super) driver_seconds: f64,
    /// What its thaw came to, if it was frozen.
    pub(super) thaw: Option<ThawReport>,
}

/// How memory is to come back.
pub(super) struct Way<'a> {
    /// The checkpoint.
    pub(super) folder: &'a Path,
    pub(super) driver: &'a CheckpointDriver,
    pub(super) plan: &'a GpuPlan,
    /// Longest wait for free GPU memory.
    pub(super) wait_seconds: f64,
}

/// Brings all processes of GPUs back at once.
///
/// # Errors
/// What failed, for each process that it failed for.
pub(super) fn bring_back(manifest: &Manifest, way: &Way) -> Result<Vec<Back>> {
    let entries = users(manifest);
    let find = |(entry, _): (&ProcessEntry, _)| {
        Process::find(entry.pid).map_err(|_| anyhow!(was_killed(entry.pid)))
    };
    let processes = entries.clone().map(find).collect::<Result<Vec<_>>>()?;
    let results = together(&processes, |process, show| {
        let (_, gpu) = entries
            .clone()
            .find(|(entry, _)| entry.pid == process.pid)
            .context("no such process")?;
        way.bring(process, gpu, show)
    });
    let mut back = Vec::new();
    let mut failures = Vec::new();
    for (process, result) in processes.iter().zip(results) {
        match result {
            Ok(one) => back.push(one),
            Err(_) if process.ends() => failures.push(was_killed(process.pid)),
            Err(error) => failures.push(format!("process {}: {error:#}", process.pid)),
        }
    }
    if failures.is_empty() {
        Ok(back)
    } else {
        bail!(failures.join("\n  "))
    }
}

fn was_killed(pid: u32) -> String {
    format!("process {pid} was killed or ended during the restore")
}

/// The processes that use GPUs.
pub(super) fn users(
    manifest: &Manifest,
) -> impl Iterator<Item = (&ProcessEntry, &GpuEntry)> + Clone {
    let processes = manifest.processes.iter();
    processes.filter_map(|process| Some((process, process.gpu.as_ref()?)))
}

impl Way<'_> {
    fn bring(
        &self,
        process: &Process,
        gpu: &GpuEntry,
        show: &mut dyn FnMut(Progress),
    ) -> Result<Back> {
        let begun = Instant::now();
        self.restore(process.pid)?;
        let driver_seconds = begun.elapsed().as_secs_f64();
        let thaw = match &gpu.snapshot {
            Some(snapshot) => Some(self.thaw(process, snapshot, show)?),
            None => None,
        };
        Ok(Back {
            pid: process.pid,
            driver_seconds,
            thaw,
        })
    }

    /// The driver's part.
    fn restore(&self, pid: u32) -> Result<()> {
        let driver = self.driver;
        let state = driver.state(pid)?;
        if state == CudaState::Checkpointed {
            let uuid = |uuid: u128| -> Uuid {
                CUuuid {
                    bytes: uuid.to_be_bytes(),
                }
            };
            let moves = self.plan.moves.iter();
            let moves: Vec<_> = moves.map(|&(old, new)| (uuid(old), uuid(new))).collect();
            driver.restore(pid, &moves).map_err(|error| match error.code() {
                Some(CUresult::OUT_OF_MEMORY) => anyhow!(
                    "{error}: the GPU has too little free memory (nvidia-smi shows who uses it); free some, and restore again"
                ),
                _ => error.into(),
            })?;
        }
        match driver.state(pid)? {
            CudaState::Locked => Ok(driver.unlock(pid)?),
            CudaState::Running => Ok(()),
            state => bail!("the driver's restore has left it {state}"),
        }
    }

    fn thaw(
        &self,
        process: &Process,
        snapshot: &Path,
        show: &mut dyn FnMut(Progress),
    ) -> Result<ThawReport> {
        let request = Thaw {
            from: Some(self.folder.join(snapshot)),
            keep_snapshot: true,
            wait_seconds: self.wait_seconds,
            ..Thaw::default()
        };
        Ok(process.connect()?.thaw(request, show)?)
    }

    /// Asks a process that should have everything back whether it runs.
    ///
    /// # Errors
    /// If it does not.
    pub(super) fn check_state(&self, pid: u32, gpu: &GpuEntry) -> Result<()> {
        let process = Process::find(pid)?;
        match self.driver.state(pid)? {
            CudaState::Running => {}
            state => bail!("process {pid}: the driver says that it is {state}"),
        }
        if gpu.snapshot.is_some() {
            let state = process.connect()?.status()?.state;
            if state != State::Active {
                bail!("process {pid} is {state:?} in place of active");
            }
        }
        Ok(())
    }
}
