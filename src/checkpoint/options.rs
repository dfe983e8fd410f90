//! The options of CRIU that a tree needs, found out rather than asked.

use super::tree::{Kind, Socket, Tree};
use std::collections::HashSet;

/// CRIU's own limit for files that have lost their names, in bytes.
const GHOST_LIMIT: u64 = 1 << 20;

/// Options of `criu dump` and `criu restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// For both.
    pub both: Vec<String>,
    /// For the dump alone.
    pub dump: Vec<String>,
}

impl Options {
    /// What a tree needs.
    pub fn for_tree(tree: &Tree) -> Options {
        let mut options = Options::default();
        let both = [
            ("--shell-job", is_shell_job(tree)),
            ("--tcp-established", has_connections(tree)),
            ("--ext-unix-sk", has_outer_peers(tree)),
            ("--file-locks", !tree.locked.is_empty()),
            ("--link-remap", has_linked(tree)),
        ];
        let needed = both.into_iter().filter(|(_, is_needed)| *is_needed);
        options.both = needed.map(|(option, _)| option.to_owned()).collect();
        if has_listeners(tree) {
            // Connections that nobody has accepted yet cannot be saved.
            options.dump.push("--skip-in-flight".into());
        }
        let ghost = largest_ghost(tree);
        if ghost > GHOST_LIMIT {
            options.dump.push("--ghost-limit".into());
            // They may grow until all is stopped.
            options.dump.push(ghost.saturating_mul(2).to_string());
        }
        options
    }

    /// Everything for the dump.
    pub fn of_dump(&self) -> Vec<String> {
        [self.both.as_slice(), &self.dump].concat()
    }
}

/// Whether the first process's session or terminal is somebody else's.
fn is_shell_job(tree: &Tree) -> bool {
    let root = tree.root();
    let has_outer_terminal =
        |facts: &super::tree::Facts| facts.terminal != 0 && !tree.has(facts.session);
    root.session != root.pid
        || root.group != root.pid
        || tree
            .members
            .iter()
            .any(|member| has_outer_terminal(&member.facts))
        || tree.descriptors().any(|(_, one)| is_terminal(&one.kind))
}

fn is_terminal(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Device {
            major: 4 | 5 | 136..=143,
            ..
        }
    )
}

fn sockets(tree: &Tree) -> impl Iterator<Item = &Socket> {
    tree.descriptors()
        .filter_map(|(_, one)| tree.sockets.get(&one.inode))
}

fn connections(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    sockets(tree).filter_map(|socket| match socket {
        Socket::TcpConnected { local, remote } => Some((local.as_str(), remote.as_str())),
        _ => None,
    })
}

/// Whether the tree has a TCP connection.
pub fn has_connections(tree: &Tree) -> bool {
    connections(tree).next().is_some()
}

/// Whether a TCP connection has its other end outside of the tree.
pub fn has_outer_connections(tree: &Tree) -> bool {
    let own: HashSet<_> = connections(tree).collect();
    own.iter()
        .any(|(local, remote)| !own.contains(&(*remote, *local)))
}

fn has_listeners(tree: &Tree) -> bool {
    sockets(tree).any(|socket| *socket == Socket::TcpListening)
}

/// Datagrams to processes outside, such as a system log.
fn has_outer_peers(tree: &Tree) -> bool {
    let own = tree.own_sockets();
    sockets(tree).any(|socket| match socket {
        Socket::Unix {
            is_stream: false,
            peer: Some(peer),
        } => !own.contains(peer),
        _ => false,
    })
}

/// Files that have lost the name they were opened under, open and mapped.
fn deleted(tree: &Tree) -> impl Iterator<Item = &Kind> {
    let open = tree.descriptors().map(|(_, one)| &one.kind);
    open.chain(tree.mappings().filter_map(|(_, one)| one.kind.as_ref()))
}

fn has_linked(tree: &Tree) -> bool {
    deleted(tree).any(|kind| {
        matches!(
            kind,
            Kind::Deleted {
                is_linked: true,
                ..
            }
        )
    })
}

fn largest_ghost(tree: &Tree) -> u64 {
    let bytes = |kind: &Kind| match kind {
        Kind::Deleted { bytes, .. } => *bytes,
        _ => 0,
    };
    deleted(tree).map(bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Access, Descriptor, Facts, Member};
    use super::*;

    fn leader(kind: Kind, socket: Option<Socket>) -> Tree {
        let facts = Facts {
            pid: 7,
            group: 7,
            session: 7,
            ..Facts::default()
        };
        let descriptor = Descriptor {
            access: Access::Read,
            number: 3,
            link: "x".into(),
            inode: 99,
            kind,
        };
        let member = Member {
            facts,
            descriptors: vec![descriptor],
            ..Member::default()
        };
        Tree {
            members: vec![member],
            sockets: socket.into_iter().map(|socket| (99, socket)).collect(),
            ..Tree::default()
        }
    }

    fn of(kind: Kind, socket: Option<Socket>) -> Vec<String> {
        Options::for_tree(&leader(kind, socket)).of_dump()
    }

    #[test]
    fn nothing_is_asked_for_what_needs_nothing() {
        assert!(of(Kind::File, None).is_empty());
        assert!(of(Kind::Memory, None).is_empty());
        let deleted = Kind::Deleted {
            bytes: 10,
            is_linked: false,
        };
        assert!(of(deleted, None).is_empty());
    }

    #[test]
    fn each_need_has_its_option() {
        let socket = |socket| {
            let protocol = String::new();
            of(Kind::Socket { protocol }, Some(socket))
        };
        assert_eq!(socket(connected("1", "2")), ["--tcp-established"]);
        assert_eq!(socket(Socket::TcpListening), ["--skip-in-flight"]);
        let log = Socket::Unix {
            is_stream: false,
            peer: Some(5),
        };
        assert_eq!(socket(log), ["--ext-unix-sk"]);
        let terminal = Kind::Device {
            major: 136,
            minor: 0,
        };
        assert_eq!(of(terminal, None), ["--shell-job"]);
        let deleted = |bytes, is_linked| of(Kind::Deleted { bytes, is_linked }, None);
        assert_eq!(deleted(1, true), ["--link-remap"]);
        assert_eq!(deleted(4 << 20, false), ["--ghost-limit", "8388608"]);
    }

    fn connected(local: &str, remote: &str) -> Socket {
        Socket::TcpConnected {
            local: local.into(),
            remote: remote.into(),
        }
    }

    #[test]
    fn connections_within_the_tree_are_told_from_others() {
        let protocol = "TCP".to_owned();
        let kind = Kind::Socket { protocol };
        let mut tree = leader(kind, Some(connected("1", "2")));
        assert!(has_connections(&tree) && has_outer_connections(&tree));
        // The other end is there, but not in the tree; then in it.
        tree.sockets.insert(98, connected("2", "1"));
        assert!(has_outer_connections(&tree));
        let mut other = tree.members[0].descriptors[0].clone();
        other.inode = 98;
        tree.members[0].descriptors.push(other);
        assert!(has_connections(&tree) && !has_outer_connections(&tree));
    }

    #[test]
    fn a_job_of_a_shell_is_known_by_its_session() {
        let mut tree = leader(Kind::File, None);
        tree.members[0].facts.session = 5;
        assert_eq!(Options::for_tree(&tree).both, ["--shell-job"]);
        tree.locked.insert(1);
        let options = Options::for_tree(&tree).both;
        assert_eq!(options, ["--shell-job", "--file-locks"]);
    }
}
