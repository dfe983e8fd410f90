//! Device memory to wherever the caller wants its bytes: the lanes backwards.

use super::LaneError;
use super::job::{Destination, Leaving, Work};
use super::set::{LaneSet, RelaxedCapture};
use crate::driver::sys::CUdeviceptr;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A part of device memory that fits a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Address of its first byte.
    pub device: CUdeviceptr,
    /// Its length, at most [`LaneSet::slot_bytes`].
    pub bytes: usize,
}

/// Takes a part's bytes: the lane that brings them, the part's number, the bytes.
/// Each lane takes one at a time.
pub type Take =
    dyn Fn(usize, usize, &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync;

/// Parts on their way out of device memory.
pub(super) struct Unload {
    parts: Vec<Part>,
    next: AtomicUsize,
    take: Arc<Take>,
}

impl Unload {
    /// Number of parts in all.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn is_exhausted(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.parts.len()
    }

    /// Has nobody claim another part; how many nobody had claimed.
    pub(super) fn stop(&self) -> usize {
        let parts = self.parts.len();
        parts - self.next.swap(parts, Ordering::Relaxed).min(parts)
    }
}

impl Destination for Unload {
    fn claim(&self) -> Option<Leaving> {
        if self.is_exhausted() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.parts.get(number).map(|part| Leaving {
            device: part.device,
            bytes: part.bytes,
            place: number,
        })
    }

    fn take(&self, lane: usize, leaving: &Leaving, bytes: &[u8]) -> Result<(), LaneError> {
        (self.take)(lane, leaving.place, bytes).map_err(LaneError::NotTaken)
    }
}

impl LaneSet {
    /// Brings parts of device memory to the host, in any order and by all lanes at
    /// once, and hands the bytes to `take`. Returns when every part was taken.
    ///
    /// # Errors
    /// The first failure, of the driver or of `take`. Nothing is under way any more
    /// then.
    ///
    /// # Safety
    /// The device memory must be valid for all parts, each of which must fit a slot,
    /// no work may be writing to it, and the context of [`LaneSet::context`] must be
    /// current.
    pub unsafe fn unload(&self, parts: Vec<Part>, take: Arc<Take>) -> Result<(), LaneError> {
        debug_assert!(parts.iter().all(|part| part.bytes <= self.slot_bytes()));
        let _relaxed = RelaxedCapture::enter(&self.shared().driver)?;
        let unload = Unload {
            parts,
            next: AtomicUsize::new(0),
            take,
        };
        let unloaded = self.carry(Work::Unload(Box::new(unload)));
        let drained = self.drain();
        unloaded?;
        drained
    }
}
