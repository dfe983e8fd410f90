//! One lane: a ring of pinned slots, and the work of filling and emptying them.

use super::job::{Direction, FileCopy, Job, MemoryCopy, Work};
use super::staging::Staging;
use super::stores::stage;
use super::streams::Streams;
use super::{LaneError, waits};
use crate::driver::Driver;
use crate::driver::sys::*;
use crate::pages::{self, Chunk, Worker};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::Ordering;

/// A lane. Whoever runs it holds it exclusively.
pub(super) struct Lane {
    index: usize,
    streams: Streams,
    slots: Vec<Slot>,
    next: usize,
}

// SAFETY: handles of the driver and pinned memory, used from any one thread.
unsafe impl Send for Lane {}

struct Slot {
    /// Number among all slots of the set.
    number: usize,
    /// Null until first used.
    memory: *mut u8,
    event: CUevent,
    /// A transfer may be under way.
    in_flight: bool,
    /// It is being filled from a file, or holds what has not been copied out.
    taken: bool,
}

/// A chunk whose transfer to a slot is under way.
struct Arriving {
    chunk: Range<usize>,
    slot: usize,
}

impl Lane {
    /// Creates the slots' events in the current context.
    pub(super) fn new(
        driver: &Driver,
        index: usize,
        slots: usize,
        streams: Streams,
    ) -> Result<Lane, LaneError> {
        let mut lane = Lane {
            index,
            streams,
            slots: Vec::new(),
            next: 0,
        };
        for slot in 0..slots {
            let mut event = ptr::null_mut();
            // SAFETY: an out-pointer to a local, in the current context.
            if let Err(error) = unsafe { driver.event_create(&mut event, CU_EVENT_DISABLE_TIMING) }
            {
                lane.destroy_events(driver);
                return Err(error.into());
            }
            lane.slots.push(Slot {
                number: index * slots + slot,
                memory: ptr::null_mut(),
                event,
                in_flight: false,
                taken: false,
            });
        }
        Ok(lane)
    }

    /// Works on up to `most` chunks of a job.
    pub(super) fn run(&mut self, driver: &Driver, staging: &Staging, job: &Job, most: usize) {
        match &job.work {
            Work::Memory(copy) => match copy.direction {
                Direction::ToDevice => self.run_to_device(driver, staging, job, copy, most),
                Direction::ToHost => self.run_to_host(driver, staging, job, copy, most),
            },
            Work::Files(copy) => {
                let mut filling = Filling {
                    lane: self,
                    driver,
                    staging,
                    job,
                    copy,
                };
                pages::work(&copy.reading, &mut filling, most);
            }
            Work::Fill(fill) => fill.run(job, most),
            // Nobody else's copy waits for its turn meanwhile.
            Work::Unload(unload) => unload.run(self, driver, staging, job),
        }
    }

    fn run_to_device(
        &mut self,
        driver: &Driver,
        staging: &Staging,
        job: &Job,
        copy: &MemoryCopy,
        most: usize,
    ) {
        for chunk in std::iter::from_fn(|| copy.claims.claim()).take(most) {
            match self.send(driver, staging, copy, chunk) {
                Ok(()) => job.finish(),
                Err(error) => self.give_up(driver, job, error),
            }
        }
    }

    fn send(
        &mut self,
        driver: &Driver,
        staging: &Staging,
        copy: &MemoryCopy,
        chunk: Range<usize>,
    ) -> Result<(), LaneError> {
        let index = self.free_slot(driver, staging)?;
        let slot = self.page_slot(staging, index);
        let read = match &copy.file {
            Some(file) => file.read(&chunk, slot)?,
            None => None,
        };
        let before = read.unwrap_or_else(|| {
            // SAFETY: the chunk lies within the caller's memory, which outlives
            // the claim; the slot is free and as large as any chunk.
            unsafe {
                let from = copy.host.add(chunk.start);
                stage(from, slot.memory, chunk.len(), chunk.start);
            }
            0
        });
        let device = copy.device + chunk.start as u64;
        self.transfer(driver, index, before..before + chunk.len(), device)
    }

    /// A slot as the page reader sees it.
    fn page_slot(&self, staging: &Staging, index: usize) -> pages::Slot {
        pages::Slot {
            number: index,
            memory: self.slots[index].memory,
            bytes: staging.slot_bytes(),
        }
    }

