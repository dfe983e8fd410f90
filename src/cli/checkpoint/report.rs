//! What a checkpoint came to.

use super::survey::Survey;
use super::undo::Plan;
use crate::cli::fleet::VERSION;
use crate::cli::{print_json, text};
use anyhow::Result;
use rewarm::control::FreezeReport;
use serde::Serialize;
use std::path::PathBuf;

/// What is printed. The keys are part of the interface.
#[derive(Serialize)]
pub(super) struct Report {
    version: u32,
    checkpoint: PathBuf,
    root: u32,
    /// Whether the processes go on.
    running: bool,
    criu: String,
    criu_options: Vec<String>,
    processes: Vec<ProcessPart>,
    /// Bytes of CRIU's images.
    pub(super) images_bytes: u64,
    pub(super) seconds: Seconds,
}

/// One process.
#[derive(Serialize)]
struct ProcessPart {
    pid: u32,
    executable: PathBuf,
    threads: usize,
    uses_cuda: bool,
    /// What its freeze came to, if it was frozen.
    freeze: Option<FreezeReport>,
}

/// Where the time went, in seconds.
#[derive(Default, Serialize)]
pub(super) struct Seconds {
    /// Device memory to disk.
    pub(super) freeze: f64,
    /// The driver's part.
    pub(super) driver: f64,
    /// CRIU's part.
    pub(super) dump: f64,
    /// Digests, and bringing all to safety.
    pub(super) commit: f64,
    /// Bringing the processes back to the GPU, with `--leave-running`.
    pub(super) go_on: f64,
    pub(super) total: f64,
}

impl Report {
    pub(super) fn new(survey: &Survey, plan: &Plan) -> Report {
        let uses_cuda = |pid| survey.gpus.iter().any(|gpu| gpu.process.pid == pid);
        let part = |facts: &rewarm::checkpoint::tree::Facts| ProcessPart {
            pid: facts.pid,
            executable: facts.executable.clone(),
            threads: facts.threads.len(),
            uses_cuda: uses_cuda(facts.pid),
            freeze: None,
        };
        let members = survey.tree.members.iter();
        Report {
            version: VERSION,
            checkpoint: plan.place.folder.clone(),
            root: survey.tree.root().pid,
            running: plan.leave_running,
            criu: survey.criu.version().to_string(),
            criu_options: survey.options.of_dump(),
            processes: members.map(|member| part(&member.facts)).collect(),
            images_bytes: 0,
            seconds: Seconds::default(),
        }
    }

    /// Notes what a freeze came to.
    pub(super) fn frozen(&mut self, pid: u32, mut report: FreezeReport) {
        report.snapshot = self
            .checkpoint
            .join(rewarm::checkpoint::GPU)
            .join(pid.to_string());
        let mut parts = self.processes.iter_mut();
        if let Some(part) = parts.find(|part| part.pid == pid) {
            part.freeze = Some(report);
        }
    }

    /// What the freeze of a process came to.
    pub(super) fn snapshot_of(&self, pid: u32) -> Option<&FreezeReport> {
        let part = self.processes.iter().find(|part| part.pid == pid)?;
        part.freeze.as_ref()
    }

    pub(super) fn tell(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        print!("{}", text::printable(&self.describe()));
        Ok(())
    }

    fn describe(&self) -> String {
        let count = self.processes.len();
        let what = match count {
            1 => format!("process {}", self.root),
            _ => format!("process {} and {} descendants", self.root, count - 1),
        };
        let end = match (self.running, count) {
            (true, 1) => "it goes on",
            (false, 1) => "it has ended",
            (true, _) => "they go on",
            (false, _) => "they have ended",
        };
        let mut told = format!(
            "{what}: checkpoint in {}; {end}\n",
            self.checkpoint.display()
        );
        let frozen: Vec<_> = self
            .processes
            .iter()
            .filter_map(|part| part.freeze.as_ref())
            .collect();
        let stored = frozen.iter().map(|report| report.stored_bytes).sum();
        let device = frozen.iter().map(|report| report.bytes).sum::<u64>();
        let Seconds {
            freeze,
            driver,
            dump,
            commit,
            go_on,
            total,
        } = &self.seconds;
        let mut rows = Vec::new();
        let mut row = |name: &str, seconds: &f64, of: String| {
            rows.push(vec![name.to_owned(), format!("{seconds:.2} s"), of]);
        };
        if !frozen.is_empty() {
            let of = format!(
                "{} of device memory, {} stored",
                text::bytes(device),
                text::bytes(stored)
            );
            row("freeze", freeze, of);
        }
        if self.processes.iter().any(|part| part.uses_cuda) {
            row("driver", driver, String::new());
        }
        row(
            "dump",
            dump,
            format!("{} of images", text::bytes(self.images_bytes)),
        );
        row("commit", commit, String::new());
        if self.running {
            row("go on", go_on, String::new());
        }
        row("in all", total, String::new());
        told += &text::table("  ", &rows);
        told
    }
}
