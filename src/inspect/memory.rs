//! Which pages belong to which mapping.

use super::density::Density;
use super::hints::Facts;
use super::images::{PageFile, PageRuns, Set};
use super::largest::Largest;
use super::report::{Large, Memory, MemoryKind, Notes, Pages, Process};
use super::roles::Owner;
use super::{limits, shown};
use crate::criu::images::{Mapping, MappingKind, Mappings};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// Bytes and mappings.
type Sum = (u64, u64);

/// Pid, name and kinds of mappings of a process.
type Member = (u32, String, Vec<(&'static str, Sum)>);

/// Anonymous mappings from this size on may be weights or device memory.
const LARGE: u64 = 32 << 20;

/// Processes with device memory, by pid.
pub(super) struct Gpus {
    /// It is in a snapshot.
    pub(super) frozen: HashSet<u32>,
    /// The driver put it into the images.
    pub(super) by_driver: HashSet<u32>,
}

/// Sums up the memory of all processes.
pub(super) struct Summing<'a> {
    top: usize,
    largest: &'a mut Largest<(String, String)>,
    facts: &'a mut Facts,
    gpus: &'a Gpus,
    density: &'a Density,
    bytes: u64,
    kinds: BTreeMap<&'static str, Sum>,
    processes: Largest<Member>,
    process_count: u64,
    /// By name.
    files: HashMap<(MappingKind, &'a [u8]), u64>,
}

impl<'a> Summing<'a> {
    pub(super) fn new(
        top: usize,
        largest: &'a mut Largest<(String, String)>,
        facts: &'a mut Facts,
        gpus: &'a Gpus,
        density: &'a Density,
    ) -> Summing<'a> {
        Summing {
            top,
            largest,
            facts,
            gpus,
            density,
            bytes: 0,
            kinds: BTreeMap::new(),
            processes: Largest::new(limits::LISTED),
            process_count: 0,
            files: HashMap::new(),
        }
    }

    /// Adds the images of a folder.
    pub(super) fn add(&mut self, set: &'a Set) {
        let files = set.pages.values();
        self.bytes = files.fold(self.bytes, |sum, file| sum.saturating_add(file.bytes));
        for (owner, runs) in &set.runs {
            match owner {
                Owner::Process(pid) => self.add_process(*pid, set, runs),
                Owner::Shared(id) => self.add_shared(*id, set, runs),
            }
        }
    }

    fn add_process(&mut self, pid: u32, set: &'a Set, runs: &PageRuns) {
        let none = Mappings::default();
        let mappings = set.mappings.get(&pid).unwrap_or(&none);
        let command = set.commands.get(&pid).map_or(&b"?"[..], Vec::as_slice);
        let process = format!("{pid} {}", shown(command));
        let mut kinds: BTreeMap<&'static str, Sum> = BTreeMap::new();
        let (mut inside, mut large, mut weights) = (0, 0, 0);
        let file = set.pages.get(&runs.pages_id);
        each_mapping(mappings, &runs.runs, |mapping, stored| {
            let bytes = stored.end - stored.start;
            inside += bytes;
            let name = set.files.get(&mapping.id).map(|name| &**name);
            let sum = kinds.entry(kind_name(mapping.kind)).or_default();
            *sum = (sum.0 + bytes, sum.1 + 1);
            self.offer(&process, mapping, name, bytes);
            if mapping.kind == MappingKind::Anonymous && bytes >= LARGE {
                large += bytes;
                let share = file.map_or(0.0, |file| self.density.share(file.number, stored));
                weights += (share * bytes as f64) as u64;
            }
        });
        let unknown = runs.bytes.saturating_sub(inside);
        if unknown > 0 {
            kinds.insert("unknown", (unknown, 1));
            self.largest
                .offer(unknown, || ("memory, unknown".to_owned(), process.clone()));
        }
        for (kind, sum) in &kinds {
            let all = self.kinds.entry(kind).or_default();
            *all = (all.0 + sum.0, all.1 + sum.1);
        }
        self.process_count += 1;
        self.processes.offer(runs.bytes, || {
            (pid, shown(command), kinds.into_iter().collect())
        });
        self.facts.not_lazy += runs.not_lazy;
        let is_frozen = self.gpus.frozen.contains(&pid);
        let by_driver = self.gpus.by_driver.contains(&pid);
        if by_driver || !is_frozen && uses_cuda(mappings, set) {
            self.facts.large_of_driver += large;
        } else {
            self.facts.anonymous_weights += weights;
        }
    }

    fn offer(&mut self, process: &str, mapping: &Mapping, name: Option<&'a [u8]>, bytes: u64) {
        let what = || format!("memory, {}", kind_name(mapping.kind));
        let range = || format!("{:#x}-{:#x}", mapping.range.start, mapping.range.end);
        match name.filter(|_| is_of_file(mapping.kind)) {
            Some(name) => {
                let make = || (what(), format!("{process}: {}", shown(name)));
                self.largest.offer(bytes, make);
                let key = (mapping.kind, name);
                // As many as there are mappings, at most.
                *self.files.entry(key).or_default() += bytes;
            }
            None => self
                .largest
                .offer(bytes, || (what(), format!("{process}: {}", range()))),
        }
    }

    fn add_shared(&mut self, id: u64, set: &'a Set, runs: &PageRuns) {
        // The kernel names shared memory of no file so.
        let memfd = set.memfds.get(&id).map(|name| &**name);
        let memfd = memfd.filter(|name| *name != b"/dev/zero");
        let kind = match memfd {
            Some(_) => MappingKind::Memfd,
            None => MappingKind::Shared,
        };
        let sum = self.kinds.entry(kind_name(kind)).or_default();
        *sum = (sum.0 + runs.bytes, sum.1 + 1);
        self.facts.shared += runs.bytes;
        let name = || match memfd {
            Some(name) => format!("memfd {}", shown(name)),
            None => format!("shared memory {id}"),
        };
        self.largest.offer(runs.bytes, || {
            (format!("memory, {}", kind_name(kind)), name())
        });
        if let Some(name) = memfd {
            *self.files.entry((kind, name)).or_default() += runs.bytes;
        }
    }

    pub(super) fn finish(self, pages: Pages) -> Memory {
        let mut files = Largest::new(self.top);
        for ((kind, name), bytes) in self.files {
            let prefix = if kind == MappingKind::Memfd {
                "memfd "
            } else {
                ""
            };
            let make = || {
                (
                    kind_name(kind).to_owned(),
                    format!("{prefix}{}", shown(name)),
                )
            };
            files.offer(bytes, make);
        }
        let file = |(bytes, (what, name))| Large { bytes, what, name };
        let process = |(bytes, (pid, name, kinds)): (u64, (u32, String, Vec<_>))| Process {
            pid,
            name,
            bytes,
            kinds: sorted(kinds.into_iter()),
        };
        Memory {
            bytes: self.bytes,
            pages,
            kinds: sorted(self.kinds.into_iter()),
            processes: self
                .processes
                .into_sorted()
                .into_iter()
                .map(process)
                .collect(),
            process_count: self.process_count,
            mapped_files: files.into_sorted().into_iter().map(file).collect(),
        }
    }
}

fn sorted(kinds: impl Iterator<Item = (&'static str, Sum)>) -> Vec<MemoryKind> {
    let kind = |(kind, (bytes, mappings))| MemoryKind {
        kind,
        bytes,
        mappings,
    };
    let mut kinds: Vec<_> = kinds.map(kind).collect();
    kinds.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    kinds
}

/// Gives every mapping that has pages, with their range in the file of pages. Both
/// lists are in ascending order, and the file has the runs one behind another.
fn each_mapping(
    mappings: &Mappings,
    runs: &[(u64, u64)],
    mut each: impl FnMut(&Mapping, Range<u64>),
) {
    let mut runs = runs.iter().map(|(at, bytes)| *at..*at + *bytes);
    let mut next = runs.next();
    // Of what is left of `next`.
    let mut offset = 0;
    for mapping in &mappings.list {
        let (mut stored, range) = (None, &mapping.range);
        while let Some(run) = &mut next {
            if run.start >= range.end {
                break;
            }
            let begin = run.start.max(range.start).min(run.end);
            let end = run.end.min(range.end);
            if begin < end {
                let at = |address: u64| offset + (address - run.start);
                let first = stored.map_or(at(begin), |stored: (u64, u64)| stored.0);
                stored = Some((first, at(end)));
            }
            offset += end - run.start;
            if run.end > range.end {
                // The rest may be of the next mapping.
                run.start = range.end;
                break;
            }
            next = runs.next();
        }
        if let Some((begin, end)) = stored {
            each(mapping, begin..end);
        }
    }
}

/// Whether files of pages are there, as long as the images say.
pub(super) fn check_lengths(folder: &[u8], set: &Set, problems: &mut Notes) {
    let mut wanted: BTreeMap<u32, u64> = BTreeMap::new();
    let mut never_written = 0;
    for runs in set.runs.values() {
        *wanted.entry(runs.pages_id).or_default() += runs.bytes;
        never_written += runs.never_written;
    }
    let mut file = |id: u32, what: String| {
        problems.add(&PageFile::path(folder, id), what);
    };
    for (id, bytes) in &wanted {
        match set.pages.get(id) {
            None if *bytes == 0 => {}
            None => file(*id, format!("the file is missing: {bytes} bytes of memory")),
            Some(found) if found.bytes == *bytes => {}
            Some(found) => {
                let what = format!(
                    "it has {} bytes, and the images speak of {bytes}",
                    found.bytes
                );
                file(*id, what);
            }
        }
    }
    for (id, found) in &set.pages {
        if !wanted.contains_key(id) && found.bytes > 0 {
            file(*id, "no image speaks of its pages".to_owned());
        }
    }
    if never_written > 0 {
        let what =
            format!("{never_written} bytes of memory were never written: a dump with --lazy-pages");
        problems.add(folder, what);
    }
}

fn kind_name(kind: MappingKind) -> &'static str {
    match kind {
        MappingKind::Anonymous => "anonymous",
        MappingKind::Heap => "heap",
        MappingKind::Stack => "stack",
        MappingKind::FilePrivate => "file, private",
        MappingKind::FileShared => "file, shared",
        MappingKind::Shared => "shared",
        MappingKind::Memfd => "memfd",
        MappingKind::Other => "other",
    }
}

fn is_of_file(kind: MappingKind) -> bool {
    matches!(
        kind,
        MappingKind::FilePrivate | MappingKind::FileShared | MappingKind::Memfd
    )
}

/// Whether the driver's library is mapped.
fn uses_cuda(mappings: &Mappings, set: &Set) -> bool {
    let is_driver = |mapping: &Mapping| {
        let name = set
            .files
            .get(&mapping.id)
            .filter(|_| is_of_file(mapping.kind));
        name.is_some_and(|name| super::roles::name_of(name).starts_with(b"libcuda.so"))
    };
    mappings.list.iter().any(is_driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_counted_in_one_mapping() {
        let mapping = |range| Mapping {
            range,
            kind: MappingKind::Anonymous,
            id: 0,
        };
        let mappings = Mappings {
            program: 0,
            list: [10..20, 20..30, 50..60, 70..80].map(mapping).into(),
        };
        let mut found = Vec::new();
        each_mapping(
            &mappings,
            &[(5, 7), (15, 10), (28, 40), (90, 9)],
            |mapping, stored| found.push((mapping.range.start, stored)),
        );
        // The first five bytes are of no mapping.
        assert_eq!(found, [(10, 5..12), (20, 12..19), (50, 39..49)]);
    }
}
