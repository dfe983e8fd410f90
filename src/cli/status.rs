//! `rewarm status`: what processes did with rewarm so far.

use super::{print_json, text};
use anyhow::Result;
use rewarm::config::Settings;
use rewarm::control::{
    Client, ContextReport, DirectionReport, FillReport, MemoryReport, Process, ProcessReport,
    State, list,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

const EXAMPLES: &str = "\
Without --pid: the processes of this user that use CUDA under rewarm.
With --pid also those of other users (for root) and in containers.

Examples:
  rewarm status
  rewarm status --pid 4711 --json | jq '.devices[].h2d.fanned_out_bytes'";

/// Show what processes did with rewarm so far
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// one process
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// print JSON: the process's report, or all in "processes"
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<ExitCode> {
    match args.pid {
        Some(pid) => {
            let report = Process::find(pid)?.connect()?.status()?;
            if args.json {
                print_json(&report)?
            } else {
                print!("{}", text::printable(&describe(&report)))
            }
        }
        None => {
            let reports = ask_all()?;
            if args.json {
                print_json(&json!({ "processes": reports }))?;
            } else if reports.is_empty() {
                println!("no process of this user uses CUDA under rewarm");
            } else {
                let texts: Vec<_> = reports.iter().map(describe).collect();
                print!("{}", text::printable(&texts.join("\n")));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All that listen. One that does not answer is named on stderr.
fn ask_all() -> Result<Vec<ProcessReport>> {
    let folders = Settings::strict(|name| env::var_os(name))?.run_dirs;
    let ask = |pid| Client::connect(&folders, pid).and_then(Client::status);
    let answers = list(&folders).into_iter().map(ask);
    Ok(answers
        .filter_map(|answer| answer.map_err(|error| eprintln!("rewarm: {error}")).ok())
        .collect())
}

fn describe(report: &ProcessReport) -> String {
    let state = match report.state {
        State::Inert => "inert: has not used CUDA",
        State::Active => "active",
        State::Disabled => "disabled",
        State::Freezing => "being frozen",
        State::Frozen => "frozen",
        State::Thawing => "being thawed",
    };
    let name = Path::new(&report.executable)
        .file_name()
        .unwrap_or(OsStr::new("?"));
    let mut text = format!(
        "process {} ({}): {state}, rewarm {}\n",
        report.pid,
        name.display(),
        report.rewarm
    );
    text += &describe_settings(report);
    text += &describe_context(&report.context);
    text += &describe_memory(&report.memory, SystemTime::now());
    let header = [
        "device",
        "direction",
        "fanned out",
        "from files",
        "copies",
        "GB/s",
        "passed through",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for device in &report.devices {
        rows.push(row(device.ordinal, "to device", &device.h2d));
        rows.push(row(device.ordinal, "to host", &device.d2h));
        if device.fills.copies > 0 {
            rows.push(fills_row(device.ordinal, &device.fills));
        }
    }
    if rows.len() > 1 {
        text += &text::table("  ", &rows);
    } else {
        text += "  no copies yet\n";
    }
    if !report.undirected.is_empty() {
        text += &format!(
            "  other calls passed through: {}\n",
            reasons(&report.undirected)
        );
    }
    text
}

fn describe_settings(report: &ProcessReport) -> String {
    let settings = &report.settings;
    let mut text = if settings.parallel_restore {
        format!(
            "  lanes {}, chunks up to {}, staging up to {}, copies from {}\n",
            settings.lanes,
            text::bytes(settings.chunk_bytes as u64),
            text::bytes(settings.staging_bytes as u64),
            text::bytes(settings.min_copy_bytes as u64),
        )
    } else {
        "  copies are not fanned out: CRIU_CUDA_PARALLEL_RESTORE=0\n".to_owned()
    };
    for note in &settings.notes {
        text += &format!("  note: {note}\n");
    }
    text
}

fn describe_context(context: &ContextReport) -> String {
    let mut text = String::new();
    if context.prewarmed {
        text += &format!(
            "  context prewarmed: {:.3} s saved (driver {:.3} s, context {:.3} s, waited {:.3} s)\n",
            context.saved_seconds,
            context.init_seconds,
            context.retain_seconds,
            context.waited_seconds,
        );
    }
    if let Some(failure) = &context.failure {
        text += &format!("  context not prewarmed: {failure}\n");
    }
    text
}

/// Nothing is said of memory that was not to be frozen.
fn describe_memory(memory: &MemoryReport, now: SystemTime) -> String {
    if !memory.freezable {
        return String::new();
    }
    let amounts = |amounts: &BTreeMap<String, u64>| {
        let parts: Vec<_> = amounts
            .iter()
            .map(|(what, amount)| format!("{what} {}", text::bytes(*amount)))
            .collect();
        parts.join(", ")
    };
    let mut text = String::new();
    if let Some(snapshot) = &memory.snapshot {
        let since = memory.frozen_since.unwrap_or(0);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        text += &format!(
            "  frozen for {}: {} in {}\n",
            text::duration(now.saturating_sub(since)),
            text::bytes(memory.movable_bytes),
            snapshot.display()
        );
    } else {
        text += &format!(
            "  device memory: {} can be frozen",
            text::bytes(memory.movable_bytes)
        );
        if memory.discarded_bytes > 0 {
            let discarded = text::bytes(memory.discarded_bytes);
            text += &format!(" ({discarded} of it discarded)");
        }
        text += "\n";
    }
    if !memory.staying.is_empty() {
        text += &format!("  stays on the device: {}\n", amounts(&memory.staying));
    }
    if !memory.obstacles.is_empty() {
        text += &format!("  cannot be frozen for: {}\n", amounts(&memory.obstacles));
    }
    text
}

fn row(ordinal: i32, name: &str, direction: &DirectionReport) -> Vec<String> {
    let rate = match direction.fanned_out_copies {
        0 => "-".to_owned(),
        _ => format!("{:.1}", direction.gb_per_s),
    };
    vec![
        ordinal.to_string(),
        name.to_owned(),
        text::bytes(direction.fanned_out_bytes),
        text::bytes(direction.file_bytes),
        direction.fanned_out_copies.to_string(),
        rate,
        reasons(&direction.bypassed),
    ]
}

/// Copies of safetensors' own, into its pinned memory.
fn fills_row(ordinal: i32, fills: &FillReport) -> Vec<String> {
    vec![
        ordinal.to_string(),
        "to pinned".to_owned(),
        text::bytes(fills.bytes),
        text::bytes(fills.file_bytes),
        fills.copies.to_string(),
        format!("{:.1}", fills.bytes as f64 / fills.seconds.max(1e-9) / 1e9),
        "-".to_owned(),
    ]
}

fn reasons(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = counts
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rewarm::control::{DeviceReport, SettingsReport};

    #[test]
    fn memory_that_can_be_frozen_is_told_and_where_it_is() {
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_000);
        let mut memory = MemoryReport {
            movable_bytes: 3 << 30,
            ..MemoryReport::default()
        };
        assert_eq!(describe_memory(&memory, now), "");
        memory.freezable = true;
        memory.discarded_bytes = 1 << 30;
        memory.staying = BTreeMap::from([("pool".into(), 2 << 20), ("small".into(), 1024)]);
        memory.obstacles = BTreeMap::from([("managed".into(), 1 << 20)]);
        assert_eq!(
            describe_memory(&memory, now),
            "  device memory: 3 GiB can be frozen (1 GiB of it discarded)\n\
             \x20 stays on the device: pool 2 MiB, small 1 KiB\n\
             \x20 cannot be frozen for: managed 1 MiB\n"
        );
        memory = MemoryReport {
            freezable: true,
            movable_bytes: 3 << 30,
            snapshot: Some("/snapshots/7".into()),
            frozen_since: Some(925),
            ..MemoryReport::default()
        };
        assert_eq!(
            describe_memory(&memory, now),
            "  frozen for 1 min 15 s: 3 GiB in /snapshots/7\n"
        );
    }

    #[test]
    fn a_report_is_told_in_full() {
        let h2d = DirectionReport {
            fanned_out_bytes: 8 << 30,
            file_bytes: 6 << 30,
            fanned_out_copies: 12,
            gb_per_s: 53.07,
            bypassed: BTreeMap::from([("pinned".into(), 3), ("small".into(), 120)]),
            ..DirectionReport::default()
        };
        let report = ProcessReport {
            rewarm: "0.1.0".into(),
            pid: 7,
            executable: "/usr/bin/python3".into(),
            state: State::Active,
            settings: SettingsReport {
                lanes: 8,
                chunk_bytes: 4 << 20,
                staging_bytes: 128 << 20,
                min_copy_bytes: 2 << 20,
                parallel_restore: true,
                snapshot_dir: None,
                notes: vec!["something was clamped".into()],
            },
            context: ContextReport {
                prewarmed: true,
                saved_seconds: 0.25,
                ..Default::default()
            },
            devices: vec![DeviceReport {
                h2d,
                fills: FillReport {
                    bytes: 1 << 30,
                    copies: 3,
                    seconds: 0.05,
                    ..FillReport::default()
                },
                ..DeviceReport::default()
            }],
            ..ProcessReport::default()
        };
        let text = describe(&report);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "process 7 (python3): active, rewarm 0.1.0");
        assert_eq!(
            lines[1],
            "  lanes 8, chunks up to 4 MiB, staging up to 128 MiB, copies from 2 MiB"
        );
        assert_eq!(lines[2], "  note: something was clamped");
        assert!(lines[3].starts_with("  context prewarmed: 0.250 s saved"));
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(lines[5]),
            "0 to device 8 GiB 6 GiB 12 53.1 pinned 3, small 120"
        );
        assert_eq!(words(lines[6]), "0 to host 0 B 0 B 0 - -");
        assert_eq!(words(lines[7]), "0 to pinned 1 GiB 0 B 3 21.5 -");
    }
}
