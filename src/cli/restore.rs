//! `rewarm restore`: a process tree back from disk.

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Not there yet
#[derive(clap::Args)]
pub(super) struct RestoreArgs {}

pub(super) fn run(_args: &RestoreArgs) -> Result<ExitCode> {
    bail!("not there yet")
}
