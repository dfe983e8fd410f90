//! Takes the files of a checkpoint one after another, in whatever order they come.

use super::counting::{self, Counting};
use super::hints::Facts;
use super::images::{PageFile, Room, Set};
use super::largest::Largest;
use super::manifests::Checkpoint;
use super::report::Notes;
use super::roles::{self, Role, folder_of};
use super::tar::{Source, Tar, TarError, What};
use super::{Options, gpu, limits, shown};
use crate::criu::images::{ImageError, ImageReason};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

/// What was taken so far.
pub(super) struct Survey<'a> {
    pub(super) options: &'a Options,
    pub(super) room: Room,
    pub(super) categories: HashMap<&'static str, (u64, u64)>,
    pub(super) sets: BTreeMap<Vec<u8>, Set>,
    pub(super) gpu: BTreeMap<Vec<u8>, gpu::Found>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Lengths of images and of files of snapshots, by path.
    pub(super) lengths: HashMap<Vec<u8>, u64>,
    /// Whether some are not known, so that none can be said to be missing.
    pub(super) is_partial: bool,
    pub(super) largest: Largest<(String, String)>,
    /// Whether pages are counted as they come, and not in the end.
    is_stream: bool,
    counting: Option<Counting>,
    page_files: u32,
    pub(super) facts: Facts,
    pub(super) is_telling: bool,
    pub(super) not_looked_into: Notes,
    pub(super) problems: Notes,
}

