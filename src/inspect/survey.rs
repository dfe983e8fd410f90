//! Takes the files of a checkpoint one after another, in whatever order they come.

use super::gpu;
use super::hints::{self, Facts};
use super::images::{PageFile, Room, Set};
use super::largest::Largest;
use super::pages::{Counts, Cutter};
use super::report::{Archive, Category, CriuStats, Kind, Large, Notes, Pages, Report, Shares};
use super::roles::{self, CATEGORIES, Role, folder_of, name_of};
use super::tar::{Source, Tar, TarError, What};
use super::{InspectError, Options, limits, memory, shown};
use crate::checkpoint;
use crate::criu::images::{ImageError, ImageReason};
use crate::snapshot;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::path::Path;

/// What a manifest of a checkpoint says.
#[derive(Debug)]
struct Checkpoint {
    folder: Vec<u8>,
    /// Names and lengths.
    images: Vec<(String, u64)>,
    /// Processes of which the driver has put the device memory into the images.
    driver_only: Vec<u32>,
    /// Folders of snapshots.
    snapshots: Vec<Vec<u8>>,
}

/// What was taken so far.
pub(super) struct Survey<'a> {
    options: &'a Options,
    room: Room,
    categories: HashMap<&'static str, (u64, u64)>,
    sets: BTreeMap<Vec<u8>, Set>,
    gpu: BTreeMap<Vec<u8>, gpu::Found>,
    checkpoint: Option<Checkpoint>,
    /// Lengths of images and of files of snapshots, by path.
    lengths: HashMap<Vec<u8>, u64>,
    /// Whether `lengths` has all of them.
    has_all_lengths: bool,
    largest: Largest<(String, String)>,
    /// Whether pages are counted as they come.
    counts_pages: bool,
    counts: Counts,
    facts: Facts,
    is_podman: bool,
    is_telling: bool,
    pub(super) not_looked_into: Notes,
    pub(super) problems: Notes,
}

