//! Copies from windows of the source itself, for processes with one CPU.
//!
//! One CPU stages 10 GB/s whoever does it. Registering is cheaper than copying
//! (0.03 s/GiB), so with one CPU windows of the source are registered and
//! transferred from where they lie, two at a time: one is being registered while
//! the other is on the link. Registering holds the process's memory lock, so
//! more threads gain nothing (19 GB/s with one, two or four): from two CPUs on,
//! staging lanes are faster.

use super::lane::Lane;

use super::streams::Streams;
use super::{LaneError, waits};
use crate::driver::Driver;
use crate::driver::sys::*;
use crate::pages::mappings::{Registrable, registrable};
use std::collections::VecDeque;

const PAGE: usize = 4096;

/// Smaller windows cost more calls (16 MiB: 13 to 16 GB/s, 128 MiB: 19.5).
const WINDOW: usize = 128 << 20;

/// Windows registered at once.
const IN_FLIGHT: usize = 2;

/// Below this the driver's own staging keeps up, as what it reads stays in the
/// caches.
pub(super) const SMALLEST: usize = 128 << 20;

/// A window on the link.
struct Window {
    start: *mut c_void,
    event: CUevent,
}

/// A source that can be copied in place.
pub(super) struct Source {
    address: usize,
    bytes: usize,
    flags: c_uint,
}

impl Source {
    /// The source of a copy, if it is of a kind that can be registered and
    /// large enough.
    pub(super) fn new(address: usize, bytes: usize) -> Option<Source> {
        if bytes < SMALLEST {
            return None;
        }
        let flags = match registrable(address..address.checked_add(bytes)?)? {
            Registrable::Anonymous => 0,
            Registrable::SharedReadOnly => CU_MEMHOSTREGISTER_READ_ONLY,
        };
        Some(Source {
            address,
            bytes,
            flags,
        })
    }
}

/// Copies the source to `device` and returns once it has been read, that is,
/// once all transfers are done.
///
/// Only whole pages of the source are registered; what is before the first and
/// behind the last goes through the driver's own staging.
pub(super) fn copy(
    driver: &Driver,
    streams: &Streams,
    lane: &mut Lane,
    source: &Source,
    device: CUdeviceptr,
) -> Result<(), LaneError> {
    let mut windows = VecDeque::new();
    let sent = send(driver, streams, lane, source, device, &mut windows);
    let drained = if waits::STAGED.is_kept() {
        streams.drain(driver)
    } else {
        Ok(())
    };
    for window in windows {
        // SAFETY: registered by `send`, and the stream is drained.
        let _ = unsafe { driver.host_unregister(window.start) };
    }
    sent.and(drained)
}

fn send(
    driver: &Driver,
    streams: &Streams,
    lane: &mut Lane,
    source: &Source,
    device: CUdeviceptr,
    windows: &mut VecDeque<Window>,
) -> Result<(), LaneError> {
    let stream = streams.to_device;
    let end = source.address + source.bytes;
    let (first, last) = (source.address.next_multiple_of(PAGE), end & !(PAGE - 1));
    let transfer = |from: usize, bytes: usize| {
        let to = device + (from - source.address) as u64;
        // SAFETY: within the source and, as the driver checks, the destination.
        unsafe { driver.copy_to_device(to, from as *const c_void, bytes, stream) }
    };
    transfer(source.address, first - source.address)?;
    transfer(last, end - last)?;
    for (number, start) in (first..last).step_by(WINDOW).enumerate() {
        if windows.len() == IN_FLIGHT {
            retire(driver, windows)?;
        }
        let bytes = WINDOW.min(last - start);
        let event = lane.spare_event(driver, number)?;
        // SAFETY: whole pages of the caller's memory, which stays while the
        // call lasts; undone by `retire` or by `copy`.
        unsafe { driver.host_register(start as *mut c_void, bytes, source.flags)? };
        windows.push_back(Window {
            start: start as *mut c_void,
            event,
        });
        transfer(start, bytes)?;
        // SAFETY: both belong to the lane.
        unsafe { driver.event_record(event, stream)? };
    }
    Ok(())
}

/// Waits for the oldest window and gives it back.
fn retire(driver: &Driver, windows: &mut VecDeque<Window>) -> Result<(), LaneError> {
    let Some(oldest) = windows.front() else {
        return Ok(());
    };
    // SAFETY: recorded behind the window's transfer.
    unsafe {
        if waits::SLOT.is_kept() {
            driver.event_synchronize(oldest.event)?;
        }
        driver.host_unregister(oldest.start)?;
    }
    windows.pop_front();
    Ok(())
}
