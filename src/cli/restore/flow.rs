//! The steps of a restore.

use super::super::hook::Stage;
use super::super::text;
use super::RestoreArgs;
use super::ahead::Ahead;
use super::family::{End, end_of};
use super::gpu::{self, Back, Gpus, Way};
use super::memory::Memory;
use super::report::{Report, Steps};
use super::watch::Worker;
use anyhow::{Context, Result, anyhow, bail};
use rewarm::checkpoint::fit::{self, GpuPlan, Misfit};
use rewarm::checkpoint::{CheckpointError, IMAGES, Manifest};
use rewarm::control::Process;
use rewarm::criu::pages::PageReport;
use rewarm::criu::tool::{Criu, Restore, Script};
use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why a restore failed.
pub(super) struct Failure {
    pub(super) why: anyhow::Error,
    /// Whether processes may have come to life.
    pub(super) has_begun: bool,
}

impl Failure {
    fn before(why: impl Into<anyhow::Error>) -> Failure {
        let why = why.into();
        let has_begun = false;
        Failure { why, has_begun }
    }

    fn midway(why: impl Into<anyhow::Error>) -> Failure {
        let why = why.into();
        let has_begun = true;
        Failure { why, has_begun }
    }
}

/// Restores the checkpoint in a folder, and declares it.
pub(super) fn restore(
    args: &RestoreArgs,
    folder: &Path,
    manifest: &Manifest,
    worker: &Worker,
) -> Result<Report, Failure> {
    let mut steps = Steps::new(Instant::now());
    let criu = Criu::find(args.criu.as_deref()).map_err(Failure::before)?;
    let gpus = Gpus::begin(manifest);
    let ahead = Ahead::begin(manifest, folder);
    let mut misfits = fit::check(manifest, folder, criu.version());
    let mut plan = GpuPlan::default();
    match gpus.as_ref().map(Option::as_ref) {
        Ok(None) => {}
        Ok(Some(gpus)) => match gpus.plan(manifest, folder) {
            Ok(found) => plan = found,
            Err(more) => misfits.extend(more),
        },
        Err(misfit) => misfits.push(misfit.clone()),
    }
    if args.truncate_files {
        cut_back(&mut misfits).map_err(Failure::before)?;
    }
    let (Ok(gpus), true) = (gpus, misfits.is_empty()) else {
        return Err(Failure::before(unfit(folder, &misfits)));
    };
    steps.checked();
    let run = Run {
        args,
        folder,
        worker,
        manifest,
        plan: &plan,
    };
    run.restore(&criu, gpus, ahead, &mut steps)
        .map_err(Failure::midway)
}

/// A restore that has begun.
struct Run<'a> {
    args: &'a RestoreArgs,
    folder: &'a Path,
    worker: &'a Worker,
    manifest: &'a Manifest,
    plan: &'a GpuPlan,
}

