//! Device memory to wherever the caller wants its bytes: the lanes backwards.
//!
//! A lane brings a part piece by piece, each as large as a slot, and keeps all slots
//! but the one that is being taken under way. Small slots are better here: a CPU
//! takes a piece while it still lies in its cache, where the link has just put it
//! (into tmpfs by 16 lanes: 47 GB/s with slots of 1 MiB, 34 with 4; H200).

use super::LaneError;
use super::job::{Job, Work};
use super::lane::Lane;
use super::set::{LaneSet, RelaxedCapture};
use super::staging::Staging;
use crate::driver::Driver;
use crate::driver::sys::CUdeviceptr;
use std::collections::VecDeque;
use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A part of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Address of its first byte.
    pub device: CUdeviceptr,
    /// Its length in bytes.
    pub bytes: usize,
}

/// Some bytes of a part.
#[derive(Debug)]
pub struct Brought<'a> {
    /// The lane that brings them. It brings all of the part, in order.
    pub lane: usize,
    /// The part's number.
    pub part: usize,
    /// Where in the part they are, in bytes.
    pub offset: usize,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// Takes bytes. Each lane waits until they are taken.
pub type Take = dyn Fn(Brought<'_>) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync;

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

    /// Takes the next part, by number; the taker must [`finish`](Job::finish) it or
    /// [`fail`](Job::fail).
    fn claim(&self) -> Option<usize> {
        if self.is_exhausted() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.parts.len()).then_some(number)
    }

    /// Has nobody claim another part; how many nobody had claimed.
    pub(super) fn stop(&self) -> usize {
        let parts = self.parts.len();
        parts - self.next.swap(parts, Ordering::Relaxed).min(parts)
    }

    /// Works on parts until none is left. `lane` is held exclusively.
    pub(super) fn run(&self, lane: &mut Lane, driver: &Driver, staging: &Staging, job: &Job) {
        let mut unloading = Unloading {
            unload: self,
            lane,
            driver,
            job,
            arriving: VecDeque::new(),
            broken: Vec::new(),
        };
        while let Some(number) = self.claim() {
            unloading.begin(staging, number);
        }
        while let Some(piece) = unloading.arriving.pop_front() {
            unloading.take(piece);
        }
    }
}

/// A lane at work.
struct Unloading<'a> {
    unload: &'a Unload,
    lane: &'a mut Lane,
    driver: &'a Driver,
    job: &'a Job,
    /// Pieces that were asked for, the oldest first.
    arriving: VecDeque<Piece>,
    /// Parts that failed; what still arrives of them is dropped.
    broken: Vec<usize>,
}

/// A piece whose transfer to a slot is under way.
struct Piece {
    part: usize,
    range: Range<usize>,
    slot: usize,
}

impl Unloading<'_> {
    /// Asks for all pieces of a part, taking others meanwhile.
    fn begin(&mut self, staging: &Staging, part: usize) {
        let Part { device, bytes } = self.unload.parts[part];
        let most = self.lane.slots().saturating_sub(1).max(1);
        let mut start = 0;
        while start < bytes {
            if self.arriving.len() == most
                && let Some(oldest) = self.arriving.pop_front()
            {
                self.take(oldest);
            }
            if self.broken.contains(&part) {
                return;
            }
            let range = start..bytes.min(start + staging.slot_bytes());
            let from = device + start as u64;
            match self.lane.fetch(self.driver, staging, from, range.len()) {
                Ok(slot) => self.arriving.push_back(Piece {
                    part,
                    range: range.clone(),
                    slot,
                }),
                Err(error) => {
                    self.lane.drain(self.driver);
                    return self.fail(part, error);
                }
            }
            start = range.end;
        }
    }

    /// Hands a piece to whoever takes it, when it is there.
    fn take(&mut self, piece: Piece) {
        let Piece { part, range, slot } = piece;
        let unload = self.unload;
        let lane = self.lane.index();
        let is_broken = self.broken.contains(&part);
        let taken = self.lane.arrived(self.driver, slot).and_then(|memory| {
            if is_broken {
                return Ok(());
            }
            // SAFETY: the transfer into this part of the slot is done, and the lane
            // does not use the slot for another before this returns.
            let bytes = unsafe { std::slice::from_raw_parts(memory, range.len()) };
            let brought = Brought {
                lane,
                part,
                offset: range.start,
                bytes,
            };
            (unload.take)(brought).map_err(LaneError::NotTaken)
        });
        match taken {
            _ if is_broken => {}
            Err(error) => self.fail(part, error),
            Ok(()) if range.end == unload.parts[part].bytes => self.job.finish(),
            Ok(()) => {}
        }
    }

    fn fail(&mut self, part: usize, error: LaneError) {
        self.broken.push(part);
        self.job.fail(error);
    }
}

impl LaneSet {
    /// Brings parts of device memory to the host, by all lanes at once, and hands
    /// the bytes to `take`. Returns when all are taken.
    ///
    /// # Errors
    /// The first failure, of the driver or of `take`. Nothing is under way any more
    /// then.
    ///
    /// # Safety
    /// The device memory must be valid for all parts, no work may be writing to it,
    /// and the context of [`LaneSet::context`] must be current.
    pub unsafe fn unload(&self, parts: Vec<Part>, take: Arc<Take>) -> Result<(), LaneError> {
        let _relaxed = RelaxedCapture::enter(&self.shared().driver)?;
        let parts = parts.into_iter().filter(|part| part.bytes > 0).collect();
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
