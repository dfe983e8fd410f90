//! The freeze of all processes that can be frozen, at once.

use super::CheckpointArgs;
use super::report::Report;
use super::survey::Survey;
use crate::cli::fleet::together;
use anyhow::{Result, bail};
use rewarm::checkpoint::GPU;
use rewarm::control::Freeze;

/// All, or some and an error.
pub(super) fn freeze(args: &CheckpointArgs, survey: &Survey, report: &mut Report) -> Result<()> {
    let folder = survey.place.partial().join(GPU);
    let freezable = survey.gpus.iter().filter(|gpu| gpu.freezable.is_some());
    let processes: Vec<_> = freezable.map(|gpu| &gpu.process).collect();
    let results = together(processes.iter().copied(), |process, show| {
        let request = Freeze {
            to: folder.join(process.pid.to_string()),
            drain_seconds: args.drain,
            budget_bytes: None,
        };
        Ok(process.connect()?.freeze(request, show)?)
    });
    let mut failures = Vec::new();
    for (process, result) in processes.iter().zip(results) {
        match result {
            Ok(frozen) => report.frozen(process.pid, frozen),
            Err(error) => failures.push(format!("{error:#}{}", process.who_writes())),
        }
    }
    if !failures.is_empty() {
        bail!("cannot freeze: {}", failures.join("\n  "));
    }
    Ok(())
}
