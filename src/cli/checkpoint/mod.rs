//! `rewarm checkpoint`: a process tree with its device memory to disk.
//!
//! ```text
//! survey ─► guardian started ─► freeze ─► driver: lock, checkpoint ─► criu dump
//!    │            │                │               │                     │ post-dump
//!    ▼            │                └──── undo ◄────┴──── on failure ◄────┤
//!  refused        └─ undoes if this command is killed                    ▼
//!                                                                  commit: the folder
//!                                                                  gets its name
//! ```
//!
//! CRIU starts its hook while the processes still stand still, and lets them go on if
//! that fails: the checkpoint is committed there. Before it, nothing is lost by an
//! undo; after it, the processes end, or go on with `--leave-running`. What an undo
//! has to do is seen from the processes themselves, so it does not matter when it is
//! called for and by whom.

mod driver;
mod dump;
mod freeze;
mod guardian;
mod interrupts;
mod report;
mod survey;
mod undo;
mod work;

pub(super) use guardian::{GuardianArgs, run as run_guardian};

use super::freeze::drain;
use super::{Usage, text};
use anyhow::{Context, Result, anyhow};
use guardian::Guardian;
use report::Report;
use rewarm::preload;
use std::path::{self, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use survey::Survey;
use undo::Plan;
use work::Work;

const EXAMPLES: &str = "\
The processes end when the checkpoint is whole, unless --leave-running is given. After
any failure they run on as before, and nothing is left of the folder. The options of
CRIU that the processes need are found out.

The folder holds all memory of the processes, secrets included, and is only readable
by those who made it: handle it as you would the processes themselves.

Exit status: 0 if the checkpoint is whole, 1 if it could not be made, 2 if the command
line is wrong, 130 and 143 if it was interrupted (the processes run on).

Examples:
  rewarm checkpoint --pid 4711 --to /srv/checkpoints/qwen
  rewarm checkpoint --pid 4711 --tree --to /srv/checkpoints/vllm
  rewarm checkpoint --pid 4711 --to /srv/checkpoints/qwen --replace --leave-running";

/// Take a process tree with its GPU memory to disk, to restore it later
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckpointArgs {
    /// the process
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// folder of the checkpoint, which is made
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// the process and all its descendants
    #[arg(long)]
    tree: bool,
    /// let the processes go on when the checkpoint is whole
    #[arg(long)]
    leave_running: bool,
    /// put the new checkpoint in the place of one that is there, once it is whole
    #[arg(long)]
    replace: bool,
    /// longest wait for calls and streams of CUDA to end
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = drain)]
    drain: f64,
    /// longest time for criu dump; default: 60 s and what 50 MB/s take
    #[arg(long, value_name = "SECONDS", value_parser = limit)]
    limit: Option<f64>,
    /// the program criu [default: $REWARM_CRIU, else the one on the PATH]
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,
    /// print JSON
    #[arg(long)]
    json: bool,
}

fn limit(text: &str) -> Result<f64, String> {
    text::parse_seconds(text, 1e6)
}

pub(super) fn run(args: &CheckpointArgs) -> Result<ExitCode> {
    if args.to.as_os_str().is_empty() {
        return Err(Usage("--to: the folder has no name").into());
    }
    preload::start_again_without_rewarm(&[])?;
    let folder = path::absolute(&args.to).context("cannot find the current folder")?;
    // Without a slash at the end: the folder beside has the same name and more.
    let folder: PathBuf = folder.components().collect();
    let survey = Survey::take(args, &folder)?;
    for note in &survey.notes {
        eprintln!("rewarm: note: {}", text::printable(note));
    }
    interrupts::catch();
    let mut guardian = Guardian::start()?;
    let work = Work::make()?;
    let plan = Plan::new(&survey, &work, args.leave_running);
    guardian.entrust(&plan)?;
    // If that fails there is nothing to undo: the folder beside may be that of another
    // checkpoint, which was faster.
    let result = match survey.place.make(&survey.snapshots()) {
        Ok(()) => make(args, &survey, &plan, &guardian, &work)
            .map_err(|error| undone(error, &survey, &plan)),
        Err(error) => Err(error.into()),
    };
    drop(work);
    guardian.release();
    interrupts::let_go();
    match (result, interrupts::status()) {
        (Ok(report), _) => {
            report.tell(args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        (Err(error), Some(status)) => {
            eprintln!("rewarm: {}", text::printable(&format!("{error:#}")));
            Ok(status.into())
        }
        (Err(error), None) => Err(error),
    }
}

/// All steps, once the folder is made. On failure, what was done is left to be undone.
fn make(
    args: &CheckpointArgs,
    survey: &Survey,
    plan: &Plan,
    guardian: &Guardian,
    work: &Work,
) -> Result<Report> {
    let begun = Instant::now();
    let mut report = Report::new(survey, plan);
    let facts = driver::Facts::gather(survey);
    let time = Instant::now();
    freeze::freeze(args, survey, &mut report)?;
    report.seconds.freeze = time.elapsed().as_secs_f64();
    interrupts::check()?;
    let time = Instant::now();
    let machine = facts.wait(survey)?;
    driver::checkpoint(survey, args.drain)?;
    report.seconds.driver = time.elapsed().as_secs_f64();
    interrupts::check()?;
    let time = Instant::now();
    dump::dump(args, survey, plan, guardian, work, machine, &mut report)?;
    report.seconds.dump = time.elapsed().as_secs_f64() - report.seconds.commit;
    let time = Instant::now();
    if args.leave_running {
        let undone = undo::go_on(plan, survey.driver.as_ref());
        undone.context("the checkpoint is whole, but not every process goes on")?;
        report.seconds.go_on = time.elapsed().as_secs_f64();
    }
    survey.place.remove_partial()?;
    report.seconds.total = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Undoes what was done, and says how that went.
fn undone(error: anyhow::Error, survey: &Survey, plan: &Plan) -> anyhow::Error {
    match undo::undo(plan, survey.driver.as_ref()) {
        Ok(undo::Outcome::Undone) => {
            anyhow!("{error:#}\n  no checkpoint was made; the processes run on as before")
        }
        Ok(undo::Outcome::Kept) => anyhow!(
            "{error:#}\n  the checkpoint in {} is whole all the same",
            plan.place.folder.display()
        ),
        Err(undo) => anyhow!("{error:#}\n  and not all could be undone: {undo:#}"),
    }
}
