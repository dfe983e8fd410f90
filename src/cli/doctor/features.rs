//! From facts to verdicts.

use super::gpus::DriverFacts;
use super::processes::Processes;
use super::system::{GLIBC_FLOOR, System, is_new_enough};
use crate::cli::cuda::NoDriver;
use crate::cli::libraries::Missing;
use serde::Serialize;

/// Something that rewarm does, and whether it works here.
#[derive(Debug, Serialize)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    pub(super) works: bool,
    /// Whether the machine is fine without it.
    pub(super) optional: bool,
    pub(super) problems: Vec<Problem>,
}

/// What stands in the way, and what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Problem {
    pub(super) why: String,
    pub(super) advice: String,
}

impl Feature {
    pub(super) fn verdict(&self) -> String {
        if self.works {
            return "yes".to_owned();
        }
        let reasons: Vec<_> = self
            .problems
            .iter()
            .map(|problem| problem.why.as_str())
            .collect();
        format!("no: {}", reasons.join("; "))
    }
}

/// Every problem once, in order.
pub(super) fn distinct(features: &[Feature]) -> Vec<&Problem> {
    let mut seen: Vec<&Problem> = Vec::new();
    for problem in features.iter().flat_map(|feature| &feature.problems) {
        if !seen.contains(&problem) {
            seen.push(problem);
        }
    }
    seen
}

pub(super) fn problem(why: impl Into<String>, advice: impl Into<String>) -> Problem {
    Problem {
        why: why.into(),
        advice: advice.into(),
    }
}

/// Judges every feature.
pub(super) fn judge(
    missing: Option<&Missing>,
    system: &System,
    driver: &Result<DriverFacts, NoDriver>,
    processes: &Processes,
) -> Vec<Feature> {
    let needed = needed_by_all(missing, system, driver);
    let feature = |name, own: &[Problem]| {
        let problems = [needed.as_slice(), own].concat();
        Feature {
            name,
            works: problems.is_empty(),
            optional: false,
            problems,
        }
    };
    let gpus = driver.as_ref().map_or(&[][..], |driver| &driver.gpus);
    let copies: Vec<_> = copies_disabled(system)
        .into_iter()
        .chain(gpus.iter().filter_map(|gpu| {
            let why = format!(
                "GPU {} cannot be used: {}",
                gpu.ordinal,
                gpu.failure.as_ref()?
            );
            Some(problem(
                why,
                "Look at nvidia-smi, and at the locked-memory limit of the container",
            ))
        }))
        .collect();
    let prewarm: Vec<_> = gpus
        .iter()
        .filter(|gpu| !gpu.has_context)
        .map(|gpu| {
            problem(
                format!("GPU {} gives no context", gpu.ordinal),
                "Look at nvidia-smi",
            )
        })
        .collect();
    let freezing = freezing_lacks(driver);
    vec![
        feature("copies to the device", &copies),
        feature("copies to the host", &copies),
        feature("prewarmed context", &prewarm),
        feature("freezing", freezing.as_slice()),
        whole_processes(processes),
    ]
}

/// Processes need neither rewarm in them nor a GPU for it.
fn whole_processes(processes: &Processes) -> Feature {
    let problems = processes.problems();
    Feature {
        name: "whole processes",
        works: problems.is_empty(),
        optional: true,
        problems,
    }
}

fn freezing_lacks(driver: &Result<DriverFacts, NoDriver>) -> Option<Problem> {
    let lacks = driver.as_ref().ok()?.lacks_for_freezing?;
    Some(problem(
        format!("the driver has no {lacks}"),
        "Use a driver of CUDA 11.2 or newer",
    ))
}

fn needed_by_all(
    missing: Option<&Missing>,
    system: &System,
    driver: &Result<DriverFacts, NoDriver>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(missing) = missing {
        problems.push(problem(
            "rewarm's libraries are missing",
            missing.to_string(),
        ));
    }
    if !is_new_enough(&system.glibc) {
        let (major, minor) = GLIBC_FLOOR;
        problems.push(problem(
            format!("glibc {} is older than {major}.{minor}", system.glibc),
            "Use a newer distribution or container image, such as Debian 12 or Ubuntu 22.04",
        ));
    }
    if system.rewarm_disabled {
        problems.push(problem("REWARM_DISABLE=1 is set", "Unset it"));
    }
    match driver {
        Err(none) => problems.push(problem(none.to_string(), none.advice())),
        Ok(driver) if driver.gpus.is_empty() => problems.push(problem(
            "the driver sees no GPU",
            "Look at nvidia-smi and CUDA_VISIBLE_DEVICES",
        )),
        Ok(_) => {}
    }
    problems
}

fn copies_disabled(system: &System) -> Option<Problem> {
    system.copies_disabled.then(|| {
        problem(
            "CRIU_CUDA_PARALLEL_RESTORE=0 is set",
            "Unset it, or set it to 1",
        )
    })
}
