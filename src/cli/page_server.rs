//! `rewarm page-server`: fills restored processes' memory.

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Not there yet
#[derive(clap::Args)]
pub(super) struct PageServerArgs {}

pub(super) fn run(_args: &PageServerArgs) -> Result<ExitCode> {
    bail!("not there yet")
}
