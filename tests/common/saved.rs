//! Checkpoints made by hand, to be restored by `rewarm restore`.

use super::cli::{json, text};
use super::live::Live;
use super::whole::drive;
use super::{Link, Run, app, criu};
use rewarm::checkpoint::{
    self, GPU, GpuEntry, IMAGES, ImageEntry, Machine, Manifest, ProcessEntry, tree::Tree,
};
use rewarm::criu::pages::digest_pages;
use rewarm::digest::digest;
use rewarm::driver::{DeviceFacts, Devices};
use rewarm::snapshot::Snapshot;
use serde_json::Value;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program of many kinds of device memory.
pub fn program(rewarmed: bool) -> Run {
    let run = Run::either(app("freeze", Link::Dlopen), rewarmed).lanes(4);
    run.arg("memory=small,plain,odd,zero,own,pool")
}

/// A program whose checkpoint is on disk, and which is gone.
pub struct Saved {
    /// The program.
    pub live: Live,
    /// The checkpoint.
    pub folder: PathBuf,
}

impl Saved {
    /// The program's device memory goes to a snapshot.
    pub fn frozen() -> Saved {
        Saved::of(Live::start(program(true)), true)
    }

    /// It goes into the images.
    pub fn plain() -> Saved {
        Saved::of(Live::start(program(false)), false)
    }

    /// Of any program.
    pub fn of(mut live: Live, frozen: bool) -> Saved {
        criu::adopt();
        live.must("check");
        let folder = live.scratch().join("checkpoint");
        let pid = live.pid();
        for name in ["", IMAGES, GPU] {
            DirBuilder::new()
                .mode(0o700)
                .create(folder.join(name))
                .unwrap();
        }
        let tree = Tree::look(pid).unwrap();
        let processes = tree.members.iter().map(|member| {
            let facts = &member.facts;
            ProcessEntry {
                pid: facts.pid,
                parent: facts.parent,
                session: facts.session,
                group: facts.group,
                threads: facts.threads.clone(),
                pinned: Vec::new(),
                uid: facts.uid,
                executable: facts.executable.clone(),
                gpu: Some(gpu(&live, &folder, frozen)),
            }
        });
        let processes = processes.collect();
        drive("lock,checkpoint", pid);
        let images = folder.join(IMAGES);
        let options = ["--shell-job", "--file-locks"];
        if let Err(error) = criu::dump(pid, &images, &options) {
            live.fail(&error);
        }
        live.is_gone();
        let files = checkpoint::files::of_tree(&tree);
        let devices = Devices {
            driver_version: 13_000,
            devices: vec![sim_device()],
        };
        let image = |(name, bytes): (String, u64)| ImageEntry {
            digest: (!name.starts_with("pages-"))
                .then(|| digest(&fs::read(images.join(&name)).unwrap())),
            name,
            bytes,
        };
        let manifest = Manifest {
            id: 7,
            created: 1,
            rewarm_version: "0".into(),
            criu_version: "4.2".into(),
            machine: Machine::look(Some(&devices)),
            root: pid,
            processes,
            restore_options: options.map(str::to_owned).to_vec(),
            pipes: Vec::new(),
            files,
            images: checkpoint::list_images(&images)
                .unwrap()
                .into_iter()
                .map(image)
                .collect(),
            pages: digest_pages(&images).unwrap(),
        };
        manifest.write(&folder).unwrap();
        Saved { live, folder }
    }

    /// `rewarm restore` of it.
    pub fn restoring(&self, options: &[&str]) -> Command {
        let from = ["restore", "--from", text(&self.folder)];
        let mut command = self.live.rewarm(&[&from, options].concat());
        command
            .env("REWARM_CRIU", criu::can_checkpoint().unwrap())
            .env("TMPDIR", self.live.scratch())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null());
        command
    }

    /// Restores it, and insists that it has all that it had.
    #[track_caller]
    pub fn restore(&mut self) -> Value {
        let report = json(&mut self.restoring(&["--detach", "--json"]));
        self.live.is_back();
        self.live.must("check");
        report
    }
}

