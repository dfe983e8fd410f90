//! The ledger: which device memory the process has, and what of it can leave.
//!
//! Only in freezable processes. Allocations of [`LEAST`] bytes and more are made
//! from reserved addresses and physical memory ([`own`]), so that the physical
//! memory can go while the addresses stay; the application's own physical memory
//! (`cuMemCreate`) goes under tokens of the ledger's, as the driver's handles do not
//! survive a freeze ([`application`]); everything else is noted ([`noted`]): it stays
//! where it is, or makes a freeze impossible. [`leave`] lets memory leave and brings
//! it back.
//!
//! Not seen: memory of modules (their globals) and of graphs (allocation nodes),
//! the driver's own, and memory pinned for other devices behind CUDA's back
//! (`nvidia_p2p_get_pages`), which must not be frozen.
//!
//! While the application runs, no lock is held over a call of the driver: a call may
//! wait for work of another thread that needs the ledger. What is taken away is
//! therefore forgotten before the driver frees it, and put back if it does not.

mod application;
pub(crate) mod attributes;
mod books;
mod leave;
mod noted;
mod own;
mod peers;
mod report;
mod shelf;

pub(crate) use books::Kind;
pub(crate) use leave::{Block, NotMovable};
pub(crate) use report::LedgerReport;

use own::Model;
use parking_lot::Mutex;
use rewarm::driver::sys::*;
use rewarm::driver::{CudaError, Driver, MemoryDriver};
use shelf::Shelf;
use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Smallest allocation that can leave, in bytes: the granularity of physical memory.
pub(crate) const LEAST: usize = 2 << 20;

/// An address at which nothing ever is.
pub(crate) const NOWHERE: CUdeviceptr = 0x10;

/// Device memory of the process.
pub(crate) struct Ledger {
    driver: Driver,
    memory: MemoryDriver,
    books: Shelf,
    /// Addresses of mappings lie between these; most questions are about others.
    lowest: AtomicU64,
    highest: AtomicU64,
    models: Mutex<HashMap<CUdevice, Option<Model>>>,
    /// Bytes from row to row, by device, width and element.
    pitches: Mutex<HashMap<(CUdevice, usize, c_uint), usize>>,
    /// Whether the process shares memory by legacy handles, which only the driver's
    /// own allocations have.
    shares: AtomicBool,
    refused: AtomicU64,
}

impl Ledger {
    /// An empty ledger.
    pub(crate) fn new(driver: Driver, memory: MemoryDriver) -> Ledger {
        Ledger {
            driver,
            memory,
            books: Shelf::default(),
            lowest: AtomicU64::new(u64::MAX),
            highest: AtomicU64::new(0),
            models: Mutex::default(),
            pitches: Mutex::default(),
            shares: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether an address may be in a mapping of the ledger's; cheap.
    #[inline(always)]
    pub(crate) fn may_know(&self, address: CUdeviceptr) -> bool {
        address >= self.lowest.load(Ordering::Acquire)
            && address < self.highest.load(Ordering::Acquire)
    }

    fn widen(&self, address: CUdeviceptr, bytes: usize) {
        self.lowest.fetch_min(address, Ordering::AcqRel);
        self.highest
            .fetch_max(address + bytes as u64, Ordering::AcqRel);
    }

    /// The calling thread's context, or null.
    fn current_context(&self) -> CUcontext {
        let mut context = ptr::null_mut();
        // SAFETY: an out-pointer to a local; what fails leaves it null.
        let _ = unsafe { self.driver.current_context(&mut context) };
        context
    }

    /// Runs `action` with `context` current.
    fn inside<T>(
        &self,
        context: CUcontext,
        action: impl FnOnce() -> Result<T, CudaError>,
    ) -> Result<T, CudaError> {
        if self.current_context() == context {
            return action();
        }
        // SAFETY: the driver checks the context.
        unsafe { self.driver.push_context(context)? };
        let result = action();
        let mut popped = ptr::null_mut();
        // SAFETY: an out-pointer to a local; takes off what was pushed.
        let _ = unsafe { self.driver.pop_context(&mut popped) };
        result
    }
}
