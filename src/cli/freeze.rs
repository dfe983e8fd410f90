//! `rewarm freeze`: takes the device memory of running processes to snapshots.

use super::fleet::{Told, VERSION, explain_interrupts, rate, together, what_holds};
use super::held::refuse_held;
use super::{Usage, print_json, text};
use anyhow::{Context, Result, anyhow, bail};
use rewarm::control::{
    Freeze, FreezeReport, Prepare, PrepareReport, Process, ProcessReport, State, Thaw,
};
use serde::Serialize;
use serde_json::json;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
The process must have been started with `rewarm run --freezable` (or with
REWARM_FREEZABLE=1). Its calls of CUDA wait until `rewarm thaw`. The process itself
writes the snapshot: DIR is a folder as the process sees it.

Examples:
  rewarm freeze --pid 4711 --to /srv/snapshots/qwen
  rewarm freeze --pid 4711 --tree --to /dev/shm/vllm
  rewarm freeze --pid 4711 --to /dev/shm/qwen --prepare    (ahead, to freeze faster)";

/// How long a thaw that undoes a freeze waits for memory that others may have
/// taken meanwhile.
const UNDO_WAIT_SECONDS: f64 = 60.0;

/// Take the GPU memory of a running process to a snapshot on disk
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct FreezeArgs {
    /// the process
    #[arg(long, value_name = "PID")]
    pid: u32,
    /// folder of the snapshot; with --tree of the snapshots, DIR/<pid>
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// the process and all its descendants that use CUDA: all of them or none
    #[arg(long)]
    tree: bool,
    /// longest wait for calls and streams of CUDA to end
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = drain)]
    drain: f64,
    /// most bytes that a snapshot may take in its folder, such as 20G
    #[arg(long, value_name = "SIZE", value_parser = text::parse_bytes)]
    budget: Option<u64>,
    /// only make room ahead, and freeze nothing
    #[arg(long, conflicts_with_all = ["drain", "budget"])]
    prepare: bool,
    /// print JSON
    #[arg(long)]
    json: bool,
}

/// The value of `--drain`.
pub(super) fn drain(text: &str) -> Result<f64, String> {
    text::parse_seconds(text, Freeze::MAX_DRAIN_SECONDS)
}

