//! What this command and this machine must have for it: CRIU, rights, room.

use super::super::CheckpointArgs;
use super::gpus::GpuProcess;
use rewarm::checkpoint::tree::{Facts, Tree};
use rewarm::checkpoint::{Place, Problem, has_connections, has_outer_connections};
use rewarm::criu::tool::Criu;
use rewarm::proc::status_line;

/// Who owns the folder around could put something else in the checkpoint's place: that
/// is left to nobody but the processes' own user.
pub(super) fn others_folder(place: &Place, tree: &Tree) -> Option<Problem> {
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

/// CRIU asks for the limits of processes, and the kernel tells those of other users
/// only to whom it lets change them.
pub(super) fn others_limits(tree: &Tree) -> Option<Problem> {
    const SYS_RESOURCE: u32 = 24;
    let rights = status_line(std::process::id(), "CapEff:")?;
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
pub(super) fn network_lock(tree: &Tree, criu: &Criu) -> Result<Option<String>, Problem> {
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

pub(super) fn criu(args: &CheckpointArgs, problems: &mut Vec<Problem>) -> Option<Criu> {
    let advice = "It takes CRIU 4.0 or newer, and root: `criu check` tells more.";
    let found = Criu::find(args.criu.as_deref())
        .and_then(|criu| criu.check_all().map(|()| criu))
        .map_err(|error| problems.push(Problem::new(error.to_string(), advice)));
    found.ok()
}

/// The largest process must fit. What processes share is counted in each, and zeroes
/// of device memory are left out: all together may turn out to be smaller.
pub(super) fn room(
    place: &Place,
    tree: &Tree,
    gpus: &[GpuProcess],
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
) {
    // A missing folder is told already.
    let Ok(free) = place.free() else { return };
    let host = tree.memory_bytes();
    let reports = gpus.iter().filter_map(|gpu| gpu.freezable.as_ref());
    let device = reports.fold(0u64, |sum, report| {
        let memory = &report.memory;
        let moved = memory.movable_bytes.saturating_sub(memory.discarded_bytes);
        sum.saturating_add(moved)
    });
    let folder = place.folder.display();
    let bytes = crate::cli::text::bytes;
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
