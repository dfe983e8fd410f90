//! The manifest: what there is in a checkpoint, and what it needs.

use super::{CheckpointError, Machine, Pinned, StandardPipe, pipes};
use crate::config::effective_uid;
use crate::criu::pages::PageDigests;
use crate::digest::{self, Digest};
use crate::sealed::{Broken, Seal, bounded};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// The manifest's name in the folder.
pub const NAME: &str = "checkpoint.json";
/// The folder of CRIU's images.
pub const IMAGES: &str = "images";
/// The folder of the snapshots of device memory.
pub const GPU: &str = "gpu";
/// What the folder's name ends in while it is not whole.
const PARTIAL: &str = ".partial";

/// How the manifest is written.
const SEAL: Seal = Seal {
    key: "rewarm_checkpoint",
    format: 1,
    most_bytes: MOST_BYTES,
};

const MOST_BYTES: u64 = 256 << 20;
const MOST_PROCESSES: usize = 1 << 16;
const MOST_FILES: usize = 1 << 20;
const MOST_IMAGES: usize = 1 << 20;
const MOST_OPTIONS: usize = 64;

/// What there is in a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Tells it from every other checkpoint.
    #[serde(with = "digest::hex")]
    pub id: u128,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Version of rewarm that made it.
    pub rewarm_version: String,
    /// Version of CRIU that wrote the images, such as 4.2.1.
    pub criu_version: String,
    /// The machine that it was made on.
    pub machine: Machine,
    /// Pid of the tree's first process.
    pub root: u32,
    /// The tree, parents first.
    #[serde(deserialize_with = "bounded::<MOST_PROCESSES, _, _>")]
    pub processes: Vec<ProcessEntry>,
    /// Options that `criu restore` needs, out of [`RESTORE_OPTIONS`].
    #[serde(deserialize_with = "bounded::<MOST_OPTIONS, _, _>")]
    pub restore_options: Vec<String>,
    /// Pipes in whose place those who restore put their own standard descriptors.
    #[serde(default, deserialize_with = "bounded::<{ pipes::MOST }, _, _>")]
    pub pipes: Vec<StandardPipe>,
    /// Files outside of the checkpoint that the images refer to.
    #[serde(deserialize_with = "bounded::<MOST_FILES, _, _>")]
    pub files: Vec<FileEntry>,
    /// All files in the folder of images.
    #[serde(deserialize_with = "bounded::<MOST_IMAGES, _, _>")]
    pub images: Vec<ImageEntry>,
    /// Digests of the pages in the images.
    pub pages: PageDigests,
}

/// Options of `criu restore` that a manifest may have.
pub const RESTORE_OPTIONS: [&str; 6] = [
    "--shell-job",
    "--tcp-established",
    "--ext-unix-sk",
    "--file-locks",
    "--link-remap",
    "--force-irmap",
];

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessEntry {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid.
    pub parent: u32,
    /// Its session.
    pub session: u32,
    /// Its process group.
    pub group: u32,
    /// Ids of its threads, its own first.
    #[serde(deserialize_with = "bounded::<MOST_PROCESSES, _, _>")]
    pub threads: Vec<u32>,
    /// Those of them that may not run on every CPU.
    #[serde(deserialize_with = "bounded::<MOST_PROCESSES, _, _>")]
    pub pinned: Vec<Pinned>,
    /// Its effective user.
    pub uid: u32,
    /// Path of its program.
    pub executable: PathBuf,
    /// What there is of the GPU, if it uses CUDA.
    pub gpu: Option<GpuEntry>,
}

/// What a process has on the GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuEntry {
    /// Folder of the snapshot of its device memory in the checkpoint, if it was
    /// frozen; else the driver has put the memory into the images.
    pub snapshot: Option<PathBuf>,
    /// Bytes of device memory in the snapshot.
    pub bytes: u64,
    /// Id of the snapshot; 0: there is none.
    #[serde(with = "digest::hex")]
    pub snapshot_id: u128,
}

/// A file that processes have open or mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its mode, as `st_mode` has it.
    pub mode: u32,
    /// When it was modified last, in seconds since 1970; `None` if the processes may
    /// have written to it since, in another restore.
    pub modified: Option<i64>,
    /// Its build id in hexadecimal digits, if it is a program or library that has one.
    pub build_id: Option<String>,
    /// Whether the processes do nothing but append to it: then its length may be
    /// another one, as CRIU has it, too.
    #[serde(default)]
    pub is_log: bool,
}

/// A file in the folder of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEntry {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Digest of all its bytes; `None` for pages, which have their own.
    pub digest: Option<Digest>,
}