/// What the software driver tells of its device.
pub fn sim_device() -> DeviceFacts {
    DeviceFacts {
        name: "Software GPU".into(),
        uuid: u128::from_be_bytes(*b"simcuda device 0"),
        bytes: 4096 << 20,
    }
}

/// Freezes the program, if it is to be.
fn gpu(live: &Live, folder: &Path, frozen: bool) -> GpuEntry {
    if !frozen {
        return GpuEntry {
            snapshot: None,
            bytes: 0,
            snapshot_id: 0,
        };
    }
    let snapshot = Path::new(GPU).join(live.pid().to_string());
    let to = folder.join(&snapshot);
    let pid = live.pid().to_string();
    json(&mut live.rewarm(&["freeze", "--pid", &pid, "--to", text(&to), "--json"]));
    let opened = Snapshot::open(&to).unwrap();
    GpuEntry {
        snapshot: Some(snapshot),
        bytes: opened.manifest().bytes(),
        snapshot_id: opened.manifest().id,
    }
}

/// Everything in a folder: names, modes, times and bytes.
pub fn contents(folder: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let facts = fs::symlink_metadata(&path).unwrap();
            let bytes = match facts.is_dir() {
                true => Vec::new(),
                false => fs::read(&path).unwrap(),
            };
            found.push((path.clone(), facts.mode(), facts.mtime_nsec(), bytes));
            if facts.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

impl Saved {
    /// Insists that the restore fails and says all the words, that the checkpoint
    /// stays as it is, that no process is left, and no folder to work in.
    #[track_caller]
    pub fn refused(&self, mut command: Command, words: &[&str]) -> String {
        let before = contents(&self.folder);
        command.arg("--detach");
        let message = self.live.refused(command, words);
        self.is_untouched(&before);
        message
    }

    /// The second half of that.
    #[track_caller]
    pub fn is_untouched(&self, before: &[(PathBuf, u32, i64, Vec<u8>)]) {
        assert!(
            contents(&self.folder) == before,
            "the checkpoint has changed"
        );
        let pid = self.live.pid();
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} is left"
        );
        let left = fs::read_dir(self.live.scratch()).unwrap();
        let mut names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.find(|name| name.starts_with("rewarm-restore")), None);
    }

    /// The largest file of pages, its bytes, and the same with one that is wrong.
    pub fn pages_and_damage(&self) -> (PathBuf, Vec<u8>, Vec<u8>) {
        let pages = self.folder.join(self.pages());
        let whole = fs::read(&pages).unwrap();
        let mut damaged = whole.clone();
        damaged[whole.len() / 3] ^= 1;
        (pages, whole, damaged)
    }

    /// The largest file of pages.
    pub fn pages(&self) -> String {
        let images = self.manifest().images.into_iter();
        let pages = images.filter(|image| image.name.starts_with("pages-"));
        let largest = pages.max_by_key(|image| image.bytes).unwrap();
        format!("{IMAGES}/{}", largest.name)
    }

    /// The manifest.
    pub fn manifest(&self) -> Manifest {
        Manifest::read(&self.folder).unwrap()
    }

    /// Another manifest in place of the own one, which is put back afterwards.
    #[track_caller]
    pub fn with_manifest(&self, change: impl FnOnce(&mut Manifest), words: &[&str]) {
        let path = self.folder.join(checkpoint::NAME);
        let kept = self.live.scratch().join("kept.json");
        let mut manifest = self.manifest();
        change(&mut manifest);
        fs::rename(&path, &kept).unwrap();
        manifest.write(&self.folder).unwrap();
        self.refused(self.restoring(&[]), words);
        fs::rename(&kept, &path).unwrap();
    }

    /// A file with other bytes, which are put back afterwards.
    #[track_caller]
    pub fn with_file(&self, name: &str, change: impl FnOnce(&mut Vec<u8>), words: &[&str]) {
        let path = self.folder.join(name);
        let kept = fs::read(&path).unwrap();
        let mut bytes = kept.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        self.refused(self.restoring(&[]), words);
        fs::write(&path, kept).unwrap();
    }
}
