//! The driver and its GPUs.

use crate::cli::cuda::{Cuda, NoDriver, Primary};
use rewarm::driver::Result;
use rewarm::driver::sys::{CU_MEMHOSTREGISTER_PORTABLE, CUdeviceptr};
use serde::Serialize;
use std::fs;
use std::ptr::null_mut;
use std::time::Instant;

const MIB: usize = 1 << 20;

/// Bytes of a measured copy: long enough to reach the link's rate.
const MEASURED: usize = 256 * MIB;

/// Bytes that show whether memory can be registered at all.
const TRIED: usize = 2 * MIB;

/// Copies of which the fastest counts.
const REPEATS: usize = 3;

/// The CUDA driver.
#[derive(Serialize)]
pub(super) struct DriverFacts {
    /// The library's file.
    path: Option<String>,
    /// CUDA version, as "13.0".
    cuda: String,
    /// Version of the kernel module, as "580.159.04".
    kernel_module: Option<String>,
    /// The first function that freezing needs and it does not have.
    pub(super) lacks_for_freezing: Option<&'static str>,
    pub(super) gpus: Vec<Gpu>,
}

impl DriverFacts {
    pub(super) fn describe(&self) -> String {
        let mut text = format!("CUDA {}", self.cuda);
        if let Some(version) = &self.kernel_module {
            text += &format!(", kernel module {version}");
        }
        if let Some(path) = &self.path {
            text += &format!(", {path}");
        }
        text
    }
}

/// One GPU.
#[derive(Default, Serialize)]
pub(super) struct Gpu {
    pub(super) ordinal: i32,
    pub(super) name: String,
    pub(super) memory_bytes: u64,
    /// Whether its primary context can be created.
    pub(super) has_context: bool,
    /// Copies to the device from registered memory, in 10⁹ bytes per second.
    pub(super) pinned_gb_per_s: Option<f64>,
    /// The same from pageable memory, without rewarm.
    pub(super) pageable_gb_per_s: Option<f64>,
    /// What went wrong, if anything did.
    pub(super) failure: Option<String>,
}

/// Looks at the driver and every GPU; `measure` also times copies.
pub(super) fn look(measure: bool) -> Result<DriverFacts, NoDriver> {
    let cuda = Cuda::start()?;
    let mut version = 0;
    // SAFETY: an out-pointer to a local.
    unsafe { cuda.driver.driver_version(&mut version)? };
    let count = cuda.devices()?;
    Ok(DriverFacts {
        path: cuda.path().map(|path| path.display().to_string()),
        cuda: format!("{}.{}", version / 1000, version % 1000 / 10),
        kernel_module: kernel_module(),
        lacks_for_freezing: cuda.lacks_for_freezing(),
        gpus: (0..count)
            .map(|ordinal| look_at_gpu(&cuda, ordinal, measure))
            .collect(),
    })
}

fn kernel_module() -> Option<String> {
    let version = fs::read_to_string("/sys/module/nvidia/version").ok()?;
    Some(version.trim().to_owned())
}

fn look_at_gpu(cuda: &Cuda, ordinal: i32, measure: bool) -> Gpu {
    let mut gpu = Gpu {
        ordinal,
        ..Gpu::default()
    };
    gpu.failure = try_gpu(cuda, measure, &mut gpu)
        .err()
        .map(|error| error.to_string());
    gpu
}

fn try_gpu(cuda: &Cuda, measure: bool, gpu: &mut Gpu) -> Result<()> {
    let device = cuda.device(gpu.ordinal)?;
    gpu.name = cuda.name(device)?;
    gpu.memory_bytes = cuda.total_memory(device)?;
    let _context = Primary::retain(cuda, device)?;
    gpu.has_context = true;
    let bytes = if measure { MEASURED } else { TRIED };
    let (pageable, pinned) = Link(cuda).copy_rates(bytes)?;
    if measure {
        gpu.pageable_gb_per_s = Some(pageable);
        gpu.pinned_gb_per_s = Some(pinned);
    }
    Ok(())
}

/// Measures copies in the current context.
struct Link<'a>(&'a Cuda);

impl Link<'_> {
    /// GB/s of copies to the device from the same buffer, pageable and registered.
    fn copy_rates(&self, bytes: usize) -> Result<(f64, f64)> {
        let source = vec![1u8; bytes];
        let target = self.0.allocate(bytes)?;
        let rates = self.rates_between(&source, target);
        // SAFETY: allocated above, and no copy is under way.
        unsafe { self.0.driver.mem_free(target)? };
        rates
    }

    fn rates_between(&self, source: &[u8], target: CUdeviceptr) -> Result<(f64, f64)> {
        let driver = &self.0.driver;
        let pageable = self.best_rate(source, target)?;
        let address = source.as_ptr().cast_mut().cast();
        // SAFETY: memory that lives until it is unregistered below.
        unsafe { driver.host_register(address, source.len(), CU_MEMHOSTREGISTER_PORTABLE)? };
        let pinned = self.best_rate(source, target);
        // SAFETY: registered above; synchronous copies have ended.
        unsafe { driver.host_unregister(address)? };
        Ok((pageable, pinned?))
    }

    fn best_rate(&self, source: &[u8], target: CUdeviceptr) -> Result<f64> {
        let mut best: f64 = 0.0;
        for _ in 0..REPEATS {
            let start = Instant::now();
            // SAFETY: the target is as long as the source.
            unsafe {
                self.0.copy(target, source)?;
                self.0.driver.stream_synchronize(null_mut())?;
            }
            best = best.max(source.len() as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
        Ok(best)
    }
}
