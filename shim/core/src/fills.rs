//! Large copies that safetensors makes into pinned memory, by the lanes' threads.
//!
//! `safetensors.torch.load_file(path, device="cuda")` copies each tensor from a
//! mapping of its file into a block of pinned memory, by one `memcpy` on one thread,
//! and from there to the device. The second copy is as fast as the link; the first
//! takes nine tenths of the time. So where a process pins memory, the `memcpy` that
//! this one library imports is redirected to [`memcpy`] here; no other library pays
//! anything.
//!
//! What is copied large and into pinned memory is *filled* by all lanes together,
//! everything else by the C library's `memcpy`. It returns when every byte is there,
//! as ever. It calls no function of the driver, waits for no lock that a driver call
//! could be holding, and leaves `errno` alone.

use crate::got::{Looked, Redirection};
use crate::process::{self, Process};
use parking_lot::{Mutex, RwLock};
use rewarm::driver::sys::{CUcontext, CUdevice, c_void};
use std::collections::BTreeMap;
use std::time::Instant;

/// Smaller copies are not filled, in bytes: one thread is done with them before
/// others are awake.
const SMALLEST: usize = 1 << 20;

/// How the library's file name begins (`_safetensors_rust.abi3.so`).
const LIBRARY: &[u8] = b"_safetensors_rust";

/// With fewer lanes there is nobody to share with.
const LEAST_LANES: usize = 2;

/// The blocks of pinned memory that may be filled, and who fills them.
#[derive(Default)]
pub(crate) struct Fills {
    /// By address.
    blocks: RwLock<BTreeMap<usize, Block>>,
    looked: Mutex<Looked>,
}

/// A block of pinned memory.
#[derive(Clone, Copy)]
struct Block {
    bytes: usize,
    device: CUdevice,
    context: CUcontext,
}

// SAFETY: the context is a handle, and only compared.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Fills {
    /// The device of the block that a range lies in.
    fn device(&self, start: usize, bytes: usize) -> Option<CUdevice> {
        let blocks = self.blocks.read();
        let (first, block) = blocks.range(..=start).next_back()?;
        let end = start.checked_add(bytes)?;
        (end <= first + block.bytes).then_some(block.device)
    }

    /// A block is about to be freed.
    pub(crate) fn freed(&self, address: usize) {
        self.blocks.write().remove(&address);
    }

    /// A context is about to go, with its blocks.
    pub(crate) fn leave_context(&self, context: CUcontext) {
        self.blocks
            .write()
            .retain(|_, block| block.context != context);
    }
}

impl Process {
    /// The application has pinned memory, in its current context.
    pub(crate) fn pinned(&self, address: usize, bytes: usize) {
        if bytes < SMALLEST || !self.fills_are_wanted() {
            return;
        }
        let mut device = 0;
        // SAFETY: an out-pointer to a local.
        if unsafe { self.driver.current_device(&mut device) }.is_err() {
            return;
        }
        let block = Block {
            bytes,
            device,
            context: self.current_context(),
        };
        self.fills.blocks.write().insert(address, block);
        if self.redirect_memcpy() {
            // Not by the first fill, which shall call nothing of the driver.
            self.devices.get(device).lanes(&self.driver, &self.plan);
        }
    }

    fn fills_are_wanted(&self) -> bool {
        self.settings.parallel_restore && self.plan.read_files && self.plan.lanes >= LEAST_LANES
    }

    /// Whether the library is there and calls [`memcpy`].
    fn redirect_memcpy(&self) -> bool {
        // Another thread is looking: the next block will do.
        let Some(mut looked) = self.fills.looked.try_lock() else {
            return false;
        };
        if !looked.is_current() {
            let redirection = Redirection {
                library: LIBRARY,
                function: c"memcpy",
                from: libc::memcpy as *const () as usize,
                to: memcpy as *const () as usize,
            };
            *looked = redirection.apply();
            if looked.redirected + looked.left > 0 {
                tracing::info!(looked.redirected, looked.left, "memcpy of safetensors");
            }
        }
        looked.redirected > 0
    }

    /// Fills; false if that was not possible, and nothing was done.
    ///
    /// # Safety
    /// As [`memcpy`].
    unsafe fn fill(&self, to: *mut c_void, from: *const c_void, bytes: usize) -> bool {
        let Some(device) = self.fills.device(to.addr(), bytes) else {
            return false;
        };
        let device = self.devices.get(device);
        let begun = Instant::now();
        let Some(lanes) = device.lanes_at_once() else {
            return false;
        };
        // SAFETY: the application's own call.
        let filled = unsafe { lanes.fill(to.cast(), from.cast(), bytes) };
        device.fills().filled(bytes, filled, begun.elapsed());
        true
    }
}

/// The C library's `memcpy`, as safetensors calls it. In a forked child, where
/// there is no [`Process`], it is just that.
///
/// # Safety
/// As the C library's.
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the application's own call.
    unsafe {
        if bytes < SMALLEST || !large(to, from, bytes) {
            return libc::memcpy(to, from, bytes);
        }
    }
    to
}

/// Whether a large copy was made.
///
/// # Safety
/// As [`memcpy`].
#[cold]
unsafe fn large(to: *mut c_void, from: *const c_void, bytes: usize) -> bool {
    let overlap = to.addr().abs_diff(from.addr()) < bytes;
    let Some(process) = process::current().filter(|_| !overlap) else {
        return false;
    };
    // SAFETY: the calling thread's own; the call as passed on.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let filled = process.fill(to, from, bytes);
        *errno = before;
        filled
    }
}
