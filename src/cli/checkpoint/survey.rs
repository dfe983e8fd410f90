//! What there is, and everything that would make a checkpoint fail.

use super::CheckpointArgs;
use anyhow::{Result, bail};
use rewarm::checkpoint::tree::{Access, Descriptor, Facts, Kind, Member, Tree};
use rewarm::checkpoint::{
    Options, Place, Problem, cut_pipes, has_connections, has_outer_connections, has_outer_streams,
    obstacles,
};
use rewarm::control::{Process, ProcessError, ProcessReport, State};
use rewarm::criu::tool::Criu;
use rewarm::driver::{CheckpointDriver, CheckpointError, CudaState};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// All that is known before anything is done.
pub(super) struct Survey {
    pub(super) tree: Tree,
    pub(super) gpus: Vec<GpuProcess>,
    /// Only where there is something on a GPU.
    pub(super) driver: Option<CheckpointDriver>,
    pub(super) criu: Criu,
    pub(super) options: Options,
    pub(super) place: Place,
    /// What somebody should know who reads the result.
    pub(super) notes: Vec<String>,
}

/// A process that uses CUDA.
pub(super) struct GpuProcess {
    pub(super) process: Process,
    /// What rewarm in it says, if it is frozen first.
    pub(super) freezable: Option<Box<ProcessReport>>,
}

impl Survey {
    /// # Errors
    /// Everything that stands in the way, at once.
    pub(super) fn take(args: &CheckpointArgs, folder: &Path) -> Result<Survey> {
        let root = Process::find(args.pid)?;
        let tree = look_at_tree(root.pid)?;
        let mut problems = obstacles(&tree, args.tree);
        let (place, found) = Place::find(folder, args.replace);
        problems.extend(found);
        problems.extend(others_folder(&place, &tree));
        let criu = criu(args, &mut problems);
        let (driver, gpus) = gpus(&tree, &mut problems);
        let mut notes = cut_pipes(&tree);
        room(&place, &tree, &gpus, &mut problems, &mut notes);
        problems.extend(others_limits(&tree));
        let mut options = Options::for_tree(&tree);
        if args.leave_running && options.both.iter().any(|one| one == "--link-remap") {
            problems.push(Problem::new(
                "a file that is open was removed, but has other names: CRIU forgets them if the processes go on",
                "Leave --leave-running out, or have the process close the file.",
            ));
        }
        if let Some(criu) = &criu {
            match network_lock(&tree, criu) {
                Ok(lock) => options.dump.extend(lock),
                Err(problem) => problems.push(problem),
            }
        }
        if args.leave_running {
            notes.extend(growing(&tree));
        }
        let Some(criu) = criu.filter(|_| problems.is_empty()) else {
            bail!(told(args.pid, &problems));
        };
        Ok(Survey {
            tree,
            gpus,
            driver,
            criu,
            options,
            place,
            notes,
        })
    }

    /// Whether others use CUDA meanwhile than those that were found: a model that is
    /// still loading, a child that was just started.
    ///
    /// # Errors
    /// Which process does.
    pub(super) fn still_holds(&self) -> Result<()> {
        let Some(driver) = &self.driver else {
            return Ok(());
        };
        let tree = Tree::look(self.tree.root().pid)?;
        let living = tree.members.iter().filter(|one| !one.facts.is_zombie());
        for pid in living.map(Member::pid).filter(|pid| !self.knows(*pid)) {
            if !matches!(driver.state(pid), Err(CheckpointError::NotCuda { .. })) && is_there(pid) {
                bail!("process {pid} began to use CUDA meanwhile: try again");
            }
        }
        Ok(())
    }

    /// The same of the tree as it stands still: only what is mapped and open tells.
    ///
    /// # Errors
    /// Which process may have begun to use CUDA.
    pub(super) fn holds_for(&self, tree: &Tree) -> Result<()> {
        let is_new = |one: &&Member| !self.tree.has(one.pid()) && !one.facts.is_zombie();
        match tree
            .members
            .iter()
            .filter(is_new)
            .find(|one| may_use_cuda(one))
        {
            Some(member) => bail!("process {} was started meanwhile: try again", member.pid()),
            None => Ok(()),
        }
    }

    /// Whether a process is one of those that use CUDA.
    pub(super) fn knows(&self, pid: u32) -> bool {
        self.gpus.iter().any(|gpu| gpu.process.pid == pid)
    }

    /// The processes that write snapshots, with their users where those are others.
    pub(super) fn snapshots(&self) -> Vec<(u32, Option<u32>)> {
        let freezable = self.gpus.iter().filter(|gpu| gpu.freezable.is_some());
        freezable
            .map(|gpu| (gpu.process.pid, gpu.process.foreign_owner()))
            .collect()
    }
}

/// The tree, without the connections of those who ask a process for its state: they
/// are gone a moment later.
fn look_at_tree(pid: u32) -> Result<Tree> {
    const LOOKS: u32 = 8;
    const PAUSE: Duration = Duration::from_millis(7);
    let mut look = 1;
    loop {
        let tree = Tree::look(pid)?;
        if look == LOOKS || !has_outer_streams(&tree) {
            return Ok(tree);
        }
        thread::sleep(PAUSE * look);
        look += 1;
    }
}

/// Every problem once, with the processes that have it.
fn told(pid: u32, problems: &[Problem]) -> String {
    let mut text = format!("process {pid} cannot be checkpointed:");
    for problem in problems {
        let who = problem.pid.map(|pid| format!("process {pid} "));
        let Problem { what, advice, .. } = problem;
        text += &format!("\n  {}{what}.\n    {advice}", who.unwrap_or_default());
    }
    text
}

