//! Digests by the GPU that the memory is on, at the speed of its memory: 16 GiB in
//! 4 ms on an H200 (`BENCHMARKS.md`). No byte of the memory crosses the link, only
//! 16 for each leaf.

use super::{Digest, LEAF, of_leaves};
use crate::driver::sys::*;
use crate::driver::{CudaError, Driver, MemoryDriver};
use crate::pages::{Region, populate};
use std::ops::Range;
use std::{io, mem, ptr, slice};

/// Made from `kernel.cu` by `scripts/kernel`: machine code for the GPUs that most
/// use, and PTX (`kernel.ptx`) that the driver compiles for any other since Turing.
static KERNEL: &[u8] = include_bytes!("kernel.fatbin");

/// Leaves whose digests the GPU leaves in host memory, half of them while the other
/// half is looked at: 8 GiB of memory, 8 MiB of digests.
const LEAVES: usize = 512 << 10;

/// Threads that work on a leaf, and in a block (`kernel.cu`).
const THREADS_PER_LEAF: u64 = 8;
const THREADS: u64 = 128;

/// Why the GPU does not do it. Then the lanes look at the chunks.
#[derive(Debug, thiserror::Error)]
pub enum GpuDigestError {
    /// A driver call failed: it does not take the kernel, say.
    #[error(transparent)]
    Driver(#[from] CudaError),
    /// There is no memory for the digests.
    #[error("no memory for digests: {0}")]
    Memory(#[from] io::Error),
}

/// The kernel, loaded into one context.
pub struct GpuDigests {
    driver: Driver,
    memory: MemoryDriver,
    module: CUmodule,
    function: CUfunction,
    stream: CUstream,
    /// Written by the GPU once it is pinned.
    digests: Region,
    is_pinned: bool,
}

// SAFETY: handles that any thread may use which has the context.
unsafe impl Send for GpuDigests {}

/// A chunk in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Address of its first byte.
    pub device: CUdeviceptr,
    /// Its length in bytes, a multiple of [`LEAF`], at most 1 GiB.
    pub bytes: u64,
}

/// Spans that lie behind each other: one launch.
#[derive(Clone, Copy)]
struct Run {
    device: CUdeviceptr,
    leaves: usize,
    /// Leaves of the batch before it.
    before: usize,
}

/// Spans whose leaves' digests go to one half of the memory for them.
struct Batch {
    spans: Range<usize>,
    half: usize,
}

impl Batch {
    /// Leaves before its first one.
    fn before(&self) -> usize {
        self.half * (LEAVES / 2)
    }
}

impl GpuDigests {
    /// Loads the kernel into the calling thread's current context, and pins some
    /// memory.
    ///
    /// # Errors
    /// What was missing; everything is given back then.
    pub fn new(driver: Driver, memory: MemoryDriver) -> Result<GpuDigests, GpuDigestError> {
        let digests = Region::reserve(LEAVES * size_of::<[u64; 2]>())?;
        populate(digests.base(), LEAVES * size_of::<[u64; 2]>())?;
        let mut made = GpuDigests {
            driver,
            memory,
            module: ptr::null_mut(),
            function: ptr::null_mut(),
            stream: ptr::null_mut(),
            digests,
            is_pinned: false,
        };
        match made.load() {
            Ok(()) => Ok(made),
            Err(error) => {
                made.release();
                Err(error.into())
            }
        }
    }

    fn load(&mut self) -> Result<(), CudaError> {
        let bytes = LEAVES * size_of::<[u64; 2]>();
        let name = c"rewarm_digest_leaves";
        // SAFETY: out-pointers to fields, an image that lives as long as the
        // program, and memory that is unregistered before it goes.
        unsafe {
            self.driver
                .stream_create_with_priority(&mut self.stream, CU_STREAM_NON_BLOCKING, 0)?;
            self.memory
                .module_load(&mut self.module, KERNEL.as_ptr().cast())?;
            self.memory
                .module_function(&mut self.function, self.module, name.as_ptr())?;
            self.driver.host_register(
                self.digests.base().cast(),
                bytes,
                CU_MEMHOSTREGISTER_PORTABLE,
            )?;
        }
        self.is_pinned = true;
        Ok(())
    }

