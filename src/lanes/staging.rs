//! The pinned memory that slots lie in.

use super::LaneError;
use crate::driver::Driver;
use crate::driver::sys::{CU_MEMHOSTREGISTER_PORTABLE, c_void};
use crate::pages::{Region, populate};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room for all slots of a lane set. A slot's pages come into being, and are
/// pinned, when the slot is first used: a process that makes one small copy pays
/// for one or two slots.
///
/// Huge pages register twice as fast as small ones, and registering them costs
/// a tenth of `cuMemHostAlloc`.
pub(super) struct Staging {
    memory: Region,
    slots: usize,
    slot_bytes: usize,
    pinned: AtomicUsize,
}

impl Staging {
    /// Reserves `slots` × `slot_bytes` bytes without touching them.
    pub(super) fn reserve(slots: usize, slot_bytes: usize) -> io::Result<Staging> {
        Ok(Staging {
            memory: Region::reserve(slots * slot_bytes)?,
            slots,
            slot_bytes,
            pinned: AtomicUsize::new(0),
        })
    }

    /// Length of a slot in bytes.
    pub(super) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Bytes pinned so far.
    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Populates and registers one slot in the current context.
    pub(super) fn pin(&self, driver: &Driver, slot: usize) -> Result<*mut u8, LaneError> {
        debug_assert!(slot < self.slots);
        // SAFETY: within the region.
        let memory = unsafe { self.memory.base().add(slot * self.slot_bytes) };
        populate(memory, self.slot_bytes)?;
        // SAFETY: mapped and writable; unregistered before it is unmapped.
        unsafe {
            driver.host_register(memory.cast(), self.slot_bytes, CU_MEMHOSTREGISTER_PORTABLE)?;
        }
        self.pinned.fetch_add(self.slot_bytes, Ordering::Relaxed);
        Ok(memory)
    }

    /// Undoes [`Staging::pin`], in a context that is still alive.
    pub(super) fn unpin(&self, driver: &Driver, memory: *mut u8) {
        // SAFETY: registered by `pin`; no transfer uses it any more.
        if unsafe { driver.host_unregister(memory.cast::<c_void>()) }.is_ok() {
            self.pinned.fetch_sub(self.slot_bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What the driver did not unregister it still knows, and a transfer may be
        // under way there.
        if *self.pinned.get_mut() > 0 {
            self.memory.leak();
        }
    }
}
