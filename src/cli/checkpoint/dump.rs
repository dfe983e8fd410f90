//! `criu dump`, and the commit while the processes stand still.

use super::super::hook::{Hook, Stage};
use super::CheckpointArgs;
use super::guardian::Guardian;
use super::interrupts;
use super::report::Report;
use super::survey::Survey;
use super::undo::Plan;
use super::work::Work;
use anyhow::{Context, Result, anyhow, bail};
use rewarm::checkpoint::tree::{Member, Tree};
use rewarm::checkpoint::{
    GPU, GpuEntry, IMAGES, Machine, Manifest, ProcessEntry, files, images, pinned, standard_pipes,
};
use rewarm::criu::images::rearm_timers;
use rewarm::criu::pages::digest_pages;
use rewarm::criu::tool::{CriuError, Dump, Running, Script};
use rewarm::snapshot::Snapshot;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

/// What CRIU may take at least, and the slowest rate of its writing.
const LEAST: Duration = Duration::from_secs(60);
const SLOWEST: u64 = 50_000_000;

/// How often CRIU is started while connections are in its way that pass, and the
/// first pause between; each is longer by as much, so as to fall out of any step.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(7);

/// Dumps the tree. When this returns without an error, the folder is a checkpoint.
pub(super) fn dump(
    args: &CheckpointArgs,
    survey: &Survey,
    plan: &Plan,
    guardian: &Guardian,
    work: &Work,
    machine: Machine,
    report: &mut Report,
) -> Result<()> {
    let hook = Hook::listen(work.path())?;
    let mut attempt = 1;
    let committed = loop {
        let mut is_asked = false;
        let running = start(args, survey, guardian, work.path())?;
        let committed = wait(args, survey, running, || {
            let question = hook.asked()?;
            is_asked = true;
            let time = Instant::now();
            let committed = commit(args, survey, plan, &machine, report);
            report.seconds.commit = time.elapsed().as_secs_f64();
            // Whoever is not answered lets the processes go on.
            let told = || question.go_on().context("criu ended before its time");
            Some(committed.and_then(|()| told()))
        });
        let is_passing = committed.as_ref().is_err_and(is_passing);
        if is_asked || !is_passing || attempt == ATTEMPTS || interrupts::came() {
            break committed;
        }
        thread::sleep(PAUSE * attempt);
        survey.place.empty_images()?;
        attempt += 1;
    };
    if committed.is_err() && !interrupts::came() {
        return committed.with_context(|| work.keep());
    }
    committed
}

/// Whoever asks a process of the tree for its state holds a connection with it for a
/// moment, and CRIU takes nobody who has one to the outside.
fn is_passing(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<CriuError>();
    error.is_some_and(CriuError::is_passing)
}

fn start(
    args: &CheckpointArgs,
    survey: &Survey,
    guardian: &Guardian,
    work: &Path,
) -> Result<Running> {
    let mut options = survey.options.of_dump();
    if args.leave_running {
        options.push("--leave-running".into());
    }
    let program = env::current_exe().context("cannot find the executable")?;
    Ok(survey.criu.dump(&Dump {
        pid: args.pid,
        images: &survey.place.partial().join(IMAGES),
        work,
        options: &options,
        script: Script {
            program: &program,
            environment: &Stage::PostDump.environment(),
        },
        descriptors: &[guardian.descriptor()],
    })?)
}

/// Waits for CRIU, and for its question meanwhile.
fn wait(
    args: &CheckpointArgs,
    survey: &Survey,
    mut running: Running,
    mut question: impl FnMut() -> Option<Result<()>>,
) -> Result<()> {
    let bytes = survey.tree.memory_bytes();
    let usual = LEAST + Duration::from_secs(bytes / SLOWEST);
    let limit = args.limit.map_or(usual, Duration::from_secs_f64);
    // Whoever is interrupted waits for the hook, and says no: a CRIU that is killed
    // while it holds the processes may leave them with connections that stand still.
    let never = AtomicBool::new(false);
    let mut committed = None;
    let ended = running.wait(limit, &never, || {
        if committed.is_none() {
            committed = question();
        }
    });
    match (committed, ended) {
        (Some(Err(error)), _) => Err(error),
        (_, Err(error)) => Err(error.into()),
        (Some(Ok(())), Ok(())) => Ok(()),
        (None, Ok(())) => bail!("criu dump ended without having its hook started"),
    }
}

/// Makes the folder a checkpoint.
fn commit(
    args: &CheckpointArgs,
    survey: &Survey,
    plan: &Plan,
    machine: &Machine,
    report: &mut Report,
) -> Result<()> {
    interrupts::check()?;
    let beside = survey.place.partial();
    let folder = beside.join(IMAGES);
    let tree = Tree::look(args.pid)?;
    survey.holds_for(&tree)?;
    rearm_timers(&folder.join("files.img"))?;
    let (pages, images) = thread::scope(|scope| {
        let pages = scope.spawn(|| digest_pages(&folder));
        let images = images::seal(&folder);
        (pages.join(), images)
    });
    let manifest = Manifest {
        id: plan.id,
        created: now(),
        rewarm_version: env!("CARGO_PKG_VERSION").into(),
        criu_version: survey.criu.version().to_string(),
        machine: machine.clone(),
        root: args.pid,
        processes: tree
            .members
            .iter()
            .map(|member| process(survey, member, report))
            .collect::<Result<_>>()?,
        restore_options: survey.options.both.clone(),
        pipes: standard_pipes(&tree),
        files: files::of_tree(&tree),
        images: images?,
        pages: pages.map_err(|_| anyhow!("a thread has ended"))??,
    };
    report.images_bytes = manifest.bytes();
    manifest.write(&beside)?;
    interrupts::check()?;
    Ok(survey.place.commit()?)
}

fn process(survey: &Survey, member: &Member, report: &Report) -> Result<ProcessEntry> {
    let facts = &member.facts;
    let pid = facts.pid;
    let gpu = match report.snapshot_of(pid) {
        Some(frozen) => {
            let folder = Path::new(GPU).join(pid.to_string());
            let written = survey.place.partial().join(&folder);
            let snapshot = Snapshot::open_of(&written, facts.uid)?;
            Some(GpuEntry {
                snapshot: Some(folder),
                bytes: frozen.bytes,
                snapshot_id: snapshot.manifest().id,
            })
        }
        None => survey.knows(pid).then_some(GpuEntry {
            snapshot: None,
            bytes: 0,
            snapshot_id: 0,
        }),
    };
    Ok(ProcessEntry {
        pid,
        parent: facts.parent,
        session: facts.session,
        group: facts.group,
        threads: facts.threads.clone(),
        pinned: pinned(&facts.threads),
        uid: facts.uid,
        executable: facts.executable.clone(),
        gpu,
    })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
