//! Where the time of a restore went.

use super::super::fleet::{VERSION, rate};
use super::super::{print_json, text};
use super::gpu::Back;
use anyhow::{Context, Result};
use rewarm::checkpoint::Manifest;
use rewarm::criu::pages::PageReport;
use serde::Serialize;
use std::io::Write;
use std::time::Instant;

/// When the steps of a restore were done.
pub(super) struct Steps {
    begun: Instant,
    checked: f64,
    resumed: f64,
    gpus_back: f64,
}

impl Steps {
    pub(super) fn new(begun: Instant) -> Steps {
        Steps {
            begun,
            checked: 0.0,
            resumed: 0.0,
            gpus_back: 0.0,
        }
    }

    /// All was looked at.
    pub(super) fn checked(&mut self) {
        self.checked = self.seconds();
    }

    /// The processes have come to life.
    pub(super) fn resumed(&mut self) {
        self.resumed = self.seconds();
    }

    /// All device memory is back.
    pub(super) fn gpus_back(&mut self) {
        self.gpus_back = self.seconds();
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

/// What `--json` prints; docs/checkpoint.md explains it.
#[derive(Serialize)]
pub(super) struct Report {
    version: u32,
    /// First process of the tree.
    pid: u32,
    /// Number of processes.
    processes: usize,
    /// Bytes of CRIU's images.
    image_bytes: u64,
    /// Bytes of device memory that were thawed.
    device_bytes: u64,
    /// Seconds of looking whether all fits.
    check_seconds: f64,
    /// Seconds until CRIU had the processes run.
    criu_seconds: f64,
    /// Seconds from then until all device memory was back.
    gpu_seconds: f64,
    /// Seconds that were waited for memory after that.
    pages_seconds: f64,
    /// Bytes that the page server put in place, and how often a thread had to wait
    /// for some; 0 where CRIU read all.
    page_bytes: u64,
    page_faults: u64,
    /// Seconds in all.
    seconds: f64,
    /// What each process of a GPU got back.
    gpus: Vec<GpuReport>,
}

#[derive(Serialize)]
struct GpuReport {
    pid: u32,
    /// Seconds of the driver's restore.
    driver_seconds: f64,
    /// Seconds of the thaw; nothing was frozen: 0.
    thaw_seconds: f64,
    /// Bytes that were thawed.
    bytes: u64,
    /// Seconds that were waited for free memory of the GPU.
    wait_seconds: f64,
    /// Whether it was verified, and by what: `gpu`, `cpu`, or `no`, as nothing was
    /// frozen.
    verified_by: String,
}

impl Report {
    pub(super) fn new(
        manifest: &Manifest,
        steps: &Steps,
        back: &[Back],
        filled: Option<PageReport>,
    ) -> Report {
        let filled = filled.unwrap_or_default().progress;
        let gpus: Vec<_> = back.iter().map(GpuReport::new).collect();
        let seconds = steps.seconds();
        Report {
            version: VERSION,
            pid: manifest.root,
            processes: manifest.processes.len(),
            image_bytes: manifest.bytes(),
            device_bytes: gpus.iter().map(|gpu| gpu.bytes).sum(),
            check_seconds: steps.checked,
            criu_seconds: steps.resumed - steps.checked,
            gpu_seconds: steps.gpus_back - steps.resumed,
            pages_seconds: seconds - steps.gpus_back,
            page_bytes: filled.copied,
            page_faults: filled.faults,
            seconds,
            gpus,
        }
    }

    /// Prints it.
    pub(super) fn tell(&self, json: bool) -> Result<()> {
        if json {
            return print_json(self);
        }
        let text = self.text();
        let written = std::io::stdout().write_all(text.as_bytes());
        written.context("all is restored, but the report cannot be written")
    }

    fn text(&self) -> String {
        let what = match self.processes {
            1 => format!("process {} is restored", self.pid),
            many => format!("process {} and {} others are restored", self.pid, many - 1),
        };
        let bytes = self.image_bytes + self.device_bytes;
        let text = format!("{what}: {}\n", rate(bytes, self.seconds));
        let step = |name: &str, seconds: f64, what: String| {
            vec![name.to_owned(), format!("{seconds:.2} s"), what]
        };
        let mut rows = vec![
            step("checks", self.check_seconds, String::new()),
            step("criu", self.criu_seconds, text::bytes(self.image_bytes)),
        ];
        for gpu in &self.gpus {
            let name = format!("driver, process {}", gpu.pid);
            rows.push(step(&name, gpu.driver_seconds, String::new()));
            if gpu.bytes > 0 {
                let name = format!("thaw, process {}", gpu.pid);
                let verified = format!("{}, verified", rate(gpu.bytes, gpu.thaw_seconds));
                rows.push(step(&name, gpu.thaw_seconds, verified));
            }
        }
        rows.push(step("last pages", self.pages_seconds, String::new()));
        text + &text::table("  ", &rows)
    }
}

impl GpuReport {
    fn new(back: &Back) -> GpuReport {
        let thaw = back.thaw.clone().unwrap_or_default();
        let is_verified = back.thaw.is_some();
        GpuReport {
            pid: back.pid,
            driver_seconds: back.driver_seconds,
            thaw_seconds: thaw.seconds,
            bytes: thaw.bytes,
            wait_seconds: thaw.wait_seconds,
            verified_by: if is_verified {
                thaw.verified_by
            } else {
                "no".into()
            },
        }
    }
}