impl<'a> Survey<'a> {
    pub(super) fn new(options: &'a Options, counts_pages: bool) -> Survey<'a> {
        Survey {
            options,
            room: Room::new(),
            categories: HashMap::new(),
            sets: BTreeMap::new(),
            gpu: BTreeMap::new(),
            checkpoint: None,
            lengths: HashMap::new(),
            has_all_lengths: true,
            largest: Largest::new(options.top),
            counts_pages,
            counts: Counts::default(),
            facts: Facts::default(),
            is_podman: false,
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
        self.is_podman |= matches!(
            name_of(path),
            b"config.dump" | b"spec.dump" | b"config.json"
        );
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
            match self.room.take_name(path.len()) {
                true => drop(self.lengths.insert(path.to_owned(), bytes)),
                false => self.has_all_lengths = false,
            }
        }
    }

    /// The images of a file's folder.
    fn set(&mut self, path: &[u8]) -> Result<&mut Set, String> {
        let folder = folder_of(path);
        if !self.sets.contains_key(folder) && self.sets.len() >= limits::SETS {
            return Err("in one folder with images too many to be looked into".into());
        }
        Ok(self.sets.entry(folder.to_owned()).or_default())
    }

    fn image(&mut self, path: &[u8], role: Role, from: &mut dyn Source) -> Result<(), String> {
        self.set(path)?;
        let set = self.sets.get_mut(folder_of(path));
        let set = set.ok_or("the folder is gone")?;
        let from = io::BufReader::with_capacity(64 << 10, from);
        let reason = |error: ImageError| match (error.entry, error.reason) {
            (Some(entry), reason) => format!("entry {entry}: {reason}"),
            (None, ImageReason::Cut) => ImageReason::Cut.to_string(),
            (None, reason) => reason.to_string(),
        };
        set.read(path, role, from, &mut self.room).map_err(reason)
    }

    fn pages(
        &mut self,
        path: &[u8],
        id: u32,
        bytes: u64,
        from: &mut dyn Source,
    ) -> Result<(), String> {
        let set = self.set(path)?;
        if set.pages.len() >= limits::OWNERS {
            return Err("more files of pages than are looked into".into());
        }
        let path = path.to_owned();
        set.pages.insert(id, PageFile { path, bytes });
        if self.counts_pages {
            let mut buffer = vec![0; 256 << 10];
            let mut cutter = Cutter::default();
            loop {
                match from.read(&mut buffer).map_err(|error| error.to_string())? {
                    0 => break,
                    more => cutter.add(&buffer[..more], &mut self.counts),
                }
            }
        }
        Ok(())
    }

    /// Returns whether it is one of rewarm's.
    fn snapshot(&mut self, path: &[u8], bytes: u64, from: &mut dyn Source) -> Result<bool, String> {
        const BEGIN: &[u8] = b"{\"rewarm_snapshot\":";
        if bytes > limits::SNAPSHOT_MANIFEST || self.gpu.len() >= limits::SNAPSHOTS {
            self.not_looked_into.add(path, "more than is looked into");
            return Ok(true);
        }
        let text = read(from, bytes)?;
        if !text.starts_with(BEGIN) {
            return Ok(false);
        }
        self.is_telling = true;
        let parsed = snapshot::Manifest::parse(&text);
        drop(text);
        let manifest = parsed.map_err(|cause| cause.to_string())?;
        let pid = manifest.process.pid;
        let largest = &mut self.largest;
        let folder = folder_of(path);
        let found = gpu::sum_up(&manifest, folder, |stored, address, device| {
            let name = || format!("process {pid}, device {device}, {address:#x}");
            largest.offer(stored, || ("device memory".to_owned(), name()));
        });
        self.gpu.insert(folder.to_owned(), found);
        Ok(true)
    }

    fn checkpoint(&mut self, path: &[u8], bytes: u64, from: &mut dyn Source) -> Result<(), String> {
        self.is_telling = true;
        if bytes > limits::CHECKPOINT_MANIFEST {
            self.not_looked_into.add(path, "more than is looked into");
            return Ok(());
        }
        let text = read(from, bytes)?;
        let manifest = checkpoint::Manifest::parse(Path::new(&shown(path)), &text);
        drop(text);
        let manifest = manifest.map_err(|error| error.to_string())?;
        let folder = folder_of(path).to_owned();
        let gpus = manifest
            .processes
            .iter()
            .filter_map(|one| Some((one.pid, one.gpu.as_ref()?)));
        let mut driver_only = Vec::new();
        let mut snapshots = Vec::new();
        for (pid, gpu) in gpus {
            match &gpu.snapshot {
                Some(snapshot) => {
                    snapshots.push(join(&folder, snapshot.as_os_str().as_encoded_bytes()));
                }
                None => driver_only.push(pid),
            }
        }
        let images = manifest
            .images
            .into_iter()
            .map(|image| (image.name, image.bytes));
        self.checkpoint = Some(Checkpoint {
            folder,
            images: images.collect(),
            driver_only,
            snapshots,
        });
        Ok(())
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
                        self.facts.logs_of_rootfs += member.bytes;
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

    /// Files of pages, by path.
    pub(super) fn page_files(&self) -> Vec<(Vec<u8>, u64)> {
        let files = self.sets.values().flat_map(|set| set.pages.values());
        files.map(|file| (file.path.clone(), file.bytes)).collect()
    }

    /// Zeros and duplicates of what was counted as it came.
    pub(super) fn counted(&self) -> Pages {
        pages_of(&self.counts, self.counts.pages)
    }

    /// Everything that there is to tell.
    pub(super) fn finish(
        mut self,
        name: &str,
        archive: Option<Archive>,
        pages: Pages,
        is_in_memory: bool,
    ) -> Result<Report, InspectError> {
        if !self.is_telling {
            return Err(InspectError::NoCheckpoint(name.to_owned()));
        }
        self.check_files();
        let kind = self.kind();
        self.facts.compression = archive
            .as_ref()
            .map_or("none", |archive| archive.compression);
        self.facts.is_in_memory = is_in_memory;
        self.facts.gpu_in_images = self
            .checkpoint
            .take()
            .map_or(Vec::new(), |one| one.driver_only);
        let frozen: Vec<u32> = self.gpu.values().map(|found| found.gpu.pid).collect();
        let mut memory = memory::Summing::new(self.options.top, &mut self.largest, &mut self.facts);
        for (folder, set) in &self.sets {
            memory.add(folder, set, &frozen, &mut self.problems);
        }
        let memory = memory.finish(pages);
        for found in self.gpu.values() {
            self.facts.add_gpu(found);
        }
        let hints = hints::of(&self.facts, &memory);
        let stats = self.sets.values().flat_map(|set| &set.stats);
        let criu = stats.map(|(path, stats)| CriuStats {
            path: String::from_utf8_lossy(path).into_owned(),
            dump: stats.dump,
            restore: stats.restore,
        });
        let criu = criu.collect();
        let large = |(bytes, (what, name))| Large { bytes, what, name };
        self.problems
            .first
            .sort_by(|one, other| one.path.cmp(&other.path));
        self.not_looked_into
            .first
            .sort_by(|one, other| one.path.cmp(&other.path));
        Ok(Report {
            version: 1,
            path: name.to_owned(),
            kind,
            archive,
            whole: self.problems.count == 0,
            bytes: self
                .categories
                .values()
                .fold(0, |sum, one| sum.saturating_add(one.0)),
            files: self.categories.values().map(|one| one.1).sum(),
            categories: categories(&self.categories),
            memory,
            gpu: self.gpu.into_values().map(|found| found.gpu).collect(),
            largest: self.largest.into_sorted().into_iter().map(large).collect(),
            criu,
            hints,
            not_looked_into: self.not_looked_into,
            problems: self.problems,
        })
    }

    fn kind(&self) -> Kind {
        if self.checkpoint.is_some() {
            Kind::RewarmCheckpoint
        } else if self.sets.is_empty() {
            Kind::RewarmSnapshot
        } else if self.is_podman {
            Kind::PodmanCheckpoint
        } else {
            Kind::CriuImages
        }
    }

    /// Whether all files are there, as long as the manifests say.
    fn check_files(&mut self) {
        let mut wanted: Vec<(Vec<u8>, u64)> = Vec::new();
        if let Some(one) = &self.checkpoint {
            let images = join(&one.folder, checkpoint::IMAGES.as_bytes());
            let files = one
                .images
                .iter()
                .map(|(name, bytes)| (join(&images, name.as_bytes()), *bytes));
            wanted.extend(files);
            for snapshot in &one.snapshots {
                if !self.gpu.contains_key(snapshot) {
                    self.problems.add(
                        snapshot,
                        "the snapshot of device memory is missing or damaged",
                    );
                }
            }
        }
        for (folder, found) in &self.gpu {
            let files = found
                .files
                .iter()
                .map(|(name, bytes)| (join(folder, name.as_bytes()), *bytes));
            wanted.extend(files);
        }
        if !self.has_all_lengths {
            self.not_looked_into
                .add(b"", "more files than can be compared with the manifests");
            return;
        }
        for (path, bytes) in wanted {
            match self.lengths.get(&path) {
                None => self.problems.add(&path, "the file is missing"),
                Some(found) if *found != bytes => {
                    let what = format!("it has {found} bytes and should have {bytes}");
                    self.problems.add(&path, what);
                }
                Some(_) => {}
            }
        }
        for (path, _) in self
            .lengths
            .iter()
            .filter(|(path, _)| Role::of(path) == Role::DeviceData)
        {
            if !self.gpu.contains_key(folder_of(path)) {
                self.problems.add(
                    path,
                    "device memory without a manifest: nothing can be told of it",
                );
            }
        }
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

/// All of a file that is at most so long.
fn read(from: &mut dyn Source, bytes: u64) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let read = from.take(bytes).read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    Ok(text)
}

fn is_log(path: &[u8]) -> bool {
    path.ends_with(b".log") || path.starts_with(b"var/log/")
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    roles::plain(&[folder, name].join(&b'/'))
}

fn categories(found: &HashMap<&'static str, (u64, u64)>) -> Vec<Category> {
    let known = CATEGORIES
        .iter()
        .filter_map(|name| Some((name, found.get(name)?)));
    let category = |(name, (bytes, files)): (&&'static str, &(u64, u64))| Category {
        name,
        bytes: *bytes,
        files: *files,
    };
    known.map(category).collect()
}

/// Shares out of the pages that were read of so many.
pub(super) fn pages_of(counts: &Counts, total: u64) -> Pages {
    let read = counts.pages;
    if read == 0 {
        return Pages {
            total,
            ..Pages::default()
        };
    }
    let share = |part: u64| part as f64 / read as f64;
    let is_all = read >= total;
    Pages {
        shares: match (is_all, counts.contents.is_exact()) {
            (true, true) => Shares::All,
            (true, false) => Shares::Estimated,
            (false, _) => Shares::Sample,
        },
        read,
        total,
        zero_share: share(counts.zero),
        zero_plus_minus: if is_all {
            0.0
        } else {
            plus_minus(share(counts.zero), read)
        },
        duplicate_share: share(counts.duplicate()),
    }
}

/// How far a share of a sample may be off, at 95 % confidence: by the normal
/// distribution, and by the rule of three where there is none or nothing else.
fn plus_minus(share: f64, sampled: u64) -> f64 {
    let sampled = sampled as f64;
    let normal = 1.96 * (share * (1.0 - share) / sampled).sqrt();
    normal.max(3.0 / sampled)
}
