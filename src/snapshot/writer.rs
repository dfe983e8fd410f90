//! Writing a snapshot.

use super::folder::{Folder, Lock};
use super::manifest::MOST_FILES;
use super::names::{self, Kind, MANIFEST, NEW_MANIFEST};
use super::output::{Output, check_length};
use super::parallel::each;
use super::process::Life;
use super::{
    Allocation, Cause, Chunk, DataFile, Device, Manifest, Process, Snapshot, SnapshotError, Stored,
    reader,
};
use crate::digest::Digest;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

type Result<T> = std::result::Result<T, SnapshotError>;

/// Most files that one snapshot is written to.
const MOST_WRITERS: usize = 128;

/// With more files than this, a snapshot's chunks are all written again.
const MOST_FILES_KEPT: usize = MOST_FILES - MOST_WRITERS;

/// How a snapshot is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// Number of files that are written at once, 1 to 128.
    pub writers: usize,
    /// Most bytes that the snapshot may take in the folder, an older one that
    /// lies there meanwhile included.
    pub budget_bytes: Option<u64>,
}

/// What a snapshot is of.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Whose memory it is.
    pub process: Process,
    /// Version of the driver.
    pub driver_version: u32,
    /// The devices that the memory is of.
    pub devices: Vec<Device>,
    /// Length of a chunk, in bytes.
    pub chunk_bytes: u64,
    /// The memory.
    pub allocations: Vec<Allocation>,
    /// The chunks of the first allocation in order, then those of the second, and
    /// so on. Stored ones are where this writer put them, or where
    /// [`Writer::previous`] has them, no two in the same place.
    pub chunks: Vec<Chunk>,
}

/// Where a writer put a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    file: u32,
    offset: u64,
}

impl Place {
    /// The chunk, with the digest of its bytes.
    pub fn chunk(self, digest: Digest) -> Chunk {
        Chunk::Stored(Stored {
            file: self.file,
            offset: self.offset,
            digest,
        })
    }
}

/// A snapshot that is being written. Dropped without a commit, it removes what it
/// wrote.
#[derive(Debug)]
pub struct Writer {
    folder: Arc<Folder>,
    lock: Option<Lock>,
    previous: Option<Snapshot>,
    /// Which files of the older snapshot are worth keeping.
    keeps: Vec<bool>,
    generation: u64,
    outputs: Vec<Output>,
    budget: Option<u64>,
    /// Bytes in the folder.
    used: AtomicU64,
    failed: AtomicBool,
}

impl Writer {
    /// Begins a snapshot in a folder, which is made if it is not there (its
    /// parents are not). Room that [`super::prepare`] made there is used.
    ///
    /// # Errors
    /// If somebody else is writing there, the folder holds the snapshot of another
    /// process that lives or one that cannot be read, it is not this user's, or
    /// the system fails.
    pub fn create(path: &Path, options: WriterOptions) -> Result<Writer> {
        check_writers(path, options.writers)?;
        let folder = Arc::new(Folder::make(path)?);
        let lock = folder.lock()?;
        let previous = match Snapshot::open_in(folder.clone()) {
            Ok(previous) => Some(previous),
            Err(error) if error.is_none() => None,
            Err(error) => return Err(error),
        };
        let previous_manifest = previous.as_ref().map(Snapshot::manifest);
        if let Some(manifest) = previous_manifest {
            check_owner(path, manifest)?;
        }
        clean(&folder, previous_manifest)?;
        let files = previous_manifest.map_or(&[][..], |manifest| &manifest.files);
        let used = files.iter().map(|file| file.bytes);
        let used = used.fold(0, u64::saturating_add);
        let generation = previous_manifest.map_or(1, |one| one.generation.saturating_add(1));
        let mut writer = Writer {
            lock: Some(lock),
            keeps: previous_manifest.map_or_else(Vec::new, worth_keeping),
            previous,
            generation,
            outputs: Vec::with_capacity(options.writers),
            budget: options.budget_bytes,
            used: AtomicU64::new(used),
            failed: AtomicBool::new(false),
            folder,
        };
        for number in 0..options.writers {
            let name = names::data(generation, number);
            let output = Output::open(&writer.folder, number, name)?;
            writer.outputs.push(output);
        }
        Ok(writer)
    }

    /// The snapshot that the folder holds until the commit.
    pub fn previous(&self) -> Option<&Manifest> {
        self.previous.as_ref().map(Snapshot::manifest)
    }

    /// Whether room that was made ahead is used.
    pub fn uses_room(&self) -> bool {
        self.outputs.iter().any(Output::is_room)
    }

    /// Whether a chunk of [`Writer::previous`] should stay where it is if it has
    /// not changed. Not so if its file holds mostly what nobody needs any more, or
    /// there are too many files.
    pub fn keeps(&self, stored: &Stored) -> bool {
        let keeps = self.keeps.get(stored.file as usize);
        keeps.copied().unwrap_or(false)
    }

