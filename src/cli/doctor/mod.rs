//! `rewarm doctor`: what will work here, and why not.

mod features;
mod gpus;
mod processes;
mod system;

use super::libraries::Libraries;
use super::{FAILURE, print_json, text};
use anyhow::{Context, Result};
use features::Feature;
use gpus::{DriverFacts, Gpu};
use processes::Processes;
use rewarm::preload;
use serde::Serialize;
use std::process::ExitCode;
use system::System;

const EXAMPLES: &str = "\
Exit status: 0 if everything works here, 1 if something that rewarm needs is missing.
Checkpoints of whole processes count only with --processes: they take CRIU and root.

Examples:
  rewarm doctor
  rewarm doctor --processes
  rewarm doctor --json --no-measure | jq .works";

/// Tell what works on this machine, and what to do where it does not
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// print JSON
    #[arg(long)]
    json: bool,
    /// do not measure the link (about half a second for each GPU)
    #[arg(long)]
    no_measure: bool,
    /// have the exit status count checkpoints of whole processes, too
    #[arg(long)]
    processes: bool,
    /// rewarm was preloaded, and taken out for this look at the plain driver
    #[arg(long, hide = true)]
    preloaded: bool,
}

/// All that the doctor found.
#[derive(Serialize)]
struct Findings {
    rewarm: &'static str,
    /// Whether every feature works that is asked for.
    works: bool,
    features: Vec<Feature>,
    libraries: Option<String>,
    system: System,
    driver: Option<DriverFacts>,
    processes: Processes,
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    preload::start_again_without_rewarm(&["--preloaded"])
        .context("cannot start again without rewarm preloaded")?;
    let findings = examine(args);
    if args.json {
        print_json(&findings)?
    } else {
        print!("{}", describe(&findings))
    }
    Ok(if findings.works {
        ExitCode::SUCCESS
    } else {
        FAILURE.into()
    })
}

fn examine(args: &DoctorArgs) -> Findings {
    let libraries = Libraries::find();
    let system = System::look(args.preloaded);
    let driver = gpus::look(!args.no_measure);
    let processes = Processes::look();
    let features = features::judge(libraries.as_ref().err(), &system, &driver, &processes);
    let counts = |feature: &Feature| args.processes || !feature.optional;
    Findings {
        rewarm: env!("CARGO_PKG_VERSION"),
        works: features
            .iter()
            .filter(|feature| counts(feature))
            .all(|feature| feature.works),
        features,
        libraries: libraries
            .ok()
            .map(|found| found.folder().display().to_string()),
        system,
        driver: driver.ok(),
        processes,
    }
}

fn describe(findings: &Findings) -> String {
    let mut text = String::from("Works here\n");
    let verdicts: Vec<_> = findings
        .features
        .iter()
        .map(|feature| vec![feature.name.to_owned(), feature.verdict()])
        .collect();
    text += &text::table("  ", &verdicts);
    let problems = features::distinct(&findings.features);
    if !problems.is_empty() {
        text += "What to do\n";
        for problem in problems {
            text += &format!("  {}.\n    {}.\n", problem.why, problem.advice);
        }
    }
    text += "Machine\n";
    text += &text::table("  ", &machine_rows(findings));
    text
}

fn machine_rows(findings: &Findings) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    match &findings.driver {
        Some(driver) => {
            row("CUDA driver", driver.describe());
            for gpu in &driver.gpus {
                row(&format!("GPU {}", gpu.ordinal), describe_gpu(gpu));
            }
        }
        None => row("CUDA driver", "none".into()),
    }
    findings.system.rows(&mut row);
    findings.processes.rows(&mut row);
    row(
        "libraries",
        findings
            .libraries
            .clone()
            .unwrap_or_else(|| "not found".into()),
    );
    rows
}

fn describe_gpu(gpu: &Gpu) -> String {
    let mut text = format!("{}, {}", gpu.name, text::bytes(gpu.memory_bytes));
    if let (Some(pinned), Some(pageable)) = (gpu.pinned_gb_per_s, gpu.pageable_gb_per_s) {
        text += &format!(", link {pinned:.1} GB/s, plain pageable copies {pageable:.1} GB/s");
    }
    if let Some(failure) = &gpu.failure {
        text += &format!(", not usable: {failure}");
    }
    text
}
