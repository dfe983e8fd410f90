//! `rewarm restore`, with a real CRIU and the software driver.

mod common;

use common::cli::{json, stderr, text};
use common::live::{Live, ended};
use common::{Link, Run, app, criu, libraries};
use rewarm::checkpoint::{
    self, GPU, GpuEntry, IMAGES, ImageEntry, Machine, Manifest, ProcessEntry, tree::Tree,
};
use rewarm::criu::pages::PageDigests;
use rewarm::digest::digest;
use rewarm::driver::{DeviceFacts, Devices};
use rewarm::snapshot::Snapshot;
use serde_json::Value;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Does something with a process through the driver.
#[track_caller]
fn driver(actions: &str, pid: u32) -> String {
    let output = Command::new(app("driver_checkpoint", Link::Dlopen))
        .arg(actions)
        .arg(pid.to_string())
        .env("LD_LIBRARY_PATH", libraries().join("sim"))
        .output()
        .expect("it was just built");
    assert!(output.status.success(), "{actions} {pid}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints numbers")
}

/// A program of many kinds of device memory.
fn program(rewarmed: bool) -> Run {
    let run = Run::either(app("freeze", Link::Dlopen), rewarmed).lanes(4);
    run.arg("memory=small,plain,odd,zero,own,pool")
}

/// A program whose checkpoint is on disk, and which is gone.
struct Saved {
    live: Live,
    folder: PathBuf,
}

impl Saved {
    /// The program's device memory goes to a snapshot.
    fn frozen() -> Saved {
        Saved::of(Live::start(program(true)), true)
    }

    /// It goes into the images.
    fn plain() -> Saved {
        Saved::of(Live::start(program(false)), false)
    }

    fn of(mut live: Live, frozen: bool) -> Saved {
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
        let files = checkpoint::files::of_tree(&tree);
        let processes = tree.members.iter().map(|member| {
            let facts = &member.facts;
            ProcessEntry {
                pid: facts.pid,
                parent: facts.parent,
                session: facts.session,
                group: facts.group,
                threads: facts.threads.clone(),
                uid: facts.uid,
                executable: facts.executable.clone(),
                gpu: Some(gpu(&live, &folder, frozen)),
            }
        });
        let processes = processes.collect();
        driver("lock,checkpoint", pid);
        let images = folder.join(IMAGES);
        let options = ["--shell-job", "--file-locks"];
        if let Err(error) = criu::dump(pid, &images, &options) {
            live.fail(&error);
        }
        live.is_gone();
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
            files,
            images: checkpoint::list_images(&images)
                .unwrap()
                .into_iter()
                .map(image)
                .collect(),
            pages: PageDigests::default(),
        };
        manifest.write(&folder).unwrap();
        Saved { live, folder }
    }

    /// `rewarm restore` of it.
    fn restoring(&self, options: &[&str]) -> Command {
        let from = ["restore", "--from", text(&self.folder)];
        let mut command = self.live.rewarm(&[&from, options].concat());
        command
            .env("REWARM_CRIU", criu::can_checkpoint().unwrap())
            .env("TMPDIR", self.live.scratch())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn restore(&mut self) -> Value {
        let report = json(&mut self.restoring(&["--detach", "--json"]));
        self.live.is_back();
        self.live.must("check");
        report
    }
}

/// What the software driver tells of its device.
fn sim_device() -> DeviceFacts {
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

#[test]
fn a_process_comes_back_as_often_as_wanted() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::frozen();
    for round in 0..2 {
        let report = saved.restore();
        assert_eq!(report["pid"], saved.live.pid());
        assert_eq!(saved.live.state(), "active", "round {round}");
        saved.live.signal(libc::SIGKILL);
        saved.live.is_gone();
    }
}

#[test]
fn a_process_without_rewarm_comes_back() {
    if criu::criu_or_skip().is_none() {
        return;
    }
    let mut saved = Saved::plain();
    saved.restore();
    saved.live.quit();
}