    /// Puts the transfer of a part of a filled slot on the stream.
    fn transfer(
        &mut self,
        driver: &Driver,
        index: usize,
        part: Range<usize>,
        device: CUdeviceptr,
    ) -> Result<(), LaneError> {
        let stream = self.streams.to_device;
        let slot = &mut self.slots[index];
        let from = slot.memory.wrapping_add(part.start).cast();
        // SAFETY: within the slot, which is not filled again before its event.
        unsafe { driver.copy_to_device(device, from, part.len(), stream)? };
        slot.in_flight = true;
        // SAFETY: event and stream are this set's.
        unsafe { driver.event_record(slot.event, stream)? };
        Ok(())
    }

    /// Keeps one transfer under way while the chunk before it is copied out.
    fn run_to_host(
        &mut self,
        driver: &Driver,
        staging: &Staging,
        job: &Job,
        copy: &MemoryCopy,
        most: usize,
    ) {
        let mut arriving: Option<Arriving> = None;
        for chunk in std::iter::from_fn(|| copy.claims.claim()).take(most) {
            let from = copy.device + chunk.start as u64;
            let begun = self.fetch(driver, staging, from, chunk.len());
            if let Some(before) = arriving.take() {
                self.settle(driver, job, copy, before);
            }
            match begun {
                Ok(slot) => arriving = Some(Arriving { chunk, slot }),
                Err(error) => self.give_up(driver, job, error),
            }
        }
        if let Some(last) = arriving {
            self.settle(driver, job, copy, last);
        }
    }

    /// Asks for bytes of the device; the slot that they come to.
    pub(super) fn fetch(
        &mut self,
        driver: &Driver,
        staging: &Staging,
        from: CUdeviceptr,
        bytes: usize,
    ) -> Result<usize, LaneError> {
        let stream = self.streams.to_host;
        let index = self.free_slot(driver, staging)?;
        let slot = &mut self.slots[index];
        // SAFETY: the slot is free and as large as any chunk.
        unsafe {
            driver.copy_to_host(slot.memory.cast(), from, bytes, stream)?;
            slot.in_flight = true;
            driver.event_record(slot.event, stream)?;
        }
        slot.taken = true;
        Ok(index)
    }

    /// Waits for what was asked for; where it is now, until the slot is next used.
    pub(super) fn arrived(&mut self, driver: &Driver, slot: usize) -> Result<*const u8, LaneError> {
        let slot = &mut self.slots[slot];
        slot.taken = false;
        slot.wait(driver)?;
        Ok(slot.memory)
    }

    fn settle(&mut self, driver: &Driver, job: &Job, copy: &MemoryCopy, arrived: Arriving) {
        match self.arrived(driver, arrived.slot) {
            Ok(memory) => {
                // SAFETY: the transfer into the slot is done; the chunk lies
                // within the caller's memory, which outlives the claim.
                unsafe {
                    ptr::copy_nonoverlapping(
                        memory,
                        copy.host.add(arrived.chunk.start),
                        arrived.chunk.len(),
                    );
                }
                job.finish();
            }
            Err(error) => job.fail(error),
        }
    }

    /// After a failure no event says what the streams still do: they are drained
    /// before anyone uses the lane's slots, or the memory of the copy, again.
    fn give_up(&mut self, driver: &Driver, job: &Job, error: LaneError) {
        self.drain(driver);
        job.fail(error);
    }

    /// Waits until nothing is under way on the lane's streams.
    pub(super) fn drain(&self, driver: &Driver) {
        if let Err(error) = self.streams.drain(driver) {
            tracing::warn!(lane = self.index, %error, "stream did not drain after a failure");
        }
    }

    /// Its number among the lanes of the set.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// A slot that may be filled: the oldest one that is not taken, if its transfer
    /// is done; else one that was never used; else the oldest, once it is done:
    /// so no more memory is pinned than keeps the link busy.
    fn free_slot(&mut self, driver: &Driver, staging: &Staging) -> Result<usize, LaneError> {
        let count = self.slots.len();
        let in_order = (self.next..self.next + count).map(|number| number % count);
        let may_be_filled = in_order.filter(|number| !self.slots[*number].taken);
        let (mut oldest, mut unused) = (None, None);
        for number in may_be_filled {
            let fresh = self.slots[number].memory.is_null();
            let place = if fresh { &mut unused } else { &mut oldest };
            place.get_or_insert(number);
        }
        let index = match (oldest, unused) {
            (Some(oldest), Some(unused)) if !self.slots[oldest].is_done(driver)? => unused,
            (Some(slot), _) | (None, Some(slot)) => slot,
            (None, None) => unreachable!("a strategy takes no more slots than there are"),
        };
        self.pin(driver, staging, index)?;
        self.slots[index].wait(driver)?;
        self.next = (index + 1) % count;
        Ok(index)
    }

