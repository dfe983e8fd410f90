//! The pinned memory that slots lie in.

use super::LaneError;
use crate::driver::Driver;
use crate::driver::sys::{CU_MEMHOSTREGISTER_PORTABLE, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

const HUGE_PAGE: usize = 2 << 20;

/// Address space for all slots of a lane set. A slot's pages come into being,
/// and are pinned, when the slot is first used: a process that makes one small
/// copy pays for one or two slots.
///
/// Huge pages register twice as fast as small ones, and registering them costs
/// a tenth of `cuMemHostAlloc`. The memory is not inherited by forked children:
/// the kernel would have to copy pinned pages at the fork.
pub(super) struct Staging {
    mapping: *mut u8,
    mapped: usize,
    base: *mut u8,
    slot_bytes: usize,
    pinned: AtomicUsize,
}

// SAFETY: the mapping belongs to no thread; slots are handed out one by one.
unsafe impl Send for Staging {}
// SAFETY: as above.
unsafe impl Sync for Staging {}

impl Staging {
    /// Reserves `slots` × `slot_bytes` bytes without touching them.
    pub(super) fn reserve(slots: usize, slot_bytes: usize) -> io::Result<Staging> {
        let bytes = slots * slot_bytes;
        let mapped = bytes + HUGE_PAGE;
        // SAFETY: a fresh private mapping wherever there is room.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = mapping.cast::<u8>();
        for advice in [
            libc::MADV_HUGEPAGE,
            libc::MADV_DONTFORK,
            libc::MADV_DONTDUMP,
        ] {
            // SAFETY: our own mapping. Advice that the kernel does not know is
            // a matter of speed or size only.
            unsafe { libc::madvise(mapping.cast(), mapped, advice) };
        }
        let base = mapping.map_addr(|address| address.next_multiple_of(HUGE_PAGE));
        Ok(Staging {
            mapping,
            mapped,
            base,
            slot_bytes,
            pinned: AtomicUsize::new(0),
        })
    }

    /// Bytes pinned so far.
    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Populates and registers one slot in the current context.
    pub(super) fn pin(&self, driver: &Driver, slot: usize) -> Result<*mut u8, LaneError> {
        debug_assert!((slot + 1) * self.slot_bytes <= self.mapped);
        // SAFETY: within the mapping.
        let memory = unsafe { self.base.add(slot * self.slot_bytes) };
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
        // SAFETY: our own mapping, and nobody holds a slot any more.
        unsafe { libc::munmap(self.mapping.cast(), self.mapped) };
    }
}

/// Makes pages present, so that a lack of memory is an error here and not a
/// signal in the middle of a copy.
fn populate(memory: *mut u8, bytes: usize) -> io::Result<()> {
    // SAFETY: our own mapping.
    if unsafe { libc::madvise(memory.cast(), bytes, libc::MADV_POPULATE_WRITE) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Before Linux 5.14 there is no such advice; registering populates.
    if error.raw_os_error() == Some(libc::EINVAL) {
        Ok(())
    } else {
        Err(error)
    }
}
