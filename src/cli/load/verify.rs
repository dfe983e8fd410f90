//! Whether the device has what the files have.

use super::device::Loaded;
use crate::cli::progress;
use anyhow::{Context, Result, bail};
use rewarm::driver::Driver;
use rewarm::driver::sys::CUdeviceptr;
use rewarm::weights::{Weights, WeightsFile};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that are compared at a time.
const STEP: usize = 8 << 20;

/// Compares all device memory with what plain reads of the files give.
pub(super) fn compare(weights: &Weights, loaded: &Loaded) -> Result<()> {
    let done = AtomicU64::new(0);
    progress::during("verifying", weights.bytes(), &done, || {
        let mut buffers = [vec![0; STEP], vec![0; STEP]];
        for (file, memory) in weights.files.iter().zip(&loaded.memory) {
            compare_file(
                &loaded.cuda.driver,
                file,
                memory.address,
                &mut buffers,
                &done,
            )?;
        }
        Ok(())
    })
}

fn compare_file(
    driver: &Driver,
    file: &WeightsFile,
    device: CUdeviceptr,
    [here, there]: &mut [Vec<u8>; 2],
    done: &AtomicU64,
) -> Result<()> {
    for at in (0..file.data.bytes).step_by(STEP) {
        let bytes = (file.data.bytes - at).min(STEP as u64) as usize;
        let (here, there) = (&mut here[..bytes], &mut there[..bytes]);
        file.file.read_exact_at(here, file.data.offset + at)?;
        // SAFETY: the allocation is as large as the file's data, and the buffer
        // holds this part of it until the stream is done.
        unsafe {
            driver
                .copy_to_host(there.as_mut_ptr().cast(), device + at, bytes, null_mut())
                .and_then(|()| driver.stream_synchronize(null_mut()))
        }
        .with_context(|| format!("{}: cannot read back", file.file.path().display()))?;
        if let Some(index) = first_difference(here, there) {
            bail!(difference(
                file,
                at + index as u64,
                here[index],
                there[index]
            ));
        }
        done.fetch_add(bytes as u64, Relaxed);
    }
    Ok(())
}

fn first_difference(here: &[u8], there: &[u8]) -> Option<usize> {
    if here == there {
        return None;
    }
    here.iter()
        .zip(there)
        .position(|(here, there)| here != there)
}

fn difference(file: &WeightsFile, at: u64, here: u8, there: u8) -> String {
    let place = file.place(file.data.offset + at);
    format!("{place}: the device has {there:#04x}, the file {here:#04x}")
}
