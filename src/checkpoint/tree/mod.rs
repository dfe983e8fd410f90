//! What a tree of processes holds, as `/proc` tells.
//!
//! All is read while the processes run, so it may have changed a moment later: CRIU
//! has the last word. A process that ends meanwhile is left out.

mod descriptors;
mod locks;
mod mappings;
mod peers;
mod process;
mod sockets;

pub use descriptors::{Access, Descriptor, Kind};
pub use mappings::Mapping;
pub use process::Facts;
pub use sockets::Socket;

use crate::proc::{descendants, parents};
use std::collections::{HashMap, HashSet};
use std::io;

/// A process and its descendants.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Parents first.
    pub members: Vec<Member>,
    /// The sockets of their network namespaces, by inode.
    pub sockets: HashMap<u64, Socket>,
    /// Inodes of files that members hold locks of.
    pub locked: HashSet<u64>,
}

/// One of them.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Who it is.
    pub facts: Facts,
    /// What it has open.
    pub descriptors: Vec<Descriptor>,
    /// What it has mapped from files and devices.
    pub mappings: Vec<Mapping>,
}

impl Tree {
    /// Looks at a process and its descendants.
    ///
    /// # Errors
    /// If the process is not there.
    pub fn look(root: u32) -> io::Result<Tree> {
        let everybody = parents();
        let mut members = vec![Member::look(root)?];
        for pid in descendants(root, &everybody).into_iter().skip(1) {
            members.extend(Member::look(pid).ok());
        }
        let pids: Vec<_> = members.iter().map(Member::pid).collect();
        let inodes = members.iter().flat_map(|member| &member.descriptors);
        let inodes = inodes.map(|descriptor| descriptor.inode).collect();
        Ok(Tree {
            sockets: sockets::of(&pids),
            locked: locks::held(&pids, &inodes),
            members,
        })
    }

    /// Whether a process is one of them.
    pub fn has(&self, pid: u32) -> bool {
        self.members.iter().any(|member| member.pid() == pid)
    }

    /// The first of them.
    pub fn root(&self) -> &Facts {
        &self.members[0].facts
    }

    /// Every descriptor, with its process.
    pub fn descriptors(&self) -> impl Iterator<Item = (u32, &Descriptor)> {
        let of = |member: &'_ Member| member.pid();
        self.members
            .iter()
            .flat_map(move |member| member.descriptors.iter().map(move |one| (of(member), one)))
    }

    /// Every mapping, with its process.
    pub fn mappings(&self) -> impl Iterator<Item = (u32, &Mapping)> {
        self.members
            .iter()
            .flat_map(|member| member.mappings.iter().map(|one| (member.pid(), one)))
    }

    /// Memory of the processes that goes into the images, in bytes: an upper bound,
    /// as shared memory is counted in each.
    pub fn memory_bytes(&self) -> u64 {
        let each = self.members.iter().map(|member| member.facts.memory_bytes);
        each.sum()
    }

    /// What goes into the images at least, in bytes.
    pub fn least_memory_bytes(&self) -> u64 {
        let own = self.members.iter().map(|member| member.facts.own_bytes);
        own.max().unwrap_or(0)
    }

    /// Inodes of the unix sockets that members have.
    pub fn own_sockets(&self) -> HashSet<u64> {
        let sockets = self
            .descriptors()
            .filter(|(_, one)| matches!(one.kind, Kind::Socket { .. }));
        sockets.map(|(_, one)| one.inode).collect()
    }
}

impl Member {
    fn look(pid: u32) -> io::Result<Member> {
        let facts = Facts::look(pid)?;
        let (descriptors, mappings) = if facts.is_zombie() {
            Default::default()
        } else {
            (descriptors::of(pid), mappings::of(pid))
        };
        Ok(Member {
            facts,
            descriptors,
            mappings,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.facts.pid
    }
}
