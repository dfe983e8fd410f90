//! Device memory, and loading into it.

use crate::cli::cuda::{Cuda, Primary};
use crate::cli::{progress, text};
use anyhow::{Context, Result, anyhow};
use rewarm::config::LanePlan;
use rewarm::driver::CudaError;
use rewarm::driver::sys::{CUdeviceptr, CUresult};
use rewarm::lanes::{LaneError, LaneSet, Load, LoadOptions};
use rewarm::pages::{ReadReport, Strategy};
use rewarm::weights::{Weights, WeightsFile};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// What a load needs.
pub(super) struct Loader<'a> {
    /// The context, current in this thread.
    pub(super) primary: &'a Primary<'a>,
    pub(super) weights: &'a Weights,
    pub(super) plan: &'a LanePlan,
    pub(super) strategy: Strategy,
}

/// Weights in device memory, as long as this lives.
pub(super) struct Loaded<'a> {
    pub(super) cuda: &'a Cuda,
    /// One for each file.
    pub(super) memory: Vec<DeviceMemory<'a>>,
    pub(super) seconds: f64,
    pub(super) pinned_bytes: usize,
    pub(super) report: ReadReport,
}

/// An allocation, freed when dropped. Address 0 if it has no bytes.
pub(super) struct DeviceMemory<'a> {
    cuda: &'a Cuda,
    pub(super) address: CUdeviceptr,
}

impl Drop for DeviceMemory<'_> {
    fn drop(&mut self) {
        if self.address != 0 {
            // SAFETY: our allocation; no copy to it is under way.
            let _ = unsafe { self.cuda.driver.mem_free(self.address) };
        }
    }
}

impl<'a> Loader<'a> {
    /// Loads everything: allocates, makes lanes, and returns when all bytes are
    /// on the device.
    pub(super) fn load(&self) -> Result<Loaded<'a>> {
        let cuda = self.primary.cuda;
        let begun = Instant::now();
        let memory = self.allocate()?;
        let lanes = LaneSet::new(cuda.driver, self.plan).context("cannot make lanes")?;
        let result = self.load_over(&lanes, &memory);
        let seconds = begun.elapsed().as_secs_f64();
        let pinned_bytes = lanes.pinned_bytes();
        lanes.release();
        Ok(Loaded {
            cuda,
            memory,
            seconds,
            pinned_bytes,
            report: result?,
        })
    }

    fn load_over(&self, lanes: &LaneSet, memory: &[DeviceMemory]) -> Result<ReadReport> {
        let files = &self.weights.files;
        let loads: Vec<_> = files
            .iter()
            .zip(memory)
            .map(|(file, memory)| Load {
                range: file.range(),
                device: memory.address,
            })
            .collect();
        let sent = Arc::new(AtomicU64::new(0));
        let options = LoadOptions {
            strategy: self.strategy,
            keep_cached: false,
            progress: Some(sent.clone()),
        };
        progress::during("loading", self.weights.bytes(), &sent, || {
            // SAFETY: each allocation is as large as its range, and lives until
            // all is loaded or given up; the lanes' context is current.
            unsafe { lanes.load(&loads, &options) }
        })
        .map_err(|error| match error {
            // Has the file's name.
            LaneError::Pages(error) => error.into(),
            error => anyhow::Error::from(error).context(format!("cannot load {}", named(files))),
        })
    }

    fn allocate(&self) -> Result<Vec<DeviceMemory<'a>>> {
        let mut memory = Vec::new();
        for file in &self.weights.files {
            match self.allocate_for(file) {
                Ok(allocation) => memory.push(allocation),
                Err(error) => {
                    // What was allocated so far counts as free.
                    drop(memory);
                    return Err(self.explain(file, error));
                }
            }
        }
        Ok(memory)
    }

    fn allocate_for(&self, file: &WeightsFile) -> Result<DeviceMemory<'a>, CudaError> {
        let cuda = self.primary.cuda;
        let address = match file.data.bytes {
            0 => 0,
            bytes => cuda.allocate(bytes as usize)?,
        };
        Ok(DeviceMemory { cuda, address })
    }

    fn explain(&self, file: &WeightsFile, error: CudaError) -> anyhow::Error {
        let path = file.file.path().display();
        let free = self.primary.cuda.free_memory();
        match free {
            Ok(free) if error.code == CUresult::OUT_OF_MEMORY => anyhow!(
                "{path}: the device has too little memory: {} are needed in all, {} are free",
                text::bytes(self.weights.bytes()),
                text::bytes(free)
            ),
            _ => anyhow!(
                "{path}: cannot allocate {}: {error}",
                text::bytes(file.data.bytes)
            ),
        }
    }
}

/// Files, for a message.
fn named(files: &[WeightsFile]) -> String {
    match files {
        [] => "nothing".to_owned(),
        [only] => only.file.path().display().to_string(),
        [first, rest @ ..] => format!("{} and {} more", first.file.path().display(), rest.len()),
    }
}
