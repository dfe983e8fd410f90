//! `rewarm load`: brings files into GPU memory and tells how fast.

mod device;
mod report;
mod verify;

use super::cuda::{Cuda, Primary};
use super::flags::{Lanes, SettingFlags};
use super::{print_json, text};
use anyhow::{Context, Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use device::Loader;
use report::{Device, Report};
use rewarm::config::cpus;
use rewarm::pages::{self, Strategy};
use rewarm::preload;
use rewarm::weights::{self, Weights};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const EXAMPLES: &str = "\
FILE is a safetensors file, or any other regular file, which counts as raw data.
DIR is a folder with a model.safetensors.index.json, or else with *.safetensors.
The data goes into one allocation of device memory for each file, and the time is
that from before the first allocation until all of it is there. CUDA is set up
before, and timed apart.

Examples:
  rewarm load model.safetensors
  rewarm load --verify --cold --repeat 3 ~/models/Qwen3-8B
  rewarm load --json --strategy pread weights.bin | jq .loads[0].gb_per_s";

/// Load files into GPU memory and tell how fast that was
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LoadArgs {
    /// read everything back and compare it with the files
    #[arg(long)]
    verify: bool,
    /// how the files are read [REWARM_READ_STRATEGY; default: auto]
    #[arg(long, value_name = "WAY", value_parser = strategies())]
    strategy: Option<Strategy>,
    /// load so many times
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// drop the files from the page cache first, each time
    #[arg(long)]
    cold: bool,
    /// the GPU
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(i32).range(0..))]
    device: i32,
    /// print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<Lanes>,
    /// files and folders
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

fn strategies() -> impl TypedValueParser<Value = Strategy> {
    PossibleValuesParser::new(Strategy::NAMES).try_map(|name| name.parse::<Strategy>())
}

pub(super) fn run(args: &LoadArgs) -> Result<ExitCode> {
    preload::start_again_without_rewarm(&[])
        .context("cannot start again without rewarm preloaded")?;
    let settings = args.settings.settings()?;
    let plan = settings.plan(cpus());
    let weights = weights::open(&args.paths)?;
    for warning in &weights.warnings {
        eprintln!("rewarm: warning: {warning}");
    }
    let begun = Instant::now();
    let cuda = Cuda::start().map_err(|error| anyhow!("{error}. {}", error.advice()))?;
    let device = device_of(&cuda, args.device)?;
    let primary = Primary::retain(&cuda, device)
        .with_context(|| format!("device {} cannot be used", args.device))?;
    let setup_seconds = begun.elapsed().as_secs_f64();
    let device = Device {
        ordinal: args.device,
        name: cuda.name(device)?,
    };
    let mut report = Report::new(device, &weights, setup_seconds);
    let loader = Loader {
        primary: &primary,
        weights: &weights,
        plan: &plan,
        strategy: args.strategy.unwrap_or(settings.read_strategy),
    };
    for _ in 0..args.repeat {
        load_once(args, &loader, &mut report)?;
    }
    if args.json {
        print_json(&report)?;
    } else {
        print!("{}", report.describe(&plan));
    }
    Ok(ExitCode::SUCCESS)
}

fn device_of(cuda: &Cuda, ordinal: i32) -> Result<i32> {
    let devices = cuda.devices()?;
    if ordinal >= devices {
        bail!("--device {ordinal}: no such device; there are {devices}, counted from 0");
    }
    Ok(cuda.device(ordinal)?)
}

fn load_once(args: &LoadArgs, loader: &Loader, report: &mut Report) -> Result<()> {
    if args.cold {
        evict(loader.weights)?;
    }
    let resident_before = resident(loader.weights)?;
    let loaded = loader.load()?;
    if args.verify {
        verify::compare(loader.weights, &loaded)?;
        report.verified = Some(true);
    }
    report.add(&loaded, resident_before);
    Ok(())
}

/// Bytes of the data that are in the page cache.
fn resident(weights: &Weights) -> Result<u64> {
    let mut resident = 0;
    for file in &weights.files {
        resident += pages::residency(&file.range())?.resident;
    }
    Ok(resident)
}

fn evict(weights: &Weights) -> Result<()> {
    for file in &weights.files {
        pages::evict(&file.file)?;
    }
    match resident(weights)? {
        0 => {}
        stayed => eprintln!(
            "rewarm: warning: --cold: {stayed} bytes ({}) stayed in the page cache: a file system in memory, or another process has them mapped or locked",
            text::bytes(stayed)
        ),
    }
    Ok(())
}
