//! rewarm's own manifests: what they say, and whether all their files are there.

use super::roles::{Role, folder_of, join};
use super::survey::Survey;
use super::tar::Source;
use super::{gpu, limits, shown};
use crate::checkpoint;
use crate::snapshot;
use std::io::Read;
use std::path::Path;

/// What a manifest of a checkpoint says.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) folder: Vec<u8>,
    /// Names and lengths.
    images: Vec<(String, u64)>,
    /// Processes of which the driver has put the device memory into the images.
    pub(super) driver_only: Vec<u32>,
    /// Folders of snapshots.
    snapshots: Vec<Vec<u8>>,
}

impl Survey<'_> {
    /// Returns whether it is one of rewarm's.
    pub(super) fn snapshot(
        &mut self,
        path: &[u8],
        bytes: u64,
        from: &mut dyn Source,
    ) -> Result<bool, String> {
        const BEGIN: &[u8] = b"{\"rewarm_snapshot\":";
        if bytes > limits::SNAPSHOT_MANIFEST || self.gpu.len() >= limits::SNAPSHOTS {
            self.pass_over(path, "more than is looked into");
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
        let names = found.files.iter().map(|(name, _)| name.len());
        if !names
            .chain([folder.len()])
            .all(|bytes| self.room.take_name(bytes))
        {
            self.pass_over(path, "more files of snapshots than are looked into");
            return Ok(true);
        }
        self.gpu.insert(folder.to_owned(), found);
        Ok(true)
    }

    pub(super) fn checkpoint(
        &mut self,
        path: &[u8],
        bytes: u64,
        from: &mut dyn Source,
    ) -> Result<(), String> {
        self.is_telling = true;
        if bytes > limits::CHECKPOINT_MANIFEST {
            self.pass_over(path, "more than is looked into");
            return Ok(());
        }
        self.checkpoint = None;
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

    /// Whether all files are there, as long as the manifests say.
    pub(super) fn check_files(&mut self) {
        if self.is_partial {
            return;
        }
        let (lengths, problems) = (&self.lengths, &mut self.problems);
        let mut check = |path: &[u8], bytes: u64| match lengths.get(path) {
            None => problems.add(path, "the file is missing"),
            Some(found) if *found != bytes => {
                let what = format!("it has {found} bytes and should have {bytes}");
                problems.add(path, what);
            }
            Some(_) => {}
        };
        for (folder, found) in &self.gpu {
            for (name, bytes) in &found.files {
                check(&join(folder, name.as_bytes()), *bytes);
            }
        }
        if let Some(one) = &self.checkpoint {
            let images = join(&one.folder, checkpoint::IMAGES.as_bytes());
            for (name, bytes) in &one.images {
                check(&join(&images, name.as_bytes()), *bytes);
            }
            let is_missing = |path: &&Vec<u8>| !self.gpu.contains_key(*path);
            for snapshot in one.snapshots.iter().filter(is_missing) {
                let what = "the snapshot of device memory is missing or damaged";
                self.problems.add(snapshot, what);
            }
        }
        let is_data = |path: &&Vec<u8>| Role::of(path) == Role::DeviceData;
        for path in self.lengths.keys().filter(is_data) {
            if !self.gpu.contains_key(folder_of(path)) {
                let what = "device memory without a manifest: nothing can be told of it";
                self.problems.add(path, what);
            }
        }
    }
}

/// All of a file that is at most so long.
fn read(from: &mut dyn Source, bytes: u64) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let read = from.take(bytes).read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    Ok(text)
}
