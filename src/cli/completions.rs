//! `rewarm completions`: what a shell needs to complete the options.

use super::Cli;
use super::manual::cuda_checkpoint;
use anyhow::{Context, Result};
use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::{Shell, generate};
use std::io::{self, Write};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  rewarm completions bash > ~/.local/share/bash-completion/completions/rewarm
  rewarm completions zsh > ~/.zfunc/_rewarm              (with ~/.zfunc in fpath)
  rewarm completions fish > ~/.config/fish/completions/rewarm.fish";

/// Print the completions of a shell
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// the shell
    shell: Shell,
    /// whose options are completed
    #[arg(long = "for", value_enum, default_value = "rewarm")]
    program: Program,
}

#[derive(Clone, Copy, ValueEnum)]
enum Program {
    Rewarm,
    CudaCheckpoint,
}

impl Program {
    fn definition(self) -> Command {
        match self {
            Program::Rewarm => shown(&Cli::command())
                .version(env!("CARGO_PKG_VERSION"))
                .propagate_version(true),
            Program::CudaCheckpoint => cuda_checkpoint::definition(),
        }
    }
}

/// The command without what is not for people, which shells would offer.
fn shown(command: &Command) -> Command {
    let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .args(arguments.cloned())
        .subcommands(subcommands.map(shown))
}

pub(super) fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut command = args.program.definition();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(args.shell, &mut command, name, &mut script);
    let written = io::stdout().write_all(&script);
    written.context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