impl Manifest {
    /// Reads the manifest of a checkpoint.
    ///
    /// # Errors
    /// If there is none, or it is not as it was written.
    pub fn read(folder: &Path) -> Result<Manifest, CheckpointError> {
        let path = folder.join(NAME);
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let path = folder.to_owned();
                return Err(CheckpointError::None { path });
            }
            opened => opened.map_err(CheckpointError::io(&path, "open it"))?,
        };
        let found = file.metadata();
        let found = found.map_err(CheckpointError::io(&path, "look at it"))?;
        let damaged = |how: String| CheckpointError::Damaged {
            path: path.clone(),
            how,
        };
        if !found.is_file() || found.len() > MOST_BYTES {
            return Err(damaged(format!("{} bytes of manifest", found.len())));
        }
        if found.uid() != 0 && found.uid() != effective_uid() {
            let owner = found.uid();
            return Err(CheckpointError::Foreign { path, owner });
        }
        let mut text = Vec::new();
        let read = file.take(MOST_BYTES).read_to_end(&mut text);
        read.map_err(CheckpointError::io(&path, "read it"))?;
        Manifest::parse(&path, &text)
    }

    /// Understands a manifest that was read whole; the path is for messages.
    ///
    /// # Errors
    /// If it is not as it was written.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Manifest, CheckpointError> {
        let path = path.to_owned();
        let manifest: Manifest = match SEAL.read(text) {
            Ok(manifest) => manifest,
            Err(Broken::Damaged(how)) => return Err(CheckpointError::Damaged { path, how }),
            Err(Broken::Format(format)) => return Err(CheckpointError::Format { path, format }),
        };
        match manifest.check() {
            Ok(()) => Ok(manifest),
            Err(how) => Err(CheckpointError::Damaged { path, how }),
        }
    }

    /// Writes it into the folder and brings it to safety.
    ///
    /// # Errors
    /// If that cannot be done, or the manifest is wrong.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(NAME);
        let invalid = |why| CheckpointError::Invalid {
            path: path.clone(),
            why,
        };
        self.check().map_err(invalid)?;
        let text = SEAL.write(self).map_err(invalid)?;
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()));
        written.map_err(CheckpointError::io(&path, "write it"))
    }

    /// What must hold whatever the machine.
    fn check(&self) -> Result<(), String> {
        let mut pids = HashSet::new();
        for process in &self.processes {
            let pid = process.pid;
            if pid == 0 || pid > i32::MAX as u32 || !pids.insert(pid) {
                return Err(format!("process {pid} twice, or no process"));
            }
            if pid != self.root && !pids.contains(&process.parent) {
                return Err(format!("process {pid} is before its parent"));
            }
            if process.threads.first() != Some(&pid) {
                return Err(format!("process {pid} without threads"));
            }
            let mut pinned = process.pinned.iter();
            if pinned.any(|one| !process.threads.contains(&one.thread)) {
                return Err(format!("a thread that is not of process {pid}"));
            }
            let snapshot = process.gpu.as_ref().and_then(|gpu| gpu.snapshot.as_ref());
            if let Some(snapshot) = snapshot.filter(|path| !is_plain(path)) {
                return Err(format!("a snapshot in {}", snapshot.display()));
            }
        }
        if self.processes.first().map(|first| first.pid) != Some(self.root) {
            return Err(format!("process {} is not the first", self.root));
        }
        let mut names = HashSet::new();
        for image in &self.images {
            let name = Path::new(&image.name);
            if !is_plain(name) || name.components().count() != 1 || !names.insert(name) {
                return Err(format!("an image {}", name.display()));
            }
        }
        if let Some(file) = self.files.iter().find(|file| !file.path.is_absolute()) {
            return Err(format!("a file {}", file.path.display()));
        }
        let mut inodes = HashSet::new();
        let is_one = |pipe: &StandardPipe| pipe.standard <= 2 && pipe.inode != 0;
        if let Some(pipe) =
            (self.pipes.iter()).find(|one| !is_one(one) || !inodes.insert(one.inode))
        {
            return Err(format!("a pipe {pipe:?}"));
        }
        let is_known = |option: &&String| RESTORE_OPTIONS.contains(&option.as_str());
        match self.restore_options.iter().find(|option| !is_known(option)) {
            Some(option) => Err(format!("an option {option}")),
            None => Ok(()),
        }
    }

    /// What the image files come to, in bytes.
    pub fn bytes(&self) -> u64 {
        self.images.iter().map(|image| image.bytes).sum()
    }
}

/// Whether a path stays below where it is taken from.
fn is_plain(path: &Path) -> bool {
    path.components().count() > 0
        && path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// The folder that a checkpoint is made in before it is whole.
pub fn partial(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

/// Names and lengths of the files in a folder of images, sorted.
pub fn list_images(images: &Path) -> Result<Vec<(String, u64)>, CheckpointError> {
    let list = || -> std::io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(images)? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| std::io::Error::other("a name that is not UTF-8"))?;
            found.push((name, entry.metadata()?.len()));
        }
        found.sort_unstable();
        Ok(found)
    };
    list().map_err(CheckpointError::io(images, "list it"))
}
