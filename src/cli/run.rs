//! `rewarm run`: starts a command with rewarm in it.

use super::flags::{All, SettingFlags};
use super::libraries::Libraries;
use super::target;
use anyhow::{Context, Result, bail};
use rewarm::config::PREWARM_PID;
use rewarm::control::StatsFile;
use rewarm::preload;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command, ExitCode};
use std::{env, io, path};

const EXAMPLES: &str = "\
The command replaces rewarm: its exit status and its signals are its own.

Examples:
  rewarm run -- python3 serve.py
  rewarm run --prewarm -- vllm serve Qwen/Qwen3-8B
  rewarm run --stats copies.json -- ./server --port 8000
  rewarm run --sim -- ./program          (on the software driver, without a GPU)";

/// Run a command with rewarm preloaded
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    #[command(flatten)]
    settings: SettingFlags<All>,
    /// use the software driver in place of a GPU
    #[arg(long)]
    sim: bool,
    /// the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The command could not be started; exit codes as env(1) has them.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {}: {reason}", name.display())]
pub(super) struct CommandError {
    name: OsString,
    reason: io::Error,
    pub(super) code: u8,
}

/// Does not return if the command starts.
pub(super) fn run(args: RunArgs) -> Result<ExitCode> {
    let libraries = Libraries::find()?;
    let settings = args.settings.settings()?;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]).envs(args.settings.iter());
    command.env("LD_PRELOAD", preload_list(&libraries)?);
    if args.settings.get("CRIU_CUDA_CONTEXT_POOL").is_some() {
        command.env(PREWARM_PID, process::id().to_string());
    }
    if args.sim {
        command.env("LD_LIBRARY_PATH", sim_path(&libraries)?);
    }
    if let Some(path) = &settings.log {
        command.env("REWARM_LOG", prepare_log(path)?);
    }
    if let Some(path) = &settings.snapshot_dir {
        let path = path::absolute(path).context("cannot find the current folder")?;
        command.env("REWARM_SNAPSHOT_DIR", path);
    }
    if let Some(path) = &settings.stats {
        let path = path::absolute(path).context("cannot find the current folder")?;
        StatsFile::place(&path).context("--stats")?;
        command.env("REWARM_STATS", path);
    }
    if settings.disable {
        eprintln!("rewarm: warning: REWARM_DISABLE=1 is set, so rewarm will do nothing");
    } else if let Some(obstacle) = target::obstacle(&args.command[0]) {
        eprintln!(
            "rewarm: warning: {}: {obstacle}, so rewarm will do nothing",
            args.command[0].display()
        );
    }
    start(command, &args.command[0])
}

fn preload_list(libraries: &Libraries) -> Result<OsString> {
    let front = libraries.front();
    if !preload::can_hold(&front) {
        bail!(
            "{} cannot be preloaded: LD_PRELOAD takes no path with a space or a colon. Install rewarm elsewhere",
            front.display()
        );
    }
    Ok(preload::joined(
        &front,
        env::var_os("LD_PRELOAD").as_deref(),
    ))
}

fn sim_path(libraries: &Libraries) -> Result<OsString> {
    let Some(mut path) = libraries.sim().map(PathBuf::into_os_string) else {
        bail!(
            "--sim: there is no sim/libcuda.so.1 in {}. Build it with scripts/build",
            libraries.folder().display()
        );
    };
    if let Some(others) = env::var_os("LD_LIBRARY_PATH").filter(|list| !list.is_empty()) {
        path.push(":");
        path.push(others);
    }
    Ok(path)
}

/// A process that cannot open its log goes on without one, so this tries first.
fn prepare_log(path: &path::Path) -> Result<PathBuf> {
    let path = path::absolute(path).context("cannot find the current folder")?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("--log: cannot open {}", path.display()))?;
    Ok(path)
}

fn start(mut command: Command, name: &OsStr) -> Result<ExitCode> {
    let reason = command.exec();
    let code = if reason.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    Err(CommandError {
        name: name.to_owned(),
        reason,
        code,
    }
    .into())
}
