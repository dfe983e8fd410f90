//! `rewarm prefetch`: brings files into the page cache, or drops them from it.

mod evict;
mod fetch;
mod files;
mod limits;
mod lock;
mod report;
mod walk;

use super::{FAILURE, Usage, print_json, text};
use anyhow::Result;
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use files::{Cached, Failures};
use lock::Locks;
use report::Report;
use rewarm::config::{Settings, cpus, memory};
use rewarm::pages::{ReadOptions, Strategy};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, mem};
use walk::Listing;

const EXAMPLES: &str = "\
Folders are taken with all regular files below them. Links to files are followed,
links to folders are not. The files with most to read come first, and of each only
the parts that are not in the page cache are read. --evict drops the files' pages
and reads nothing.

Examples:
  rewarm prefetch ~/models/Qwen3-8B
  rewarm prefetch --limit 2.5 --json /srv/models
  rewarm prefetch --locked model.safetensors      (until Ctrl-C)
  rewarm prefetch --evict ~/models/Qwen3-8B";

/// Bring files into the page cache, so that loading them is fast
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PrefetchArgs {
    /// drop the files from the page cache and read nothing; =all drops every file of the machine (root)
    #[arg(long, value_enum, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "files")]
    evict: Option<Evict>,
    /// keep the files in memory until SIGINT or SIGTERM
    #[arg(long, conflicts_with = "evict")]
    locked: bool,
    /// read at most so many 10^9 bytes a second
    #[arg(long, value_name = "GBPS", value_parser = rate, conflicts_with = "evict")]
    limit: Option<u64>,
    /// threads that read [default: the lanes that loading would have]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), conflicts_with = "evict")]
    threads: Option<u16>,
    /// how the files are read
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = strategies(), conflicts_with = "evict")]
    strategy: Strategy,
    /// print JSON
    #[arg(long)]
    json: bool,
    /// files and folders
    #[arg(value_name = "PATH", required_unless_present = "evict")]
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Evict {
    /// these files' pages
    Files,
    /// the page cache of the machine
    All,
}

/// Those that leave what they read in the page cache.
fn strategies() -> impl TypedValueParser<Value = Strategy> {
    let names = [Strategy::Auto, Strategy::Pread, Strategy::ReadAhead].map(Strategy::name);
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Strategy>())
}

/// 10⁹ bytes a second, as bytes a second.
fn rate(text: &str) -> Result<u64, String> {
    let rate: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    let bytes = rate * 1e9;
    if (1.0..=1e15).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err("must be more than 0, and at most 1000000".to_owned())
    }
}

pub(super) fn run(args: &PrefetchArgs) -> Result<ExitCode> {
    if args.paths.is_empty() && args.evict != Some(Evict::All) {
        return Err(Usage("--evict needs a PATH; --evict=all drops every file").into());
    }
    let mut listing = Listing::of(&args.paths);
    let mut failures = mem::take(&mut listing.failures);
    let files = files::look_at(&listing.files, &mut failures);
    let mut report = Report::new(&files, listing.skipped);
    let locks = match args.evict {
        Some(Evict::Files) => {
            evict::files(&files, &mut failures);
            Locks::default()
        }
        Some(Evict::All) => {
            evict::all()?;
            Locks::default()
        }
        None => bring_in(args, &files, &mut report, &mut failures)?,
    };
    report.finish(
        &files::look_at(&listing.files, &mut failures),
        args.evict.is_some(),
    );
    report.locked = locks.bytes();
    if !failures.is_empty() {
        if !args.json {
            print!("{}", report.describe());
        }
        failures.print();
        return Ok(FAILURE.into());
    }
    let signals = args.locked.then(lock::Signals::block);
    if args.json {
        print_json(&report)?;
    } else {
        print!("{}", report.describe());
    }
    if let Some(signals) = signals {
        signals.wait();
    }
    Ok(ExitCode::SUCCESS)
}

fn bring_in(
    args: &PrefetchArgs,
    files: &[Cached],
    report: &mut Report,
    failures: &mut Failures,
) -> Result<Locks> {
    let options = options(args)?;
    warn_of_little_memory(report.missing());
    let locks = if args.locked {
        Locks::reserve(files)?
    } else {
        Locks::default()
    };
    report.fetched(fetch::fetch(files, &options, failures));
    locks.fill()?;
    Ok(locks)
}

fn options(args: &PrefetchArgs) -> Result<ReadOptions> {
    let plan = Settings::strict(|name| env::var_os(name))?.plan(cpus());
    let threads = args.threads.map_or(plan.lanes, usize::from);
    Ok(ReadOptions {
        strategy: args.strategy,
        threads,
        slots: threads * plan.slots_per_lane,
        bytes_per_second: args.limit,
        keep_cached: true,
        ..ReadOptions::new(&plan)
    })
}

fn warn_of_little_memory(missing: u64) {
    let limits = [
        (memory::available(), "are available"),
        (
            memory::in_cgroup_limit(Path::new("/")),
            "are what the control group may hold",
        ),
    ];
    for (limit, what) in limits {
        if let Some(limit) = limit.filter(|limit| *limit < missing) {
            eprintln!(
                "rewarm: warning: {} are to be read, and {} {what}: what is read first may be dropped again",
                text::bytes(missing),
                text::bytes(limit)
            );
        }
    }
}
