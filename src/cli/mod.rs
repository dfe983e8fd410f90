//! The commands.

mod doctor;
mod flags;
mod libraries;
mod preload;
mod run;
mod status;
mod target;
mod text;

use anyhow::Result;
use clap::{Parser, Subcommand};
use rewarm::config::BadValue;
use std::process::ExitCode;

/// Something that rewarm needs is missing, or what was asked for failed.
const FAILURE: u8 = 1;

/// The command line, or a setting in the environment, is wrong.
const USAGE: u8 = 2;

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
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
}

pub(crate) fn main() -> ExitCode {
    die_of_broken_pipes();
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Status(args) => status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("rewarm: {error:#}");
        exit_code(&error).into()
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(run::CommandError { code, .. }) = error.downcast_ref() {
        *code
    } else if error.is::<BadValue>() {
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
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
