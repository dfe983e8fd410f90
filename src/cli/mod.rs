//! The commands.

mod checkpoint;
mod completions;
mod cuda;
mod doctor;
mod flags;
mod fleet;
mod freeze;
mod held;
mod hook;
mod inspect;
mod libraries;
mod load;
mod manual;
mod page_server;
mod prefetch;
mod progress;
mod restore;
mod run;
mod status;
mod target;
mod text;
mod thaw;
mod work;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rewarm::config::BadValue;
use rewarm::control::ProcessError;
use rewarm::criu::pages::SERVE;
use std::io::{self, Write};
use std::process::ExitCode;

/// Something that rewarm needs is missing, or what was asked for failed.
const FAILURE: u8 = 1;

/// The command line, or a setting in the environment, is wrong.
const USAGE: u8 = 2;

/// Options that do not go together, where clap does not see it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(&'static str);

/// Starts GPU processes at the speed of the link.
#[derive(Parser)]
#[command(
    name = "rewarm",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    Load(load::LoadArgs),
    Prefetch(prefetch::PrefetchArgs),
    Status(status::StatusArgs),
    Freeze(freeze::FreezeArgs),
    Thaw(thaw::ThawArgs),
    Checkpoint(checkpoint::CheckpointArgs),
    #[command(hide = true)]
    CheckpointGuardian(checkpoint::GuardianArgs),
    Restore(restore::RestoreArgs),
    PageServer(page_server::PageServerArgs),
    Inspect(inspect::InspectArgs),
    #[command(name = SERVE, hide = true)]
    ServePages,
    Doctor(doctor::DoctorArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(manual::ManArgs),
}

pub(crate) fn main() -> ExitCode {
    die_of_broken_pipes();
    if let Some(status) = hook::run() {
        return status;
    }
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Load(args) => load::run(&args),
        Command::Prefetch(args) => prefetch::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Freeze(args) => freeze::run(&args),
        Command::Thaw(args) => thaw::run(&args),
        Command::Checkpoint(args) => checkpoint::run(&args),
        Command::CheckpointGuardian(args) => checkpoint::run_guardian(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::PageServer(args) => page_server::run(&args),
        Command::ServePages => page_server::serve_pages(),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => manual::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("rewarm: {}", text::printable(&with_causes(&error)));
        exit_code(&error).into()
    })
}

/// An error and its causes, those that it has not said itself.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.ends_with(&cause) {
            let gap = if text.is_empty() { "" } else { ": " };
            text += &format!("{gap}{cause}");
        }
    }
    text
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(run::CommandError { code, .. }) = error.downcast_ref() {
        *code
    } else if let Some(broken_off) = error.downcast_ref::<restore::BrokenOff>() {
        broken_off.code()
    } else if error.is::<BadValue>()
        || error.is::<Usage>()
        || matches!(error.downcast_ref(), Some(ProcessError::RelativeFolder))
    {
        USAGE
    } else {
        FAILURE
    }
}

/// As every other command does: `rewarm status | head -1` is no error.
fn die_of_broken_pipes() {
    // SAFETY: the default action; no handler runs.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    let written = io::stdout().write_all(text.as_bytes());
    written.context("cannot write to standard output")
}
