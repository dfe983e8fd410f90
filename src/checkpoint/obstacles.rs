//! What would make a checkpoint fail, found before anything is done.

use super::tree::{Descriptor, Facts, Kind, Mapping, Member, Socket, Tree};
use std::path::Path;

/// Something that stands in the way, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The process that has it, if it is one.
    pub pid: Option<u32>,
    /// What it is.
    pub what: String,
    /// What to do, a sentence.
    pub advice: String,
}

impl Problem {
    /// A problem of the whole.
    pub fn new(what: impl Into<String>, advice: impl Into<String>) -> Problem {
        Problem {
            pid: None,
            what: what.into(),
            advice: advice.into(),
        }
    }

    /// A problem of a process.
    pub fn of(pid: u32, what: impl Into<String>, advice: impl Into<String>) -> Problem {
        Problem {
            pid: Some(pid),
            ..Problem::new(what, advice)
        }
    }
}

/// Everything in the tree that CRIU cannot save. `whole` says that the descendants
/// are meant, too.
pub fn of_tree(tree: &Tree, whole: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let children = tree.members.len() - 1;
    if children > 0 && !whole {
        problems.push(Problem::of(
            tree.root().pid,
            format!("has {children} descendants, and CRIU saves whole trees"),
            "Add --tree to checkpoint them all.",
        ));
    }
    if tree.has(std::process::id()) {
        problems.push(Problem::new(
            "the tree holds this command itself",
            "Start rewarm from a process outside of the tree, or name a smaller one.",
        ));
    }
    if tree.root().is_zombie() {
        let what = "has ended";
        problems.push(Problem::of(tree.root().pid, what, "Name one that runs."));
    }
    if tree.root().is_kernel {
        let what = "is a thread of the kernel";
        problems.push(Problem::of(tree.root().pid, what, "Name a process."));
        return problems;
    }
    for member in &tree.members {
        problems.extend(of_process(&member.facts));
        problems.extend(session(tree, &member.facts));
        problems.extend(of_files(member));
    }
    for (pid, descriptor) in tree.descriptors() {
        problems.extend(stream_that_would_be_cut(tree, pid, descriptor));
    }
    problems
}

/// Whether somebody outside of the tree has a unix stream with it.
pub fn has_outer_streams(tree: &Tree) -> bool {
    let mut all = tree.descriptors();
    all.any(|(pid, descriptor)| stream_that_would_be_cut(tree, pid, descriptor).is_some())
}

fn of_process(facts: &Facts) -> Vec<Problem> {
    let mut problems = Vec::new();
    let pid = facts.pid;
    if !facts.elsewhere.is_empty() {
        problems.push(Problem::of(
            pid,
            format!("is in a container ({} differs)", facts.elsewhere.join(", ")),
            "Checkpoint containers with their runtime: podman container checkpoint, or runc, with rewarm's cuda-checkpoint on the PATH of CRIU's CUDA plugin.",
        ));
    }
    if facts.tracer != 0 {
        problems.push(Problem::of(
            pid,
            format!("is traced by process {}", facts.tracer),
            "Detach the debugger or strace.",
        ));
    }
    problems
}

/// Somebody else's session cannot be made again; the first process's is left to
/// CRIU's option for shell jobs, unless this PID namespace does not have it at all
/// (then it has no number here).
fn session(tree: &Tree, facts: &Facts) -> Option<Problem> {
    let session = facts.session;
    if session == 0 {
        return Some(Problem::of(
            facts.pid,
            "belongs to a session that began outside of this container",
            "Start it with setsid.",
        ));
    }
    let is_lost = session != tree.root().session
        && !tree.has(session)
        && Path::new(&format!("/proc/{session}")).exists();
    is_lost.then(|| {
        Problem::of(
            facts.pid,
            format!("belongs to the session of process {session}, which is outside of the tree"),
            "Checkpoint the tree of that process, or start this one with setsid.",
        )
    })
}

