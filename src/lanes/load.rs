//! Files to the device, for callers that have nothing else on their mind.

use super::LaneError;
use super::chunks::chunk_bytes;
use super::job::{FileCopy, Work};
use super::set::{LaneSet, RelaxedCapture};
use crate::driver::sys::CUdeviceptr;
use crate::pages::{FileRange, GRAIN, Manner, ReadReport, Reading, Strategy};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// A part of a file, and where in device memory it goes.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is read.
    pub range: FileRange,
    /// Address of its first byte in device memory.
    pub device: CUdeviceptr,
}

/// How [`LaneSet::load`] reads.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// How each chunk is read.
    pub strategy: Strategy,
    /// Whether what is read shall be in the page cache afterwards: then
    /// [`Strategy::Auto`] does not read past it.
    pub keep_cached: bool,
    /// Goes up by the bytes that are on their way to the device.
    pub progress: Option<Arc<AtomicU64>>,
}

impl LaneSet {
    /// Reads parts of files into device memory. Returns when every byte is there.
    ///
    /// # Errors
    /// The first failure. Nothing is under way any more then; what of the device
    /// memory was written is undefined.
    ///
    /// # Safety
    /// The device memory must be valid for all of it and used by nothing else,
    /// and the context of [`LaneSet::context`] must be current.
    pub unsafe fn load(
        &self,
        loads: &[Load],
        options: &LoadOptions,
    ) -> Result<ReadReport, LaneError> {
        let begun = Instant::now();
        let _relaxed = RelaxedCapture::enter(&self.shared().driver)?;
        let copy = self.file_copy(loads, options)?;
        let moved = self.carry(Work::Files(Box::new(copy)));
        let drained = self.drain();
        let job = moved?;
        drained?;
        let Work::Files(copy) = &job.work else {
            unreachable!("the job is what was given")
        };
        Ok(ReadReport {
            bytes: loads.iter().map(|load| load.range.bytes).sum(),
            seconds: begun.elapsed().as_secs_f64(),
            strategies: copy.reading.read_by(),
        })
    }

    fn file_copy(&self, loads: &[Load], options: &LoadOptions) -> Result<FileCopy, LaneError> {
        let bytes: u64 = loads.iter().map(|load| load.range.bytes).sum();
        let best = chunk_bytes(
            usize::try_from(bytes).unwrap_or(usize::MAX),
            self.slot_bytes(),
        );
        let manner = Manner {
            strategy: options.strategy,
            keep_cached: options.keep_cached,
            chunk_bytes: best / GRAIN * GRAIN,
            workers: self.lanes(),
            bytes_per_second: None,
        };
        let ranges = loads.iter().map(|load| load.range.clone()).collect();
        let origins = loads
            .iter()
            .map(|load| load.device.wrapping_sub(load.range.offset))
            .collect();
        Ok(FileCopy {
            reading: Reading::new(ranges, &manner, self.shared().files.experience())?,
            origins,
            progress: options.progress.clone(),
        })
    }
}
