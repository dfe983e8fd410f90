//! CRIU's images of one folder, as far as they tell what the memory is.

use super::limits;
use super::roles::{Owner, Role, join};
use crate::criu::images::{self, ImageError, ImageReason, Mappings, Stats};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

/// How much may still be kept.
#[derive(Debug)]
pub(super) struct Room {
    mappings: usize,
    runs: usize,
    names: usize,
    owners: usize,
    memory: u64,
}

impl Room {
    pub(super) fn new() -> Room {
        Room {
            mappings: limits::MAPPINGS,
            runs: limits::RUNS,
            names: limits::NAMES,
            owners: limits::OWNERS,
            memory: limits::MEMORY,
        }
    }

    /// Whether a name of so many bytes may be kept.
    pub(super) fn take_name(&mut self, bytes: usize) -> bool {
        let left = self.names.checked_sub(bytes + limits::NAME);
        left.map(|left| self.names = left).is_some()
    }

    /// Whether one more process, shared memory or file of pages may be kept.
    pub(super) fn take_owner(&mut self) -> bool {
        let left = self.owners.checked_sub(1);
        left.map(|left| self.owners = left).is_some()
    }

    /// Whether so many bytes of memory can be true, so that no sum is too large.
    fn take_memory(&mut self, bytes: u64) -> bool {
        let left = self.memory.checked_sub(bytes);
        left.map(|left| self.memory = left).is_some()
    }
}

/// Runs of pages of a process or of shared memory.
#[derive(Debug, Default)]
pub(super) struct PageRuns {
    /// The number of their file.
    pub(super) pages_id: u32,
    /// Address and bytes, in ascending order, of those that are in the file.
    pub(super) runs: Vec<(u64, u64)>,
    /// How many bytes the file has to have.
    pub(super) bytes: u64,
    /// How many of them no page server may bring.
    pub(super) not_lazy: u64,
    /// How many more are in an earlier dump.
    pub(super) in_parent: u64,
    /// How many more were never written.
    pub(super) never_written: u64,
}

/// A file of pages.
#[derive(Debug)]
pub(super) struct PageFile {
    /// Files of all folders are numbered as they come.
    pub(super) number: u32,
    pub(super) bytes: u64,
}

impl PageFile {
    /// The path of the one with an id.
    pub(super) fn path(folder: &[u8], id: u32) -> Vec<u8> {
        join(folder, format!("pages-{id}.img").as_bytes())
    }
}

/// Images of one folder.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) mappings: BTreeMap<u32, Mappings>,
    pub(super) runs: BTreeMap<Owner, PageRuns>,
    /// Names of processes by pid.
    pub(super) commands: HashMap<u32, Vec<u8>>,
    /// Names of files by id.
    pub(super) files: HashMap<u64, Box<[u8]>>,
    /// Names of memfds by the number of their memory.
    pub(super) memfds: HashMap<u64, Box<[u8]>>,
    pub(super) pages: BTreeMap<u32, PageFile>,
    pub(super) stats: Vec<(String, Stats)>,
}

impl Set {
    /// Takes an image that tells something.
    pub(super) fn read(
        &mut self,
        path: &[u8],
        role: Role,
        from: impl Read,
        room: &mut Room,
    ) -> Result<(), ImageError> {
        // Messages show names as they may be shown.
        let shown = super::shown(path);
        let path = Path::new(&shown);
        let above = |what| ImageError::new(path, ImageReason::Above(what));
        let is_owner = matches!(role, Role::Mm(_) | Role::Pagemap(_));
        if is_owner && !room.take_owner() {
            return Err(above("more processes than are looked into"));
        }
        match role {
            Role::Mm(pid) => {
                let found = images::mappings(path, from, room.mappings)?;
                room.mappings -= found.list.len();
                self.mappings.insert(pid, found);
            }
            Role::Pagemap(owner) => {
                let found = page_runs(path, from, room)?;
                self.runs.insert(owner, found);
            }
            Role::Core(thread) => {
                let name = images::command_name(path, from)?;
                if let Some(name) = name.filter(|name| room.take_name(name.len())) {
                    self.commands.insert(thread, name);
                }
            }
            Role::Files => images::file_names(path, from, keep(&mut self.files, room))?,
            Role::OldFiles => {
                images::old_file_names(path, from, keep(&mut self.files, room))?;
            }
            Role::Memfds => images::memfd_names(path, from, keep(&mut self.memfds, room))?,
            Role::Stats => {
                let found = images::stats(path, from)?;
                if self.stats.len() < limits::STATS {
                    self.stats.push((shown.clone(), found));
                }
            }
            _ => images::check_frames(path, from)?,
        }
        Ok(())
    }
}

/// Keeps names as long as there is room.
fn keep<'a>(
    names: &'a mut HashMap<u64, Box<[u8]>>,
    room: &'a mut Room,
) -> impl FnMut(u64, &[u8]) + 'a {
    |id, name| {
        let name = &name[..name.len().min(limits::PATH)];
        if room.take_name(name.len()) {
            names.insert(id, name.into());
        }
    }
}

fn page_runs(path: &Path, from: impl Read, room: &mut Room) -> Result<PageRuns, ImageError> {
    let mut found = PageRuns::default();
    let mut taken = 0;
    let pages_id = images::runs(path, from, |run| {
        if !room.take_memory(run.bytes) {
            let text = "more memory than any machine has".to_owned();
            return Err(ImageReason::Impossible(text));
        }
        match (run.is_present, run.in_parent, run.is_lazy) {
            (true, _, is_lazy) => {
                // Those that lie at each other are one.
                match found.runs.last_mut() {
                    Some((address, bytes)) if *address + *bytes == run.address => {
                        *bytes += run.bytes;
                    }
                    _ if taken == room.runs => {
                        return Err(ImageReason::Above(
                            "more runs of pages than are looked into",
                        ));
                    }
                    _ => {
                        taken += 1;
                        found.runs.push((run.address, run.bytes));
                    }
                }
                found.bytes += run.bytes;
                found.not_lazy += if is_lazy { 0 } else { run.bytes };
            }
            (false, true, _) => found.in_parent += run.bytes,
            (false, false, true) => found.never_written += run.bytes,
            (false, false, false) => {}
        }
        Ok(())
    })?;
    room.runs -= taken;
    found.runs.shrink_to_fit();
    found.pages_id = pages_id;
    Ok(found)
}
