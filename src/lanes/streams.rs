//! The streams that all lanes of a set put their transfers on, one each way.
//!
//! The link takes one transfer at a time, so more streams would add nothing but
//! a switch between each two transfers, and one more stream for the caller's to
//! wait for.

use super::LaneError;
use crate::driver::Driver;
use crate::driver::sys::*;
use std::ptr;

/// The transfer streams of a lane set.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    pub(super) to_device: CUstream,
    pub(super) to_host: CUstream,
}

// SAFETY: handles of the driver.
unsafe impl Send for Streams {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Streams {}

impl Streams {
    /// Creates them in the current context.
    ///
    /// They have the highest priority: streams of another priority than the
    /// application's do not share a hardware queue with them, where a transfer
    /// could get stuck behind blocked work.
    pub(super) fn new(driver: &Driver) -> Result<Streams, LaneError> {
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: out-pointers to locals.
        unsafe { driver.stream_priority_range(&mut least, &mut greatest)? };
        let create = || {
            let mut stream = ptr::null_mut();
            // SAFETY: an out-pointer to a local.
            unsafe {
                driver.stream_create_with_priority(&mut stream, CU_STREAM_NON_BLOCKING, greatest)
            }
            .map(|()| stream)
        };
        let to_device = create()?;
        let to_host = create().inspect_err(|_| destroy(driver, to_device))?;
        Ok(Streams { to_device, to_host })
    }

    /// Waits on the host until both have run dry.
    pub(super) fn drain(&self, driver: &Driver) -> Result<(), LaneError> {
        // SAFETY: streams of the set.
        unsafe {
            driver.stream_synchronize(self.to_device)?;
            driver.stream_synchronize(self.to_host)?;
        }
        Ok(())
    }

    /// Gives them back, in a context that is still alive.
    pub(super) fn destroy(&self, driver: &Driver) {
        destroy(driver, self.to_device);
        destroy(driver, self.to_host);
    }
}

fn destroy(driver: &Driver, stream: CUstream) {
    // SAFETY: a stream of the set, used by nobody any more.
    let _ = unsafe { driver.stream_destroy(stream) };
}
