//! CRIU's images of one folder, as far as they tell what the memory is.

use super::limits;
use super::roles::{Owner, Role};
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
}

impl Room {
    pub(super) fn new() -> Room {
        Room {
            mappings: limits::MAPPINGS,
            runs: limits::RUNS,
            names: limits::NAMES,
        }
    }

    /// Whether a name of so many bytes may be kept.
    pub(super) fn take_name(&mut self, bytes: usize) -> bool {
        let left = self.names.checked_sub(bytes + limits::NAME);
        left.map(|left| self.names = left).is_some()
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
    pub(super) path: Vec<u8>,
    pub(super) bytes: u64,
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
    pub(super) stats: Vec<(Vec<u8>, Stats)>,
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
        let full = |what: &str| {
            let text = format!("more {what} than are looked into");
            ImageError::new(path, ImageReason::Impossible(text))
        };
        match role {
            Role::Mm(_) if self.mappings.len() >= limits::OWNERS => return Err(full("processes")),
            Role::Pagemap(_) if self.runs.len() >= limits::OWNERS => {
                return Err(full("processes"));
            }
            Role::Mm(pid) => {
                let found = images::mappings(path, from, room.mappings)?;
                room.mappings -= found.list.len();
                self.mappings.insert(pid, found);
            }
            Role::Pagemap(owner) => {
                let found = page_runs(path, from, &mut room.runs)?;
                self.runs.insert(owner, found);
            }
            Role::Core(thread) => {
                let name = images::command_name(path, from)?;
                if let Some(name) = name.filter(|name| room.take_name(name.len())) {
                    self.commands.insert(thread, name);
                }
            }
            Role::Files => images::file_names(path, from, keep(&mut self.files, room))?,
            Role::Memfds => images::memfd_names(path, from, keep(&mut self.memfds, room))?,
            Role::Stats => {
                let found = images::stats(path, from)?;
                if self.stats.len() < limits::NOTES {
                    self.stats.push((shown.clone().into_bytes(), found));
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

fn page_runs(path: &Path, from: impl Read, room: &mut usize) -> Result<PageRuns, ImageError> {
    let mut found = PageRuns::default();
    let mut taken = 0;
    let pages_id = images::runs(path, from, |run| {
        match (run.is_present, run.in_parent, run.is_lazy) {
            (true, _, is_lazy) => {
                // Those that lie at each other are one.
                match found.runs.last_mut() {
                    Some((address, bytes)) if *address + *bytes == run.address => {
                        *bytes += run.bytes;
                    }
                    _ if taken == *room => {
                        let text = "more runs of pages than are looked into".to_owned();
                        return Err(ImageReason::Impossible(text));
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
    *room -= taken;
    found.runs.shrink_to_fit();
    found.pages_id = pages_id;
    Ok(found)
}
