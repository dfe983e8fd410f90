//! `rewarm thaw`: brings the device memory of frozen processes back.

use super::fleet::{Told, VERSION, explain_interrupts, rate, together, what_holds};
use super::held::refuse_held;
use super::{FAILURE, Usage, print_json, text};
use anyhow::{Result, bail};
use clap::ValueEnum;
use rewarm::control::{Order, Process, ProcessReport, State, Thaw, ThawReport};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
The process goes on when all its memory is back and verified. If that fails it stays
frozen, and can be thawed again.

Examples:
  rewarm thaw --pid 4711
  rewarm thaw --pid 4711 --wait              (as long as others hold the GPU's memory)
  rewarm thaw --pid 4711 --keep-snapshot     (the next freeze writes what changed)";

/// Bring the GPU memory of a frozen process back
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ThawArgs {
    /// the process
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// the process and all its descendants that are frozen
    #[arg(long)]
    tree: bool,
    /// where the snapshot is now, if it was moved; with --tree the snapshots, DIR/<pid>
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// wait for enough free GPU memory; without SECONDS as long as it takes
    #[arg(long, value_name = "SECONDS", value_parser = wait, num_args = 0..=1, require_equals = true, default_missing_value = FOREVER)]
    wait: Option<f64>,
    /// which allocations come back first
    #[arg(long, value_enum, default_value = "largest")]
    order: First,
    /// leave the snapshot on disk, so that the next freeze to it writes only what changed
    #[arg(long)]
    keep_snapshot: bool,
    /// do not compare checksums
    #[arg(long)]
    no_verify: bool,
    /// print JSON
    #[arg(long)]
    json: bool,
}

/// [`Thaw::MAX_WAIT_SECONDS`], as an option.
pub(super) const FOREVER: &str = "1e9";

#[derive(Clone, Copy, ValueEnum)]
enum First {
    /// the largest
    Largest,
    /// the smallest
    Smallest,
    /// those at the lowest addresses
    Address,
}

/// The value of `--wait`.
pub(super) fn wait(text: &str) -> Result<f64, String> {
    text::parse_seconds(text, Thaw::MAX_WAIT_SECONDS)
}

pub(super) fn run(args: &ThawArgs) -> Result<ExitCode> {
    let from = match &args.from {
        Some(from) if from.as_os_str().is_empty() => {
            return Err(Usage("--from: the folder has no name").into());
        }
        Some(from) => Some(from.as_path()),
        None => None,
    };
    let root = Process::find(args.pid)?;
    let from = from.map(|from| root.folder_named(from)).transpose()?;
    let processes = if args.tree {
        frozen_of(root)?
    } else {
        check(root.pid, &root.connect()?.status()?)?;
        vec![root]
    };
    refuse_held(&processes)?;
    explain_interrupts();
    let results = together(&processes, |process, show| {
        let from = from.as_ref().map(|folder| match args.tree {
            true => folder.join(process.pid.to_string()),
            false => folder.clone(),
        });
        Ok(process.connect()?.thaw(request(args, from), show)?)
    });
    tell(args, &processes, results)
}

fn request(args: &ThawArgs, from: Option<PathBuf>) -> Thaw {
    Thaw {
        from,
        keep_snapshot: args.keep_snapshot,
        verify: !args.no_verify,
        wait_seconds: args.wait.unwrap_or(0.0),
        order: match args.order {
            First::Largest => Order::Largest,
            First::Smallest => Order::Smallest,
            First::Address => Order::Address,
        },
    }
}

/// Those of the tree that are frozen: after a thaw that failed for some, the others
/// run already.
fn frozen_of(root: Process) -> Result<Vec<Process>> {
    let pid = root.pid;
    let mut frozen = Vec::new();
    for process in root.tree()? {
        match process.connect()?.status()?.state {
            State::Frozen => frozen.push(process),
            State::Freezing | State::Thawing => bail!(is_busy(process.pid)),
            State::Inert | State::Active | State::Disabled => {}
        }
    }
    if frozen.is_empty() {
        bail!("neither process {pid} nor a descendant of it is frozen");
    }
    Ok(frozen)
}

fn check(pid: u32, report: &ProcessReport) -> Result<()> {
    match report.state {
        State::Frozen => Ok(()),
        State::Freezing | State::Thawing => bail!(is_busy(pid)),
        State::Inert | State::Active | State::Disabled => bail!("process {pid} is not frozen"),
    }
}

fn is_busy(pid: u32) -> String {
    format!(
        "process {pid} is being frozen or thawed just now: `rewarm status` shows when that is over"
    )
}

/// What came back, and on stderr what did not.
fn tell(
    args: &ThawArgs,
    processes: &[Process],
    results: Vec<Result<ThawReport>>,
) -> Result<ExitCode> {
    let mut told = Vec::new();
    let mut failures = Vec::new();
    for (process, result) in processes.iter().zip(&results) {
        match result {
            Ok(report) => {
                if !args.json {
                    let line = text::printable(&describe(report));
                    println!("process {}: {line}", process.pid);
                }
                told.push(Told::new(process.pid, report));
            }
            Err(error) => failures.push(format!("{error:#}; {}", what_holds(process))),
        }
    }
    for failure in &failures {
        eprintln!("rewarm: {}", text::printable(failure));
    }
    if args.json && args.tree {
        print_json(&json!({ "version": VERSION, "processes": told }))?;
    } else if args.json {
        told.pop()
            .map_or(Ok(()), |only| print_json(&only.alone()))?;
    }
    Ok(if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        FAILURE.into()
    })
}

fn describe(report: &ThawReport) -> String {
    let mut text = format!("thawed: {}", rate(report.bytes, report.seconds));
    // To find out that there is enough takes a moment, too.
    if report.wait_seconds >= 0.005 {
        text += &format!(", after {:.2} s of waiting for memory", report.wait_seconds);
    }
    text += if report.verified_by == "no" {
        ", not verified"
    } else {
        ", verified"
    };
    text += "; snapshot ";
    text += &report.snapshot.display().to_string();
    text += if report.kept { " kept" } else { " removed" };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thaw_is_told_in_a_line() {
        let report = ThawReport {
            snapshot: "/x/y".into(),
            bytes: 14_500_000_000,
            seconds: 0.29,
            verified_by: "gpu".into(),
            ..ThawReport::default()
        };
        assert_eq!(
            describe(&report),
            "thawed: 14.50 GB in 0.29 s (50.0 GB/s), verified; snapshot /x/y removed"
        );
    }

    #[test]
    fn as_long_as_it_takes_is_the_longest_wait() {
        assert_eq!(wait(FOREVER), Ok(Thaw::MAX_WAIT_SECONDS));
    }
}