impl Run<'_> {
    fn restore(
        &self,
        criu: &Criu,
        gpus: Option<Gpus>,
        ahead: Ahead,
        steps: &mut Steps,
    ) -> Result<Report> {
        let mut memory = Memory::begin(self.args, self.folder, self.worker, self.manifest)?;
        match self.bring_back(criu, gpus, ahead, &mut memory, steps) {
            Ok((back, filled)) => {
                memory.release();
                self.worker.succeeded(self.manifest.root)?;
                Ok(Report::new(self.manifest, steps, &back, filled))
            }
            Err(error) => Err(memory.cause_of(error)),
        }
    }

    fn bring_back(
        &self,
        criu: &Criu,
        gpus: Option<Gpus>,
        ahead: Ahead,
        memory: &mut Memory,
        steps: &mut Steps,
    ) -> Result<(Vec<Back>, Option<PageReport>)> {
        self.make_processes(criu, memory)?;
        self.pin_threads();
        steps.resumed();
        let driver = gpus.map(Gpus::attached).transpose()?;
        drop(ahead);
        let way = driver.as_ref().map(|driver| Way {
            folder: self.folder,
            driver,
            plan: self.plan,
            wait_seconds: self.args.wait.unwrap_or(0.0),
        });
        let back = match &way {
            Some(way) => gpu::bring_back(self.manifest, way)?,
            None => Vec::new(),
        };
        steps.gpus_back();
        let filled = memory.wait()?;
        self.check_states(way.as_ref())?;
        Ok((back, filled))
    }

    /// Has CRIU make the processes again and let them go on.
    fn make_processes(&self, criu: &Criu, memory: &mut Memory) -> Result<()> {
        let mut options = self.manifest.restore_options.clone();
        options.extend(memory.option().map(str::to_owned));
        let program = env::current_exe().context("cannot find the executable")?;
        let environment = memory.asks_at().map(Stage::environment);
        let mut running = criu.restore(&Restore {
            images: &self.folder.join(IMAGES),
            work: self.worker.work(),
            options: &options,
            script: environment.as_ref().map(|environment| Script {
                program: &program,
                environment,
            }),
        })?;
        let limit = Duration::from_secs_f64(self.args.criu_timeout);
        let mut answered = Ok(());
        let ended = running.wait(limit, self.worker.is_broken_off(), || {
            if answered.is_ok() {
                answered = memory.answer();
            }
        });
        answered?;
        ended?;
        memory.criu_has_ended();
        Ok(())
    }

    /// Has threads run on the CPUs that they ran on. Where there are no such CPUs,
    /// they run slower perhaps, but not wrongly.
    fn pin_threads(&self) {
        let pinned = self.manifest.processes.iter().flat_map(|one| &one.pinned);
        let failed: Vec<_> = pinned.filter_map(|one| one.pin().err()).collect();
        if let Some(error) = failed.first() {
            eprintln!(
                "rewarm: {} threads cannot run on the CPUs that they were bound to, and run on any: {error}",
                failed.len()
            );
        }
    }

    /// Asks those whether they live whose life matters: the first process, and those
    /// of GPUs. Others may have come to their end since.
    fn check_states(&self, way: Option<&Way>) -> Result<()> {
        if let Some(way) = way {
            for (process, gpu) in gpu::users(self.manifest) {
                way.check_state(process.pid, gpu)?;
            }
        }
        let root = self.manifest.root;
        match end_of(root) {
            Some(End::Signal(signal)) => {
                bail!("process {root} was killed by signal {signal} during the restore")
            }
            // It may have had nothing left to do.
            Some(End::Status(_)) => Ok(()),
            None => Process::find(root)
                .map(drop)
                .context("the first process did not come back"),
        }
    }
}

/// Cuts files that have grown, if that is all that stands in the way.
fn cut_back(misfits: &mut Vec<Misfit>) -> Result<()> {
    if !misfits.iter().all(|one| matches!(one, Misfit::Grown(_))) {
        return Ok(());
    }
    for misfit in misfits.drain(..) {
        let Misfit::Grown(cut) = misfit else { continue };
        cut.make()
            .with_context(|| format!("{}: cannot be cut", cut.path.display()))?;
        eprintln!("rewarm: {}: it was cut", text::printable(&cut.to_string()));
    }
    Ok(())
}

/// The manifest of the checkpoint in a folder.
pub(super) fn open(folder: &Path) -> Result<Manifest> {
    match Manifest::read(folder) {
        Ok(manifest) => Ok(manifest),
        Err(CheckpointError::None { .. }) => bail!(why_none(folder)),
        Err(error) => Err(error.into()),
    }
}

/// What is in a folder without a manifest.
fn why_none(folder: &Path) -> String {
    let name = folder.display();
    let is_there = |name: &str| folder.join(name).exists();
    if is_there("inventory.img") {
        format!(
            "{name}: these are images of a plain `criu dump`, not a checkpoint of rewarm's: restore them with `criu restore --lazy-pages --images-dir {name}`, and serve their pages with `rewarm page-server`"
        )
    } else if !folder.exists() {
        format!("{name}: there is no such folder")
    } else {
        format!(
            "{name}: holds no checkpoint (there is no checkpoint.json): name a folder that `rewarm checkpoint` made"
        )
    }
}

fn unfit(folder: &Path, misfits: &[Misfit]) -> anyhow::Error {
    let mut text = format!(
        "the checkpoint in {} cannot be restored here; nothing was started:",
        folder.display()
    );
    for misfit in misfits {
        text += &format!("\n  {misfit}");
    }
    anyhow!(text)
}