    /// The digests of chunks: `take` gets the number of each, and its digest.
    ///
    /// # Errors
    /// The first driver call that failed.
    ///
    /// # Safety
    /// The memory must be there, no work may be writing to it, and the context of
    /// [`GpuDigests::new`] must be current.
    pub unsafe fn of(
        &self,
        spans: &[Span],
        take: &mut dyn FnMut(usize, Digest),
    ) -> Result<(), CudaError> {
        let fits = |span: &Span| {
            let leaf = LEAF as u64;
            span.bytes.is_multiple_of(leaf) && span.bytes / leaf <= LEAVES as u64 / 2
        };
        if !spans.iter().all(fits) {
            return Err(CudaError {
                call: "rewarm_digest_leaves",
                code: CUresult::INVALID_VALUE,
            });
        }
        let mut done = 0;
        let mut half = 0;
        let mut finished: Option<Batch> = None;
        while done < spans.len() || finished.is_some() {
            let mut leaves = 0;
            let fitting = spans[done..].iter().take_while(|span| {
                leaves += span.bytes as usize / LEAF;
                leaves <= LEAVES / 2
            });
            let batch = Batch {
                spans: done..done + fitting.count(),
                half,
            };
            self.launch_all(&spans[batch.spans.clone()], batch.before())?;
            // While the GPU works on the next.
            if let Some(batch) = finished.take() {
                self.tell(spans, &batch, take);
            }
            // SAFETY: the stream of this set.
            unsafe { self.driver.stream_synchronize(self.stream)? };
            done = batch.spans.end;
            half = 1 - half;
            finished = (!batch.spans.is_empty()).then_some(batch);
        }
        Ok(())
    }

    fn launch_all(&self, spans: &[Span], before: usize) -> Result<(), CudaError> {
        let mut run: Option<Run> = None;
        for span in spans {
            let leaves = span.bytes as usize / LEAF;
            run = match run {
                Some(run) if run.device + (run.leaves * LEAF) as u64 == span.device => Some(Run {
                    leaves: run.leaves + leaves,
                    ..run
                }),
                ended => {
                    if let Some(ended) = &ended {
                        self.launch(ended)?;
                    }
                    Some(Run {
                        device: span.device,
                        leaves,
                        before: ended.map_or(before, |ended| ended.before + ended.leaves),
                    })
                }
            };
        }
        run.map_or(Ok(()), |run| self.launch(&run))
    }

    fn launch(&self, run: &Run) -> Result<(), CudaError> {
        let mut device = run.device;
        let mut leaves = run.leaves as u64;
        let mut to = self
            .digests
            .base()
            .wrapping_add(run.before * size_of::<[u64; 2]>());
        let mut parameters: [*mut c_void; 3] = [
            (&raw mut device).cast(),
            (&raw mut leaves).cast(),
            (&raw mut to).cast(),
        ];
        let blocks = (leaves * THREADS_PER_LEAF).div_ceil(THREADS);
        // SAFETY: the kernel's own parameters; with unified addressing registered
        // memory has the same address on the device.
        unsafe {
            self.memory.launch(
                self.function,
                blocks as c_uint,
                1,
                1,
                THREADS as c_uint,
                1,
                1,
                0,
                self.stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }

    /// Makes chunks of the leaves of a batch that is done.
    fn tell(&self, spans: &[Span], batch: &Batch, take: &mut dyn FnMut(usize, Digest)) {
        // SAFETY: present, and no kernel writes to this half any more.
        let mut leaves = unsafe {
            let first = self.digests.base().cast_const().cast::<[u64; 2]>();
            slice::from_raw_parts(first.add(batch.before()), LEAVES / 2)
        };
        for number in batch.spans.clone() {
            let (mine, rest) = leaves.split_at(spans[number].bytes as usize / LEAF);
            take(number, of_leaves(mine));
            leaves = rest;
        }
    }

    /// Gives everything back, in the context of [`GpuDigests::new`], which must be
    /// current.
    pub fn release(self) {
        // SAFETY: what this set has made, as far as it has; nothing is under way.
        unsafe {
            if !self.module.is_null() {
                let _ = self.memory.module_unload(self.module);
            }
            if !self.stream.is_null() {
                let _ = self.driver.stream_destroy(self.stream);
            }
            if self.is_pinned
                && let Err(error) = self.driver.host_unregister(self.digests.base().cast())
            {
                // The GPU may still know it, so it stays mapped.
                tracing::warn!(%error, "memory for digests stays pinned");
                mem::forget(self.digests);
            }
        }
    }
}