impl<'a> Survey<'a> {
    pub(super) fn new(options: &'a Options, is_stream: bool) -> Survey<'a> {
        Survey {
            options,
            room: Room::new(),
            categories: HashMap::new(),
            sets: BTreeMap::new(),
            gpu: BTreeMap::new(),
            checkpoint: None,
            lengths: HashMap::new(),
            is_partial: false,
            largest: Largest::new(options.top),
            is_stream,
            counting: None,
            page_files: 0,
            facts: Facts::default(),
            is_telling: false,
            not_looked_into: Notes::default(),
            problems: Notes::default(),
        }
    }

    /// Takes a regular file by its plain path. What is wrong with it is noted.
    pub(super) fn add(&mut self, path: &[u8], bytes: u64, from: &mut dyn Source) {
        let mut role = Role::of(path);
        let found = match role {
            Role::Snapshot => match self.snapshot(path, bytes, from) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    role = Role::Other;
                    Ok(())
                }
                Err(what) => Err(what),
            },
            Role::Checkpoint => self.checkpoint(path, bytes, from),
            Role::Pages(id) => self.pages(path, id, bytes, from),
            Role::RootFs | Role::Contents if path.ends_with(b".tar") => {
                self.nested(path, role, from);
                Ok(())
            }
            Role::Pagemap(_)
            | Role::Mm(_)
            | Role::Core(_)
            | Role::Files
            | Role::OldFiles
            | Role::Memfds
            | Role::Stats
            | Role::Entries => self.image(path, role, from),
            _ => Ok(()),
        };
        if let Err(what) = found {
            self.problems.add(path, what);
        }
        self.count(path, role, bytes);
    }

    fn count(&mut self, path: &[u8], role: Role, bytes: u64) {
        let category = self.categories.entry(role.category()).or_default();
        category.0 = category.0.saturating_add(bytes);
        category.1 += 1;
        self.is_telling |= role.is_telling();
        let total = match role {
            Role::Log => &mut self.facts.logs,
            Role::Ghost => &mut self.facts.ghosts,
            Role::RootFs => &mut self.facts.rootfs,
            Role::Spare => &mut self.facts.spare,
            Role::Contents => &mut self.facts.contents,
            _ => &mut self.facts.rest,
        };
        *total = total.saturating_add(bytes);
        // Pages are told by mapping, and device memory by allocation.
        if !matches!(role, Role::Pages(_) | Role::DeviceData) {
            let make = || (role.category().to_owned(), shown(path));
            self.largest.offer(bytes, make);
        }
        if matches!(
            role.category(),
            "gpu" | "images" | "memory" | "config" | "files" | "logs"
        ) {
            self.keep_length(path, bytes);
        }
    }

    fn keep_length(&mut self, path: &[u8], bytes: u64) {
        if !self.room.take_name(path.len()) {
            if !self.is_partial {
                let what = "more files than can be compared with the manifests";
                self.not_looked_into.add(b"", what);
            }
            self.is_partial = true;
        } else if self.lengths.insert(path.to_owned(), bytes).is_some() {
            let what = "it is there more than once: which one counts is not certain";
            self.problems.add(path, what);
        }
    }

    /// Takes note of a file that is not looked into, so that others cannot be said to
    /// lack it.
    pub(super) fn pass_over(&mut self, path: &[u8], why: impl std::fmt::Display) {
        self.not_looked_into.add(path, why);
        self.is_partial = true;
    }

    /// The images of a file's folder.
    fn set(&mut self, path: &[u8]) -> Result<&mut Set, String> {
        let folder = folder_of(path);
        if !self.sets.contains_key(folder) && self.sets.len() >= limits::SETS {
            return Err("in one folder with images too many: 64 are looked into".into());
        }
        Ok(self.sets.entry(folder.to_owned()).or_default())
    }

    fn image(&mut self, path: &[u8], role: Role, from: &mut dyn Source) -> Result<(), String> {
        self.set(path)?;
        let set = self.sets.get_mut(folder_of(path));
        let set = set.ok_or("the folder is gone")?;
        let from = io::BufReader::with_capacity(64 << 10, from);
        match set.read(path, role, from, &mut self.room) {
            Err(ImageError {
                reason: ImageReason::Above(what),
                ..
            }) => {
                self.pass_over(path, what);
                Ok(())
            }
            Err(error) => Err(match (error.entry, error.reason) {
                (Some(entry), reason) => format!("entry {entry}: {reason}"),
                (None, reason) => reason.to_string(),
            }),
            Ok(()) => Ok(()),
        }
    }

    fn pages(
        &mut self,
        path: &[u8],
        id: u32,
        bytes: u64,
        from: &mut dyn Source,
    ) -> Result<(), String> {
        if !self.room.take_owner() {
            self.pass_over(path, "more files of pages than are looked into");
            return Ok(());
        }
        let number = self.page_files;
        self.set(path)?.pages.insert(id, PageFile { number, bytes });
        self.page_files += 1;
        if !self.is_stream {
            return Ok(());
        }
        let counting = match &self.counting {
            Some(counting) => counting,
            None => {
                let started = Counting::start().map_err(|error| error.to_string())?;
                self.counting.insert(started)
            }
        };
        counting.add(number, from)
    }

    /// The archives in a checkpoint: what podman found changed, and volumes.
    fn nested(&mut self, path: &[u8], role: Role, from: &mut dyn Source) {
        let mut tar = Tar::new(Borrowed(from));
        loop {
            match tar.next() {
                Ok(Some(member)) => {
                    if let Some(why) = roles::why_refused(&member.path) {
                        let inner = shown(&member.path);
                        self.problems.add(path, format_args!("{inner}: {why}"));
                        continue;
                    }
                    if !matches!(member.what, What::File | What::Sparse) {
                        continue;
                    }
                    let inner = roles::plain(&member.path);
                    if role == Role::RootFs && is_log(&inner) {
                        let logs = &mut self.facts.logs_of_rootfs;
                        *logs = logs.saturating_add(member.bytes);
                    }
                    let name = || format!("{}: {}", shown(path), shown(&inner));
                    self.largest.offer(member.bytes, || {
                        (format!("{} (inside)", role.category()), name())
                    });
                }
                Ok(None) => return,
                // Docker's layers may end without the mark.
                Err(TarError::NoEnd) => return,
                Err(error) => {
                    self.problems.add(path, error);
                    return;
                }
            }
        }
    }
}

impl Survey<'_> {
    /// Files of pages by path, in order of their numbers.
    pub(super) fn page_files(&self) -> Vec<(Vec<u8>, u64)> {
        let paths = |(folder, set): (&Vec<u8>, &Set)| {
            let path = |id| PageFile::path(folder, id);
            let files = set.pages.iter();
            files
                .map(|(id, file)| (file.number, path(*id), file.bytes))
                .collect::<Vec<_>>()
        };
        let mut files: Vec<_> = self.sets.iter().flat_map(paths).collect();
        files.sort_unstable();
        files
            .into_iter()
            .map(|(_, path, bytes)| (path, bytes))
            .collect()
    }

    /// What the pages were that came.
    pub(super) fn counted(&mut self) -> counting::Found {
        let counting = self.counting.take();
        counting.map_or_else(counting::Found::new, Counting::finish)
    }
}

/// What comes as one of many kinds of sources.
struct Borrowed<'a>(&'a mut dyn Source);

impl Read for Borrowed<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl Source for Borrowed<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        self.0.skip(bytes)
    }
}

fn is_log(path: &[u8]) -> bool {
    path.ends_with(b".log") || path.starts_with(b"var/log/")
}
