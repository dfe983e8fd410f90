//! `rewarm checkpoint`: a process tree with its device memory to disk.

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Not there yet
#[derive(clap::Args)]
pub(super) struct CheckpointArgs {}

pub(super) fn run(_args: &CheckpointArgs) -> Result<ExitCode> {
    bail!("not there yet")
}
