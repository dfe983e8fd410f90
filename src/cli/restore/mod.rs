//! `rewarm restore`: a process tree back from disk.
//!
//! Two processes take part ([`watch`]): one restores ([`flow`]), the other sees to it
//! that nothing half alive is left when that fails.

mod ahead;
mod family;
mod flow;
mod gpu;
mod memory;
mod pids;
mod report;
mod standard;
mod watch;

use super::thaw::{FOREVER, wait};
use super::{Usage, text};
use anyhow::{Context, Result, bail};
use rewarm::checkpoint::Manifest;
use rewarm::preload;
use standard::Standard;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;
pub(super) use watch::BrokenOff;
use watch::{Side, Worker};

const EXAMPLES: &str = "\
The processes get their old pids. Without --detach this command stays until the first
of them ends, passes signals on to it, and exits with its status (128 and the number
of the signal that ended it). What they had as standard input, output or error, and
was a pipe to others, is now this command's; with --json, output goes to standard error.

If anything fails, all that was restored is killed; the checkpoint stays as it is, and
can be restored again, as often as wanted.

Examples:
  rewarm restore --from /var/checkpoints/qwen
  rewarm restore --from /var/checkpoints/qwen --detach --json
  rewarm restore --from /var/checkpoints/qwen --wait      (as long as others hold the GPU's memory)";

/// Restore a process tree from a checkpoint on disk
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RestoreArgs {
    /// folder that `rewarm checkpoint` made
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// return when all is restored, and leave the processes running
    #[arg(long)]
    detach: bool,
    /// wait for enough free GPU memory; without SECONDS as long as it takes
    #[arg(long, value_name = "SECONDS", value_parser = wait, num_args = 0..=1, require_equals = true, default_missing_value = FOREVER)]
    wait: Option<f64>,
    /// have CRIU read all memory before the processes go on, without the page server
    #[arg(long)]
    no_lazy: bool,
    /// cut files that the processes were writing, such as logs, and that have grown
    /// since, to the length that they had; what was added is lost
    #[arg(long)]
    truncate_files: bool,
    /// the program [default: REWARM_CRIU, or criu on the PATH]
    #[arg(long, value_name = "PATH")]
    criu: Option<PathBuf>,
    /// longest time that CRIU may take
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = limit)]
    criu_timeout: f64,
    /// print JSON
    #[arg(long)]
    json: bool,
}

fn limit(text: &str) -> Result<f64, String> {
    text::parse_seconds(text, 1e6)
}

pub(super) fn run(args: &RestoreArgs) -> Result<ExitCode> {
    if args.from.as_os_str().is_empty() {
        return Err(Usage("--from: the folder has no name").into());
    }
    preload::start_again_without_rewarm(&[])?;
    let folder = path::absolute(&args.from).context("cannot find the current folder")?;
    let manifest = flow::open(&folder)?;
    pids::keep_clear(&manifest);
    let standard = Standard::of(&manifest, args)?;
    match watch::split()? {
        Side::First(supervisor) => {
            let relays = standard.into_relays();
            let ended = supervisor.supervise(args.detach);
            if !args.detach {
                relays.finish();
            }
            ended
        }
        Side::Worker(worker) => restore(args, &folder, &manifest, &worker, &standard),
    }
}

fn restore(
    args: &RestoreArgs,
    folder: &Path,
    manifest: &Manifest,
    worker: &Worker,
    standard: &Standard,
) -> Result<ExitCode> {
    match flow::restore(args, folder, manifest, worker, standard) {
        Ok(report) => {
            report.tell(args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if !error.has_begun => Err(error.why),
        Err(error) => {
            let left = worker.undo();
            bail!(
                "{:#}\n  {left}, and the checkpoint in {} is as it was: the restore can be tried again",
                error.why,
                folder.display()
            )
        }
    }
}
