//! Who uses CUDA, and whether the driver and rewarm can take it off the GPU.

use rewarm::checkpoint::Problem;
use rewarm::checkpoint::tree::{Descriptor, Facts, Kind, Member, Tree};
use rewarm::control::{CORE, Process, ProcessError, ProcessReport, State};
use rewarm::driver::{CheckpointDriver, CheckpointError, CudaState};
use std::fs;

/// A process that uses CUDA.
pub(in crate::cli::checkpoint) struct GpuProcess {
    pub(in crate::cli::checkpoint) process: Process,
    /// What rewarm in it says, if it is frozen first.
    pub(in crate::cli::checkpoint) freezable: Option<Box<ProcessReport>>,
}

/// The processes of the tree that use CUDA, and the driver.
pub(super) fn find(
    tree: &Tree,
    problems: &mut Vec<Problem>,
) -> (Option<CheckpointDriver>, Vec<GpuProcess>) {
    let driver = match CheckpointDriver::open() {
        Ok(driver) => driver,
        Err(error) => {
            if tree.members.iter().any(may_use_cuda) {
                let advice = "The processes use CUDA: install an NVIDIA driver of release 570 or later, and start rewarm where it is found.";
                problems.push(Problem::new(error.to_string(), advice));
            }
            return (None, Vec::new());
        }
    };
    let living = tree.members.iter().filter(|one| !one.facts.is_zombie());
    let mut found = Vec::new();
    for member in living {
        match driver.state(member.pid()) {
            Ok(CudaState::Running) => found.extend(look(member, problems)),
            Ok(state) => problems.push(Problem::of(
                member.pid(),
                format!("is {state} already, says the driver"),
                "Bring it back first: cuda-checkpoint --action restore, then --action unlock.",
            )),
            Err(CheckpointError::NotCuda { .. }) => problems.extend(not_cuda(member)),
            Err(error) => {
                let advice =
                    "Look at nvidia-smi, and whether this is the driver that the process uses.";
                problems.push(Problem::new(error.to_string(), advice));
            }
        }
    }
    if !found.is_empty() {
        problems.extend(unsupported_modes());
    }
    (Some(driver), found)
}

/// Whether a process has the driver's library, or rewarm's core, in it.
pub(super) fn may_use_cuda(member: &Member) -> bool {
    is_mapped(member, "/libcuda.so") || is_mapped(member, CORE) || has_device(member)
}

fn is_mapped(member: &Member, name: &str) -> bool {
    let mut names = member.mappings.iter().map(|one| one.name.to_string_lossy());
    names.any(|mapped| mapped.contains(name))
}

fn has_device(member: &Member) -> bool {
    let is_device = |one: &Descriptor| matches!(one.kind, Kind::Device { .. });
    let mut devices = member.descriptors.iter().filter(|one| is_device(one));
    devices.any(|one| one.link.to_string_lossy().starts_with("/dev/nvidia"))
}

/// What is wrong with a process that the driver does not know.
fn not_cuda(member: &Member) -> Option<Problem> {
    let pid = member.pid();
    if is_mapped(member, CORE) {
        let what = "uses CUDA, but not the driver that is found here";
        let advice = "Start rewarm with the LD_LIBRARY_PATH of the process.";
        return Some(Problem::of(pid, what, advice));
    }
    has_device(member).then(|| {
        let what = "has the GPU open, but not through CUDA (NVML, graphics)";
        let advice = "The driver cannot save that: have the process close it.";
        Problem::of(pid, what, advice)
    })
}

/// What the driver's checkpoints do not know: seen from the machine.
fn unsupported_modes() -> Vec<Problem> {
    let mut problems = Vec::new();
    let capabilities = fs::read_dir("/proc/driver/nvidia/capabilities");
    let has_instance = |gpu: fs::DirEntry| {
        let instances = fs::read_dir(gpu.path().join("mig")).ok()?;
        let mut names = instances.flatten().map(|one| one.file_name());
        names.find(|name| name.to_string_lossy().starts_with("gi"))
    };
    let mut gpus = capabilities.into_iter().flatten().flatten();
    if gpus.any(|gpu| has_instance(gpu).is_some()) {
        let what = "a GPU is divided (MIG), and the driver cannot checkpoint processes there";
        problems.push(Problem::new(what, "Use whole GPUs."));
    }
    let is_mps = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm"));
        name.is_ok_and(|name| name.starts_with("nvidia-cuda-mps"))
    };
    let mut processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    if processes.any(is_mps) {
        let what = "MPS is running, and the driver cannot checkpoint processes under it";
        problems.push(Problem::new(what, "Start the processes without MPS."));
    }
    problems
}

/// What rewarm in a process says of freezing.
fn look(member: &Member, problems: &mut Vec<Problem>) -> Option<GpuProcess> {
    let pid = member.pid();
    if member.facts.state == 'T' {
        let advice = "It must run to let go of the GPU: send it SIGCONT.";
        problems.push(Problem::of(pid, "is stopped", advice));
        return None;
    }
    let process = Process::find(pid).ok()?;
    let report = match process.connect().map(|client| client.status()) {
        Ok(Ok(report)) => Some(report),
        Ok(Err(error)) => {
            let advice = "It runs under rewarm, but does not answer: see `rewarm status`.";
            problems.push(Problem::new(error.to_string(), advice));
            None
        }
        Err(ProcessError::Plain { .. } | ProcessError::NotActive { .. }) => None,
        Err(error) => {
            problems.push(Problem::new(error.to_string(), "See `rewarm status`."));
            None
        }
    };
    if let Some(report) = &report {
        problems.extend(of_report(&member.facts, report));
    }
    let freezable = report
        .filter(|report| report.memory.freezable)
        .map(Box::new);
    Some(GpuProcess { process, freezable })
}

fn of_report(facts: &Facts, report: &ProcessReport) -> Vec<Problem> {
    let pid = facts.pid;
    let mut problems = Vec::new();
    match report.state {
        State::Frozen => problems.push(Problem::of(
            pid,
            "is frozen already",
            format!("Bring it back first: rewarm thaw --pid {pid}."),
        )),
        State::Freezing | State::Thawing => problems.push(Problem::of(
            pid,
            "is being frozen or thawed",
            "Wait until that has ended.",
        )),
        State::Inert | State::Active | State::Disabled => {}
    }
    for (kind, bytes) in &report.memory.obstacles {
        problems.push(Problem::of(
            pid,
            format!("has {bytes} bytes of {kind} memory, which the driver cannot checkpoint"),
            "Start it so that it uses none: see \"What freezing cannot do\" in docs/sleep.md.",
        ));
    }
    problems
}