const IO_URING: &str = "Start it so that it does not use io_uring (for rewarm itself: while a process is frozen it holds none; libuv: UV_USE_IO_URING=0).";
const USERFAULTFD: &str = "CRIU cannot save a userfaultfd: start it so that it uses none.";
const HUGETLB: &str = "CRIU cannot save files of huge pages: start it without them.";
const DEVICE: &str = "CRIU cannot save an open device: have the process close it first.";
const SOCKET: &str = "CRIU cannot save this kind of socket: have the process close it first.";
const SYSV: &str = "CRIU saves System V shared memory only of whole IPC namespaces: start it in a container, or so that it uses mmap.";

fn of_files(member: &Member) -> Vec<Problem> {
    let pid = member.pid();
    let open = member.descriptors.iter().filter_map(|descriptor| {
        let (what, advice) = open_obstacle(descriptor)?;
        Some(Problem::of(
            pid,
            format!("{what} (descriptor {})", descriptor.number),
            advice,
        ))
    });
    let mapped = member.mappings.iter().filter_map(|mapping| {
        let (what, advice) = mapped_obstacle(mapping)?;
        Some(Problem::of(pid, what, advice))
    });
    open.chain(mapped).collect()
}

fn open_obstacle(descriptor: &Descriptor) -> Option<(String, &'static str)> {
    let name = descriptor.link.display();
    match &descriptor.kind {
        Kind::Anonymous(kind) => anonymous_obstacle(kind),
        Kind::HugeMemory => Some((format!("has {name} open, in huge pages"), HUGETLB)),
        Kind::Device { major, .. } if !can_be_opened_again(&descriptor.link, *major) => {
            Some((format!("has {name} open"), DEVICE))
        }
        Kind::Socket { protocol } if !is_saved(protocol) => {
            Some((format!("has a {protocol} socket"), SOCKET))
        }
        _ => None,
    }
}

fn anonymous_obstacle(kind: &str) -> Option<(String, &'static str)> {
    match kind {
        "[io_uring]" => Some(("has an io_uring".into(), IO_URING)),
        "[userfaultfd]" => Some(("has a userfaultfd".into(), USERFAULTFD)),
        "[eventfd]" | "[eventpoll]" | "[signalfd]" | "[timerfd]" | "[fanotify]" | "[pidfd]"
        | "inotify" | "[inotify]" | "bpf-map" => None,
        other => Some((format!("has {other} open"), DEVICE)),
    }
}

/// Devices that have no state, and terminals. NVIDIA's are closed by the driver's
/// checkpoint.
fn can_be_opened_again(link: &Path, major: u32) -> bool {
    const MEMORY: u32 = 1;
    const TERMINALS: [u32; 3] = [3, 4, 5];
    const PSEUDO_TERMINALS: std::ops::RangeInclusive<u32> = 128..=143;
    let name = link.to_string_lossy();
    major == MEMORY
        || TERMINALS.contains(&major)
        || PSEUDO_TERMINALS.contains(&major)
        || name.starts_with("/dev/nvidia")
        || name == "/dev/net/tun"
        || name == "/dev/rtc"
}

/// Protocols that CRIU knows. What has no name is left to it.
fn is_saved(protocol: &str) -> bool {
    const SAVED: [&str; 14] = [
        "",
        "TCP",
        "TCPv6",
        "UDP",
        "UDPv6",
        "UDP-Lite",
        "UDPLITEv6",
        "RAW",
        "RAWv6",
        "PING",
        "UNIX",
        "UNIX-STREAM",
        "PACKET",
        "NETLINK",
    ];
    SAVED.contains(&protocol)
}

fn mapped_obstacle(mapping: &Mapping) -> Option<(String, &'static str)> {
    let name = mapping.name.to_string_lossy();
    if let Some(kind) = name.strip_prefix("anon_inode:") {
        return anonymous_obstacle(kind.trim_end_matches(" (deleted)"));
    }
    if name.starts_with("/SYSV") {
        return Some(("has System V shared memory".into(), SYSV));
    }
    if name.starts_with("/secretmem") {
        let advice = "CRIU cannot read such memory: start it so that it uses none.";
        return Some(("has memory of memfd_secret".into(), advice));
    }
    match &mapping.kind {
        Some(Kind::Device { major, .. }) if !can_be_opened_again(&mapping.name, *major) => {
            Some((format!("has {name} mapped"), DEVICE))
        }
        _ => None,
    }
}

