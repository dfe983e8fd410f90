//! Pipes whose other end is outside of a tree. CRIU saves the end that is inside, and
//! after the restore nobody is at the other one. Where it is somebody's standard
//! input, output or error, that of the command that restores takes its place.

use super::tree::{Access, Descriptor, Kind, Tree};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// CRIU keeps what it is given in one queue of a socket.
pub(super) const MOST: usize = 64;

/// A pipe that leads out of a tree, and is standard input, output or error inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandardPipe {
    /// Its inode, by which CRIU knows it.
    pub inode: u32,
    /// The number of the descriptor, 0 to 2; the least one, where it is several.
    pub standard: u8,
}

/// The pipes that lead out of a tree as standard input, output or error.
pub fn standard_pipes(tree: &Tree) -> Vec<StandardPipe> {
    let outer = outer(tree);
    let mut found = BTreeMap::new();
    for (pid, one) in tree.descriptors().filter(|(_, one)| is_nameless(one)) {
        let (Some(standard), Ok(inode)) = (standard(pid, one), u32::try_from(one.inode)) else {
            continue;
        };
        if outer.contains(&one.inode) {
            let least = found.entry(inode).or_insert(standard);
            *least = standard.min(*least);
        }
    }
    let pipes = found.into_iter().take(MOST);
    pipes
        .map(|(inode, standard)| StandardPipe { inode, standard })
        .collect()
}

/// What somebody should know about the other pipes that lead out of a tree, a
/// sentence for each process.
pub fn cut_pipes(tree: &Tree) -> Vec<String> {
    let outer = outer(tree);
    let standard: HashSet<_> = standard_pipes(tree)
        .iter()
        .map(|pipe| u64::from(pipe.inode))
        .collect();
    let is_cut = |one: &&Descriptor| {
        is_nameless(one) && outer.contains(&one.inode) && !standard.contains(&one.inode)
    };
    let sentence = |member: &super::tree::Member| {
        let cut = member.descriptors.iter().filter(is_cut);
        let numbers: Vec<_> = cut.map(|one| one.number.to_string()).collect();
        let pid = member.pid();
        (!numbers.is_empty()).then(|| {
            format!(
                "process {pid} has pipes to processes outside of the tree (descriptors {}): after a restore nobody is at their other ends",
                numbers.join(", ")
            )
        })
    };
    tree.members.iter().filter_map(sentence).collect()
}

/// Inodes of pipes of which only one end is in the tree.
fn outer(tree: &Tree) -> HashSet<u64> {
    let mut ends: HashMap<u64, (bool, bool)> = HashMap::new();
    for (_, one) in tree.descriptors().filter(|(_, one)| is_nameless(one)) {
        let (is_read, is_written) = ends.entry(one.inode).or_default();
        let writes = one.access != Access::Read;
        *is_read |= !writes;
        *is_written |= writes;
    }
    let cut = ends
        .into_iter()
        .filter(|(_, (is_read, is_written))| is_read != is_written);
    cut.map(|(inode, _)| inode).collect()
}

/// Which standard descriptor of the command that restores can take a pipe's place.
/// Input that is in the pipe, and that nobody has read yet, comes back with the pipe
/// alone.
fn standard(pid: u32, one: &Descriptor) -> Option<u8> {
    match (one.number, one.access) {
        (0, Access::Read) => (!has_unread(pid)).then_some(0),
        (1, Access::Write | Access::Append) => Some(1),
        (2, Access::Write | Access::Append) => Some(2),
        _ => None,
    }
}

/// Whether there are bytes in the pipe that is a process's standard input.
fn has_unread(pid: u32) -> bool {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/{pid}/fd/0"));
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one number.
    opened.is_ok_and(|pipe| unsafe {
        libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut bytes) == 0 && bytes > 0
    })
}

/// Pipes with a name are found again by it.
fn is_nameless(descriptor: &Descriptor) -> bool {
    descriptor.kind == Kind::Pipe && descriptor.link.to_string_lossy().starts_with("pipe:")
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Facts, Member};
    use super::*;

    fn member(pid: u32, pipes: &[(u64, bool, &str)]) -> Member {
        let descriptor = |(number, &(inode, is_written, link)): (u32, &(u64, bool, &str))| {
            let link = link.into();
            let kind = Kind::Pipe;
            Descriptor {
                number,
                link,
                inode,
                kind,
                access: if is_written {
                    Access::Write
                } else {
                    Access::Read
                },
            }
        };
        Member {
            facts: Facts {
                pid,
                ..Facts::default()
            },
            descriptors: (0..).zip(pipes).map(descriptor).collect(),
            ..Member::default()
        }
    }

    #[test]
    fn only_pipes_to_the_outside_are_told() {
        let tree = |members| Tree {
            members,
            ..Tree::default()
        };
        let (read, write) = ((5, false, "pipe:[5]"), (5, true, "pipe:[5]"));
        let within = vec![member(7, &[read]), member(8, &[write])];
        assert!(cut_pipes(&tree(within)).is_empty());
        let named = member(7, &[(5, true, "/run/fifo")]);
        assert!(cut_pipes(&tree(vec![named])).is_empty());
        let file = (1, true, "/log");
        let others = [
            file,
            file,
            file,
            (6, true, "pipe:[6]"),
            (7, false, "pipe:[7]"),
        ];
        let told = cut_pipes(&tree(vec![member(7, &others), member(8, &[write, read])]));
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("process 7 ") && told[0].contains("(descriptors 3, 4)"));
    }

    #[test]
    fn what_leads_out_as_a_standard_descriptor_is_known_by_it() {
        let (input, output, error) = (
            (5, false, "pipe:[5]"),
            (6, true, "pipe:[6]"),
            (7, true, "pipe:[7]"),
        );
        let within = (8, true, "pipe:[8]");
        let tree = Tree {
            members: vec![
                member(MAX, &[input, output, error, (8, false, "pipe:[8]")]),
                // Another output of its own, and the first one's as its error.
                member(MAX, &[output, within, output, error]),
                member(MAX, &[input, (9, true, "pipe:[9]"), within]),
            ],
            ..Tree::default()
        };
        let found = standard_pipes(&tree);
        let found: Vec<_> = found.iter().map(|one| (one.inode, one.standard)).collect();
        assert_eq!(found, [(5, 0), (6, 1), (7, 2), (9, 1)]);
        assert!(cut_pipes(&tree).is_empty());
    }

    /// No process has it.
    const MAX: u32 = u32::MAX;
}