    /// Writes a chunk: whole pages, best at an address that is a multiple of a
    /// page. Any thread may call this at any time; with a `writer` of its own
    /// (below the number of writers) it does not wait for others.
    ///
    /// # Errors
    /// If it would exceed the budget, or the system fails. Then there will be no
    /// snapshot.
    pub fn write(&self, writer: usize, bytes: &[u8]) -> Result<Place> {
        let place = self.place(writer, bytes.len())?;
        self.write_part(place, 0, bytes)?;
        Ok(place)
    }

    /// Takes room for a chunk of `bytes` bytes, which is then written in parts.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn place(&self, writer: usize, bytes: usize) -> Result<Place> {
        self.noted(self.take_place(writer, bytes))
    }

    /// Writes a part of a chunk: whole pages, `offset` bytes from its beginning. All
    /// of the chunk has to be written before [`Writer::commit`].
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_part(&self, place: Place, offset: usize, bytes: &[u8]) -> Result<()> {
        self.noted(self.write_at(place, offset as u64, bytes))
    }

    /// After a failure there will be no snapshot.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.failed.store(true, Relaxed);
        }
        result
    }

    fn take_place(&self, writer: usize, bytes: usize) -> Result<Place> {
        let invalid = |cause| SnapshotError::new(self.folder.path(), cause);
        check_length(bytes).map_err(invalid)?;
        if writer >= self.outputs.len() {
            let what = format!("writer {writer} of {}", self.outputs.len());
            return Err(invalid(Cause::Invalid(what)));
        }
        self.spend(bytes as u64)?;
        let (number, offset) = self.take(writer, bytes as u64)?;
        Ok(Place {
            file: (self.kept() + number) as u32,
            offset,
        })
    }

    fn write_at(&self, place: Place, offset: u64, bytes: &[u8]) -> Result<()> {
        check_length(bytes.len()).map_err(|cause| SnapshotError::new(self.folder.path(), cause))?;
        let offset = place.offset + offset;
        let output = &self.outputs[place.file as usize - self.kept()];
        output.write(bytes, offset).map_err(|error| {
            let doing = format!("write {} bytes at offset {offset}", bytes.len());
            SnapshotError::io(self.folder.file(output.name()), doing, error)
        })
    }

    /// Number of files of the older snapshot, which come first.
    fn kept(&self) -> usize {
        self.previous().map_or(0, |manifest| manifest.files.len())
    }

    /// Where the next chunk goes: to room that is there, the writer's own first.
    fn take(&self, writer: usize, bytes: u64) -> Result<(usize, u64)> {
        let numbers = std::iter::once(writer).chain(0..self.outputs.len());
        let mut room = numbers.filter_map(|number| {
            let offset = self.outputs[number].take_room(bytes)?;
            Some((number, offset))
        });
        let own = || Some((writer, self.outputs[writer].take(bytes)?));
        room.next().or_else(own).ok_or_else(|| {
            let what = Cause::Invalid("a file of more than 2^64 bytes".to_owned());
            SnapshotError::new(self.folder.file(self.outputs[writer].name()), what)
        })
    }

    /// Counts bytes that are to be written against the budget.
    fn spend(&self, more: u64) -> Result<()> {
        let budget = self.budget.unwrap_or(u64::MAX);
        let next = |used: u64| used.checked_add(more).filter(|used| *used <= budget);
        match self.used.fetch_update(Relaxed, Relaxed, next) {
            Ok(_) => Ok(()),
            Err(used) => Err(SnapshotError::new(
                self.folder.path(),
                Cause::Budget { budget, used, more },
            )),
        }
    }

    /// Makes it a snapshot, which takes the place of an older one in the folder.
    /// While the result lives, nobody else writes there.
    ///
    /// # Errors
    /// If a write failed before, the contents break the format's rules, or the
    /// system fails. Then an older snapshot is still there; only if the very last
    /// step fails, the new one may be there already, whole.
    pub fn commit(mut self, contents: Contents) -> Result<Snapshot> {
        if self.failed.load(Relaxed) {
            return Err(SnapshotError::new(self.folder.path(), Cause::Incomplete));
        }
        let manifest = self.manifest(contents)?;
        let text = manifest
            .text()
            .map_err(|cause| SnapshotError::new(self.folder.file(MANIFEST), cause))?;
        self.spend(text.len() as u64)?;
        self.finish_outputs()?;
        self.write_manifest(&text)?;
        let files = reader::open_files(&self.folder, &manifest)?;
        self.folder.rename(NEW_MANIFEST, MANIFEST)?;
        // They are the new snapshot's from now on, whatever happens.
        self.outputs.clear();
        self.folder.sync()?;
        // What stays is removed by the next writer.
        let _ = clean(&self.folder, Some(&manifest));
        Ok(Snapshot {
            folder: self.folder.clone(),
            manifest,
            files,
            lock: self.lock.take(),
        })
    }

    /// The manifest, with those files only that hold a chunk.
    fn manifest(&self, contents: Contents) -> Result<Manifest> {
        let previous = self.previous.as_ref().map(Snapshot::manifest);
        let old = previous.map_or(&[][..], |manifest| &manifest.files);
        let new = self.outputs.iter().map(|output| DataFile {
            name: output.name().to_owned(),
            bytes: output.bytes(),
        });
        let all: Vec<_> = old.iter().cloned().chain(new).collect();
        let mut chunks = contents.chunks;
        let files = only_used(&all, &mut chunks)
            .map_err(|cause| SnapshotError::new(self.folder.path(), cause))?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Manifest {
            id: random_id(self.folder.path())?,
            generation: self.generation,
            created: since_1970.map_or(0, |time| time.as_secs()),
            rewarm_version: env!("CARGO_PKG_VERSION").to_owned(),
            process: contents.process,
            driver_version: contents.driver_version,
            devices: contents.devices,
            chunk_bytes: contents.chunk_bytes,
            allocations: contents.allocations,
            files,
            chunks,
        })
    }

    /// Brings all chunks to safety, at once as each file may take its time.
    fn finish_outputs(&mut self) -> Result<()> {
        let folder = &self.folder;
        let (used, unused): (Vec<_>, Vec<_>) = std::mem::take(&mut self.outputs)
            .into_iter()
            .partition(|output| output.bytes() > 0);
        for output in unused {
            output.abandon(folder);
        }
        self.outputs = used;
        each(self.outputs.len(), self.outputs.len(), |number| {
            self.outputs[number].finish(folder)
        })?;
        folder.sync()
    }

    fn write_manifest(&self, text: &[u8]) -> Result<()> {
        let mut file = self.folder.create(NEW_MANIFEST)?;
        let written = file.write_all(text).and_then(|()| file.sync_all());
        written.map_err(|error| {
            let doing = format!("write {} bytes", text.len());
            SnapshotError::io(self.folder.file(NEW_MANIFEST), doing, error)
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        for output in &self.outputs {
            output.abandon(&self.folder);
        }
        if self.lock.is_some() {
            let _ = self.folder.remove(NEW_MANIFEST);
        }
    }
}

pub(super) fn check_writers(path: &Path, writers: usize) -> Result<()> {
    if (1..=MOST_WRITERS).contains(&writers) {
        return Ok(());
    }
    let what = format!("{writers} writers; there can be 1 to {MOST_WRITERS}");
    Err(SnapshotError::new(path, Cause::Invalid(what)))
}

/// Refuses a folder that a living process may still need.
fn check_owner(path: &Path, manifest: &Manifest) -> Result<()> {
    let owner = &manifest.process;
    let life = owner.life();
    let life = life.map_err(|error| SnapshotError::io(path, "tell whose snapshot it is", error))?;
    match life {
        Life::This | Life::Gone => Ok(()),
        Life::Alive => Err(SnapshotError::new(path, Cause::Owned(owner.pid))),
        Life::Hidden => Err(SnapshotError::new(path, Cause::OwnedElsewhere(owner.pid))),
    }
}

/// Removes what killed writers have left: all that is ours by its name and not of
/// this snapshot, but for room made ahead.
fn clean(folder: &Folder, manifest: Option<&Manifest>) -> Result<()> {
    let files = manifest.map_or(&[][..], |manifest| &manifest.files);
    for (name, kind) in folder.list()? {
        let is_leftover = match kind {
            Kind::NewManifest => true,
            Kind::Data => !files.iter().any(|file| file.name == name),
            Kind::Manifest | Kind::Spare(_) => false,
        };
        if is_leftover {
            folder.remove(&name)?;
        }
    }
    Ok(())
}

/// Those of the files that hold a chunk; chunks are told their new numbers.
fn only_used(all: &[DataFile], chunks: &mut [Chunk]) -> std::result::Result<Vec<DataFile>, Cause> {
    let mut numbers = vec![None; all.len()];
    let mut files = Vec::new();
    for chunk in chunks {
        let Chunk::Stored(stored) = chunk else {
            continue;
        };
        let old = stored.file as usize;
        let Some(number) = numbers.get_mut(old) else {
            let what = format!("a chunk in file {old}, which there is not");
            return Err(Cause::Invalid(what));
        };
        stored.file = *number.get_or_insert_with(|| {
            files.push(all[old].clone());
            files.len() as u32 - 1
        });
    }
    Ok(files)
}

/// Which files of a snapshot are at least half in use, if there are not too many.
fn worth_keeping(manifest: &Manifest) -> Vec<bool> {
    let files = &manifest.files;
    let mut used = vec![0; files.len()];
    for piece in manifest.pieces() {
        if let Chunk::Stored(stored) = piece.chunk {
            used[stored.file as usize] += piece.bytes;
        }
    }
    let few = files.len() <= MOST_FILES_KEPT;
    let half = |(file, used): (&DataFile, u64)| few && used >= file.bytes.div_ceil(2);
    files.iter().zip(used).map(half).collect()
}

fn random_id(path: &Path) -> Result<u128> {
    let mut id = [0; 16];
    // SAFETY: the call fills at most as many bytes as there are.
    let filled = unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    // So few come at once or not at all (getrandom(2)).
    if filled != id.len() as isize {
        let error = std::io::Error::last_os_error();
        return Err(SnapshotError::io(path, "make a random id", error));
    }
    Ok(u128::from_ne_bytes(id))
}