pub(super) fn run(args: &FreezeArgs) -> Result<ExitCode> {
    if args.to.as_os_str().is_empty() {
        return Err(Usage("--to: the folder has no name").into());
    }
    let root = Process::find(args.pid)?;
    let folder = root.folder_named(&args.to)?;
    let processes = if args.tree { root.tree()? } else { vec![root] };
    for process in &processes {
        check(process.pid, &process.connect()?.status()?)?;
    }
    refuse_held(&processes)?;
    explain_interrupts();
    if args.tree {
        make_for(&processes, &folder)?;
    }
    if args.prepare {
        let reports = prepare(args, &folder, &processes)?;
        tell(args, &processes, &reports, describe_room)?;
    } else {
        let reports = freeze(args, &folder, &processes)?;
        tell(args, &processes, &reports, describe)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What makes a freeze impossible from the start.
fn check(pid: u32, report: &ProcessReport) -> Result<()> {
    let memory = &report.memory;
    match report.state {
        State::Frozen => {
            let place = memory.snapshot.as_deref().unwrap_or(Path::new("?"));
            bail!(
                "process {pid} is frozen already: its snapshot is in {}; `rewarm thaw --pid {pid}` brings it back",
                place.display()
            )
        }
        State::Freezing => bail!("a freeze of process {pid} is under way already"),
        State::Thawing => bail!("a thaw of process {pid} is under way: freeze it afterwards"),
        State::Inert | State::Active | State::Disabled if !memory.freezable => bail!(
            "process {pid} was not started with --freezable: start it with `rewarm run --freezable -- …` or with REWARM_FREEZABLE=1 beside LD_PRELOAD"
        ),
        State::Inert | State::Active | State::Disabled => Ok(()),
    }
}

/// Makes the folder of a tree, for the user of the processes: they make their own
/// folders in it, and say so if it is not there.
fn make_for(processes: &[Process], folder: &Path) -> Result<()> {
    let Some(first) = processes.first().filter(|first| !first.is_elsewhere()) else {
        return Ok(());
    };
    if DirBuilder::new().mode(0o700).create(folder).is_ok() && first.foreign_owner().is_some() {
        // What it was made as, not what somebody may have put in its place.
        File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(folder)
            .and_then(|made| fchown(made, Some(first.uid()), None))
            .with_context(|| format!("cannot hand {} over", folder.display()))?;
    }
    Ok(())
}

/// Where a process's snapshot goes.
fn place(args: &FreezeArgs, folder: &Path, process: &Process) -> PathBuf {
    if args.tree {
        folder.join(process.pid.to_string())
    } else {
        folder.to_owned()
    }
}

fn prepare(args: &FreezeArgs, folder: &Path, processes: &[Process]) -> Result<Vec<PrepareReport>> {
    let results = together(processes, |process, show| {
        let to = place(args, folder, process);
        let prepared = process.connect()?.prepare(Prepare { to }, show);
        prepared.map_err(|error| anyhow!("{error}{}", process.who_writes()))
    });
    results.into_iter().collect()
}

/// All or none.
fn freeze(args: &FreezeArgs, folder: &Path, processes: &[Process]) -> Result<Vec<FreezeReport>> {
    let results = together(processes, |process, show| {
        let request = Freeze {
            to: place(args, folder, process),
            drain_seconds: args.drain,
            budget_bytes: args.budget,
        };
        Ok(process.connect()?.freeze(request, show)?)
    });
    let mut reports = Vec::new();
    let mut frozen = Vec::new();
    let mut failures = Vec::new();
    for (process, result) in processes.iter().zip(results) {
        match result {
            Ok(report) => {
                frozen.push(process);
                reports.push(report);
            }
            Err(error) => failures.push(format!(
                "{error:#}{}; {}",
                process.who_writes(),
                what_holds(process)
            )),
        }
    }
    if failures.is_empty() {
        return Ok(reports);
    }
    if args.tree {
        let all = processes.len();
        let summary = format!(
            "{} of {all} processes could not be frozen, so none should be:",
            failures.len()
        );
        failures.insert(0, summary);
        failures.extend(undo(frozen));
    }
    bail!(failures.join("\n  "))
}

/// Thaws what was frozen, and says for each process what holds now.
fn undo(frozen: Vec<&Process>) -> Vec<String> {
    let request = Thaw {
        wait_seconds: UNDO_WAIT_SECONDS,
        ..Thaw::default()
    };
    let results = together(frozen.iter().copied(), |process, show| {
        Ok(process.connect()?.thaw(request.clone(), show)?)
    });
    let say = |(process, result): (&Process, Result<_>)| match result {
        Ok(_) => format!("process {} was frozen, and runs again", process.pid),
        Err(error) => format!(
            "process {} was frozen, and could not be thawed: {error:#}; {}",
            process.pid,
            what_holds(process)
        ),
    };
    frozen.into_iter().zip(results).map(say).collect()
}

fn tell<R: Serialize>(
    args: &FreezeArgs,
    processes: &[Process],
    reports: &[R],
    describe: impl Fn(&R) -> String,
) -> Result<()> {
    let pairs = processes.iter().zip(reports);
    if !args.json {
        for (process, report) in pairs {
            let line = text::printable(&describe(report));
            println!("process {}: {line}", process.pid);
        }
        return Ok(());
    }
    let mut told: Vec<_> = pairs
        .map(|(process, report)| Told::new(process.pid, report))
        .collect();
    match told.pop() {
        Some(only) if !args.tree => print_json(&only.alone()),
        last => {
            told.extend(last);
            print_json(&json!({ "version": VERSION, "processes": told }))
        }
    }
}

fn describe(report: &FreezeReport) -> String {
    let mut text = format!("frozen: {}", rate(report.bytes, report.seconds));
    let parts = [
        (report.zero_bytes, "were zero"),
        (report.discarded_bytes, "were discarded"),
        (report.unchanged_bytes, "were in the snapshot before"),
    ];
    for (bytes, what) in parts {
        if bytes > 0 {
            text += &format!(", {:.2} GB {what}", bytes as f64 / 1e9);
        }
    }
    text += &format!(
        "; snapshot {}; GPU memory given back",
        report.snapshot.display()
    );
    if report.left_bytes > 0 {
        text += &format!(
            ", but for {} that cannot leave",
            text::bytes(report.left_bytes)
        );
    }
    text
}

fn describe_room(report: &PrepareReport) -> String {
    format!(
        "room for {} in {}, made in {:.2} s",
        text::bytes(report.bytes),
        report.snapshot.display(),
        report.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_is_told_in_a_line() {
        let report = FreezeReport {
            snapshot: "/x/y".into(),
            bytes: 14_500_000_000,
            zero_bytes: 8_600_000_000,
            seconds: 0.42,
            left_bytes: 3 << 20,
            ..FreezeReport::default()
        };
        assert_eq!(
            describe(&report),
            "frozen: 14.50 GB in 0.42 s (34.5 GB/s), 8.60 GB were zero; snapshot /x/y; \
             GPU memory given back, but for 3 MiB that cannot leave"
        );
    }

    #[test]
    fn what_cannot_be_frozen_is_told_with_what_to_do() {
        let mut report = ProcessReport {
            state: State::Active,
            ..ProcessReport::default()
        };
        let refusal = |report: &ProcessReport| check(7, report).unwrap_err().to_string();
        assert!(refusal(&report).contains("rewarm run --freezable"));
        report.memory.freezable = true;
        assert!(check(7, &report).is_ok());
        report.memory.snapshot = Some("/x/y".into());
        report.state = State::Frozen;
        assert!(refusal(&report).contains("its snapshot is in /x/y; `rewarm thaw --pid 7`"));
        report.state = State::Thawing;
        assert!(refusal(&report).contains("under way"));
    }
}
