//! Snapshots that are there.

use super::folder::{Folder, Lock};
use super::names::{self, Kind, MANIFEST};
use super::parallel::each;
use super::{Cause, Manifest, SnapshotError, manifest};
use crate::pages::PageFile;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// Files that are removed at once.
const REMOVERS: usize = 16;

type Result<T> = std::result::Result<T, SnapshotError>;

/// An open snapshot. Its files stay open, so it can be read even where another
/// has taken its place meanwhile.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) folder: Arc<Folder>,
    pub(super) manifest: Manifest,
    /// As the manifest has them.
    pub(super) files: Vec<Arc<PageFile>>,
    /// Who wrote it keeps others from writing here.
    pub(super) lock: Option<Lock>,
}

impl Snapshot {
    /// Opens the snapshot in a folder, and checks all that can be told without
    /// reading its chunks.
    ///
    /// # Errors
    /// If there is none ([`Cause::None`]), or it is damaged, or belongs to
    /// somebody else.
    pub fn open(path: &Path) -> Result<Snapshot> {
        Snapshot::open_in(Arc::new(Folder::open(path)?))
    }

    /// The same of a snapshot that another user's process wrote, or root.
    ///
    /// # Errors
    /// As [`Snapshot::open`]; somebody else is who is neither of them.
    pub fn open_of(path: &Path, user: u32) -> Result<Snapshot> {
        Snapshot::open_in(Arc::new(Folder::open_of(path, user)?))
    }

    /// The same in a folder that is open.
    pub(super) fn open_in(folder: Arc<Folder>) -> Result<Snapshot> {
        /// Each time, a whole snapshot was written meanwhile.
        const TRIES: usize = 5;
        for _ in 1..TRIES {
            let (manifest, inode) = read_manifest(&folder)?;
            match open_files(&folder, &manifest) {
                Ok(files) => return Ok(Snapshot::of(folder, manifest, files)),
                Err(error) if inode_of_manifest(&folder) == Some(inode) => return Err(error),
                Err(_) => {}
            }
        }
        let (manifest, _) = read_manifest(&folder)?;
        let files = open_files(&folder, &manifest)?;
        Ok(Snapshot::of(folder, manifest, files))
    }

    fn of(folder: Arc<Folder>, manifest: Manifest, files: Vec<Arc<PageFile>>) -> Snapshot {
        Snapshot {
            folder,
            manifest,
            files,
            lock: None,
        }
    }

    /// What there is in it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The file of a [`super::Stored`], by number. Panics if there is none of that
    /// number, which no chunk of the manifest has.
    pub fn file(&self, file: u32) -> &Arc<PageFile> {
        &self.files[file as usize]
    }

    /// Removes it from disk, and room for others beside it. It stays readable, and
    /// its bytes stay where they are, until it is dropped.
    ///
    /// # Errors
    /// If somebody is writing in the folder, or has replaced it, or the system
    /// fails. Then the snapshot is whole or has no manifest; what is left of it is
    /// removed by the next writer.
    pub fn remove(&self) -> Result<()> {
        let _lock = self.withdraw()?;
        let found = self.folder.list()?;
        // To give the pages of a large file back takes a while.
        each(found.len(), REMOVERS, |number| {
            self.folder.remove(&found[number].0)
        })?;
        self.folder.sync()
    }

    /// Removes it from disk, and keeps its files as room for the next one. They
    /// hold its bytes until then.
    ///
    /// # Errors
    /// As [`Snapshot::remove`].
    pub fn recycle(&self) -> Result<()> {
        let _lock = self.withdraw()?;
        let found = self.folder.list()?;
        let mut free = (0..).map(names::spare).filter(|name| {
            let is_taken = |(taken, _): &(String, Kind)| taken == name;
            !found.iter().any(is_taken)
        });
        for file in &self.manifest.files {
            if let Some(spare) = free.next() {
                self.folder.rename(&file.name, &spare)?;
            }
        }
        self.folder.sync()
    }

    /// Takes the manifest away, for good before anything else is done to the
    /// files. Returns what keeps others out.
    fn withdraw(&self) -> Result<Option<Lock>> {
        let lock = match &self.lock {
            Some(_) => None,
            None => Some(self.folder.lock()?),
        };
        let (current, _) = read_manifest(&self.folder)?;
        if current.id != self.manifest.id {
            return Err(SnapshotError::new(self.path(), Cause::Replaced));
        }
        self.folder.remove(MANIFEST)?;
        self.folder.sync()?;
        Ok(lock)
    }
}

/// The manifest, and its inode.
fn read_manifest(folder: &Folder) -> Result<(Manifest, u64)> {
    let path = folder.file(MANIFEST);
    let (file, metadata) = folder
        .read(MANIFEST)?
        .ok_or_else(|| SnapshotError::new(folder.path(), Cause::None))?;
    if metadata.len() > manifest::MOST_BYTES {
        let what = format!("a manifest of {} bytes", metadata.len());
        return Err(SnapshotError::new(path, Cause::Damaged(what)));
    }
    let text = read_all(&file, metadata.len())
        .map_err(|error| SnapshotError::io(&path, "read it", error))?;
    let manifest = Manifest::parse(&text).map_err(|cause| SnapshotError::new(path, cause))?;
    Ok((manifest, metadata.ino()))
}

/// At most `bytes` bytes.
fn read_all(file: &File, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    text.try_reserve_exact(bytes as usize)
        .map_err(std::io::Error::other)?;
    file.take(bytes).read_to_end(&mut text)?;
    Ok(text)
}

fn inode_of_manifest(folder: &Folder) -> Option<u64> {
    let (_, metadata) = folder.read(MANIFEST).ok()??;
    Some(metadata.ino())
}

/// The files of a manifest, as long as it says.
pub(super) fn open_files(folder: &Folder, manifest: &Manifest) -> Result<Vec<Arc<PageFile>>> {
    let open = |file: &super::DataFile| {
        let path = folder.file(&file.name);
        let damaged = |what| SnapshotError::new(&path, Cause::Damaged(what));
        let (opened, metadata) = folder
            .read(&file.name)?
            .ok_or_else(|| damaged("the file is missing".to_owned()))?;
        if metadata.len() != file.bytes {
            return Err(damaged(format!(
                "it has {} bytes and should have {}",
                metadata.len(),
                file.bytes
            )));
        }
        PageFile::from_file(opened, path.clone())
            .map_err(|error| SnapshotError::new(&path, error.into()))
    };
    manifest.files.iter().map(open).collect()
}