fn stream_that_would_be_cut(tree: &Tree, pid: u32, descriptor: &Descriptor) -> Option<Problem> {
    let Socket::Unix {
        is_stream: true,
        peer: Some(peer),
    } = tree.sockets.get(&descriptor.inode)?
    else {
        return None;
    };
    let is_inside = tree.own_sockets().contains(peer);
    (!is_inside && *peer != 0).then(|| {
        Problem::of(
            pid,
            format!(
                "has a unix socket that is connected with a process outside of the tree (descriptor {})",
                descriptor.number
            ),
            "Close the connection, or checkpoint a tree that has both ends.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Access;
    use super::*;

    fn tree(facts: Vec<Facts>) -> Tree {
        let member = |facts| Member {
            facts,
            ..Member::default()
        };
        Tree {
            members: facts.into_iter().map(member).collect(),
            ..Tree::default()
        }
    }

    fn facts(pid: u32, parent: u32) -> Facts {
        Facts {
            pid,
            parent,
            session: pid,
            ..Facts::default()
        }
    }

    fn open(link: &str, kind: Kind) -> Tree {
        let mut tree = tree(vec![facts(7, 1)]);
        tree.members[0].descriptors.push(Descriptor {
            access: Access::Read,
            number: 3,
            link: link.into(),
            inode: 99,
            kind,
        });
        tree
    }

    fn said(tree: &Tree) -> Vec<String> {
        let problems = of_tree(tree, true);
        problems.into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn children_are_left_out_by_nobody() {
        let tree = tree(vec![facts(7, 1), facts(8, 7)]);
        let problems = of_tree(&tree, false);
        assert!(problems[0].advice.contains("--tree"));
        assert!(of_tree(&tree, true).is_empty());
    }

    #[test]
    fn what_criu_cannot_save_is_told_with_its_number() {
        let ring = Kind::Anonymous("[io_uring]".into());
        let told = said(&open("anon_inode:[io_uring]", ring));
        assert_eq!(told, ["has an io_uring (descriptor 3)"]);
        let told = said(&open("/memfd:x (deleted)", Kind::HugeMemory));
        assert!(told[0].contains("huge pages"));
        let protocol = "MPTCP".to_owned();
        let told = said(&open("socket:[99]", Kind::Socket { protocol }));
        assert!(told[0].contains("MPTCP"));
        let device = |major| Kind::Device { major, minor: 0 };
        assert!(said(&open("/dev/dri/card0", device(226)))[0].contains("/dev/dri/card0"));
        assert!(said(&open("/dev/nvidia0", device(195))).is_empty());
        assert!(said(&open("/dev/pts/3", device(136))).is_empty());
    }

    #[test]
    fn streams_to_the_outside_are_found() {
        let protocol = "UNIX".to_owned();
        let mut tree = open("socket:[99]", Kind::Socket { protocol });
        let unix = |is_stream, peer| Socket::Unix { is_stream, peer };
        tree.sockets.insert(99, unix(true, Some(98)));
        assert!(said(&tree)[0].contains("outside"));
        for harmless in [
            unix(false, Some(98)),
            unix(true, None),
            unix(true, Some(99)),
        ] {
            tree.sockets.insert(99, harmless);
            assert!(said(&tree).is_empty());
        }
    }

    #[test]
    fn processes_that_cannot_be_stopped_or_reached_are_told() {
        let mut one = facts(7, 1);
        one.tracer = 5;
        one.elsewhere = vec!["mnt"];
        let told = said(&tree(vec![one]));
        assert!(told[0].contains("container") && told[1].contains("traced by process 5"));
        let mut child = facts(8, 7);
        child.session = std::process::id();
        let told = said(&tree(vec![facts(7, 1), child]));
        assert!(told[0].contains("session"), "{told:?}");
    }
}