    /// Makes a slot's memory present.
    fn pin(&mut self, driver: &Driver, staging: &Staging, index: usize) -> Result<(), LaneError> {
        let slot = &mut self.slots[index];
        if slot.memory.is_null() {
            slot.memory = staging.pin(driver, slot.number)?;
        }
        Ok(())
    }

    /// An event for transfers that need no slot: that of one of two slots, whose
    /// own transfer is waited for.
    pub(super) fn spare_event(
        &mut self,
        driver: &Driver,
        number: usize,
    ) -> Result<CUevent, LaneError> {
        let count = self.slots.len();
        let slot = &mut self.slots[number % count];
        slot.wait(driver)?;
        Ok(slot.event)
    }

    /// Gives everything back, in a context that is still alive and once the
    /// streams are drained.
    pub(super) fn release(&mut self, driver: &Driver, staging: &Staging) {
        for slot in &mut self.slots {
            if !slot.memory.is_null() {
                staging.unpin(driver, slot.memory);
                slot.memory = ptr::null_mut();
            }
        }
        self.destroy_events(driver);
    }

    fn destroy_events(&mut self, driver: &Driver) {
        for slot in self.slots.drain(..) {
            // SAFETY: an event of this lane, used by nobody else.
            let _ = unsafe { driver.event_destroy(slot.event) };
        }
    }
}

impl Slot {
    /// Whether no transfer is under way.
    fn is_done(&self, driver: &Driver) -> Result<bool, LaneError> {
        if !self.in_flight {
            return Ok(true);
        }
        // SAFETY: this slot's event.
        match unsafe { driver.event_query(self.event) } {
            Ok(()) => Ok(true),
            Err(error) if error.code == CUresult::NOT_READY => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The **slot** wait.
    fn wait(&mut self, driver: &Driver) -> Result<(), LaneError> {
        if self.in_flight && waits::SLOT.is_kept() {
            // SAFETY: this slot's event.
            unsafe { driver.event_synchronize(self.event)? };
        }
        self.in_flight = false;
        Ok(())
    }
}

/// A lane whose slots are filled from files.
struct Filling<'a> {
    lane: &'a mut Lane,
    driver: &'a Driver,
    staging: &'a Staging,
    job: &'a Job,
    copy: &'a FileCopy,
}

impl Worker for Filling<'_> {
    type Error = LaneError;

    fn slots(&mut self) -> Result<Vec<pages::Slot>, LaneError> {
        (0..self.lane.slots.len())
            .map(|index| {
                self.lane.pin(self.driver, self.staging, index)?;
                Ok(self.lane.page_slot(self.staging, index))
            })
            .collect()
    }

    fn slot(&mut self) -> Result<pages::Slot, LaneError> {
        let index = self.lane.free_slot(self.driver, self.staging)?;
        self.lane.slots[index].taken = true;
        Ok(self.lane.page_slot(self.staging, index))
    }

    fn filled(&mut self, slot: pages::Slot, before: usize, chunk: &Chunk) {
        self.lane.slots[slot.number].taken = false;
        let part = before..before + chunk.bytes;
        let device = self.copy.device(chunk);
        match self.lane.transfer(self.driver, slot.number, part, device) {
            Ok(()) => {
                if let Some(progress) = &self.copy.progress {
                    progress.fetch_add(chunk.bytes as u64, Ordering::Relaxed);
                }
                self.job.finish();
            }
            Err(error) => self.lane.give_up(self.driver, self.job, error),
        }
    }

    fn failed(&mut self, slot: Option<pages::Slot>, error: LaneError) {
        if let Some(slot) = slot {
            self.lane.slots[slot.number].taken = false;
        }
        self.lane.give_up(self.driver, self.job, error);
    }
}
