//! What is said about loads.

use super::device::Loaded;
use crate::cli::text;
use rewarm::config::LanePlan;
use rewarm::weights::Weights;
use serde::Serialize;
use std::collections::BTreeMap;

/// What `--json` prints; docs/loading.md explains it.
#[derive(Serialize)]
pub(super) struct Report {
    version: u32,
    device: Device,
    files: usize,
    tensors: usize,
    bytes: u64,
    setup_seconds: f64,
    pinned_bytes: usize,
    loads: Vec<LoadReport>,
    /// True, or null if nothing was compared.
    pub(super) verified: Option<bool>,
}

#[derive(Serialize)]
pub(super) struct Device {
    pub(super) ordinal: i32,
    pub(super) name: String,
}

#[derive(Serialize)]
struct LoadReport {
    seconds: f64,
    gb_per_s: f64,
    /// Bytes of the data that were in the page cache.
    resident_before: u64,
    /// Bytes read by each strategy.
    strategies: BTreeMap<&'static str, u64>,
}

impl Report {
    pub(super) fn new(device: Device, weights: &Weights, setup_seconds: f64) -> Report {
        Report {
            version: 1,
            device,
            files: weights.files.len(),
            tensors: weights.tensors(),
            bytes: weights.bytes(),
            setup_seconds,
            pinned_bytes: 0,
            loads: Vec::new(),
            verified: None,
        }
    }

    pub(super) fn add(&mut self, loaded: &Loaded, resident_before: u64) {
        self.pinned_bytes = self.pinned_bytes.max(loaded.pinned_bytes);
        self.loads.push(LoadReport {
            seconds: loaded.seconds,
            gb_per_s: self.bytes as f64 / loaded.seconds / 1e9,
            resident_before,
            strategies: loaded
                .report
                .strategies
                .iter()
                .map(|(strategy, bytes)| (strategy.name(), *bytes))
                .collect(),
        });
    }

    /// For people.
    pub(super) fn describe(&self, plan: &LanePlan) -> String {
        let heads = [
            "load",
            "bytes",
            "seconds",
            "GB/s",
            "read by",
            "in page cache before",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for (number, load) in self.loads.iter().enumerate() {
            rows.push(vec![
                (number + 1).to_string(),
                self.bytes.to_string(),
                format!("{:.3}", load.seconds),
                format!("{:.1}", load.gb_per_s),
                load.read_by(),
                text::share(load.resident_before, self.bytes),
            ]);
        }
        let mut described = text::table("", &rows);
        described += "\n";
        described += &text::table("", &self.facts(plan));
        for note in &plan.notes {
            described += &format!("note: {note}\n");
        }
        described
    }

    fn facts(&self, plan: &LanePlan) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row(
            "files",
            format!("{} with {} tensors", self.files, self.tensors),
        );
        row(
            "device",
            format!("{}, {}", self.device.ordinal, self.device.name),
        );
        row("device memory", text::bytes(self.bytes));
        row(
            "pinned memory",
            format!(
                "{}, {} lanes",
                text::bytes(self.pinned_bytes as u64),
                plan.lanes
            ),
        );
        row("CUDA set-up", format!("{:.3} s", self.setup_seconds));
        if self.verified.is_some() {
            row(
                "verified",
                "every byte on the device is that of the files".to_owned(),
            );
        }
        rows
    }
}

impl LoadReport {
    /// The strategies, the one that read most first.
    fn read_by(&self) -> String {
        let mut used: Vec<_> = self.strategies.iter().collect();
        used.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        let total: u64 = used.iter().map(|(_, bytes)| **bytes).sum();
        match used.as_slice() {
            [] => "-".to_owned(),
            [(only, _)] => (**only).to_owned(),
            several => several
                .iter()
                .map(|(name, bytes)| format!("{name} {} %", 100 * **bytes / total.max(1)))
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}