/// Who owns the folder around could put something else in the checkpoint's place: that
/// is left to nobody but the processes' own user.
fn others_folder(place: &Place, tree: &Tree) -> Option<Problem> {
    let owner = place.foreign_owner()?;
    let other = tree.members.iter().find(|one| one.facts.uid != owner)?;
    let around = place.folder.parent()?.display();
    let user = other.facts.uid;
    Some(Problem::of(
        other.pid(),
        format!(
            "belongs to user {user}, and the folder {around} to user {owner}, who could exchange the checkpoint"
        ),
        "Name a folder in one of root's, or of the user who runs rewarm.",
    ))
}

/// Files that processes who go on may make longer, which CRIU does not take at the
/// restore.
fn growing(tree: &Tree) -> Option<String> {
    let is_one = |one: &&Descriptor| one.access == Access::Write && one.kind == Kind::File;
    let written = tree.descriptors().map(|(_, one)| one).filter(is_one);
    let names: BTreeSet<_> = written.map(|one| one.link.display().to_string()).collect();
    (!names.is_empty()).then(|| {
        let names: Vec<_> = names.into_iter().collect();
        format!(
            "if the processes make these files longer, a restore takes --truncate-files (files that are opened for appending may grow): {}",
            names.join(", ")
        )
    })
}

/// CRIU asks for the limits of processes, and the kernel tells those of other users
/// only to whom it lets change them.
fn others_limits(tree: &Tree) -> Option<Problem> {
    const SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let rights = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    let rights = u64::from_str_radix(rights.trim(), 16).ok()?;
    let own = Facts::look(std::process::id()).ok()?.uid;
    let other = tree.members.iter().find(|one| one.facts.uid != own)?;
    (rights >> SYS_RESOURCE & 1 == 0).then(|| {
        let user = other.facts.uid;
        let what = format!("belongs to user {user}, and this command lacks CAP_SYS_RESOURCE");
        let advice = "Run rewarm as root with all capabilities (in a container: --cap-add SYS_RESOURCE), or as the process's user.";
        Problem::of(other.pid(), what, advice)
    })
}

/// How CRIU holds TCP connections still while it saves their ends one after another.
/// Without a firewall bytes that are under way may be lost, so one that works is
/// preferred; with both ends in the tree it also goes without.
fn network_lock(tree: &Tree, criu: &Criu) -> Result<Option<String>, Problem> {
    if !has_connections(tree) {
        return Ok(None);
    }
    let way = if criu.check("network_lock_nftables") {
        "nftables"
    } else if is_on_path("iptables") {
        "iptables"
    } else if !has_outer_connections(tree) {
        "skip"
    } else {
        return Err(Problem::new(
            "the tree has TCP connections with others, and neither nftables nor iptables works here to hold them still",
            "Install iptables, or close the connections.",
        ));
    };
    Ok(Some(format!("--network-lock={way}")))
}

fn criu(args: &CheckpointArgs, problems: &mut Vec<Problem>) -> Option<Criu> {
    let advice = "It takes CRIU 4.0 or newer, and root: `criu check` tells more.";
    let found = Criu::find(args.criu.as_deref())
        .and_then(|criu| criu.check_all().map(|()| criu))
        .map_err(|error| problems.push(Problem::new(error.to_string(), advice)));
    found.ok()
}

fn gpus(tree: &Tree, problems: &mut Vec<Problem>) -> (Option<CheckpointDriver>, Vec<GpuProcess>) {
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

fn is_there(pid: u32) -> bool {
    Facts::look(pid).is_ok_and(|facts| !facts.is_zombie())
}

/// Whether a process has the driver's library, or rewarm's core, in it.
fn may_use_cuda(member: &Member) -> bool {
    is_mapped(member, "/libcuda.so") || is_mapped(member, CORE) || has_device(member)
}

/// In the maps of every process that uses CUDA under rewarm.
const CORE: &str = "/librewarm_core.so";

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
            "Start it so that it uses none: see \"What freezing cannot do\" in the README.",
        ));
    }
    problems
}

/// The largest process must fit. What processes share is counted in each, and zeroes
/// of device memory are left out: all together may turn out to be smaller.
fn room(
    place: &Place,
    tree: &Tree,
    gpus: &[GpuProcess],
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
) {
    // A missing folder is told already.
    let Ok(free) = place.free() else { return };
    let host = tree.memory_bytes();
    let device = gpus.iter().filter_map(|gpu| gpu.freezable.as_ref());
    let device: u64 = device
        .map(|report| {
            report.memory.movable_bytes
                - report
                    .memory
                    .discarded_bytes
                    .min(report.memory.movable_bytes)
        })
        .sum();
    let folder = place.folder.display();
    let bytes = super::text::bytes;
    let least = tree.least_memory_bytes();
    if least > free {
        let (least, free) = (bytes(least), bytes(free));
        problems.push(Problem::new(
            format!("{least} of host memory do not fit where {folder} is: {free} are free"),
            "Free some space, or name another folder.",
        ));
    } else if host.saturating_add(device) > free {
        let (host, device, free) = (bytes(host), bytes(device), bytes(free));
        notes.push(format!(
            "{host} of host memory and {device} of device memory may not fit where {folder} is, unless much of it is zero or shared: {free} are free"
        ));
    }
}

fn is_on_path(name: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&folders)
        .chain(system)
        .any(|folder| folder.join(name).is_file())
}
