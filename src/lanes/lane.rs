//! One lane: a ring of pinned slots, and the work of filling and emptying them.

use super::job::{Direction, Job};
use super::staging::Staging;
use super::streams::Streams;
use super::{LaneError, waits};
use crate::driver::Driver;
use crate::driver::sys::*;
use std::ops::Range;
use std::ptr;

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
    in_flight: bool,
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
            });
        }
        Ok(lane)
    }

    /// Works on up to `most` chunks of a job.
    pub(super) fn run(&mut self, driver: &Driver, staging: &Staging, job: &Job, most: usize) {
        match job.direction {
            Direction::ToDevice => self.run_to_device(driver, staging, job, most),
            Direction::ToHost => self.run_to_host(driver, staging, job, most),
        }
    }

    fn run_to_device(&mut self, driver: &Driver, staging: &Staging, job: &Job, most: usize) {
        for chunk in std::iter::from_fn(|| job.claim()).take(most) {
            match self.send(driver, staging, job, chunk) {
                Ok(()) => job.finish(),
                Err(error) => self.give_up(driver, job, error),
            }
        }
    }

    fn send(
        &mut self,
        driver: &Driver,
        staging: &Staging,
        job: &Job,
        chunk: Range<usize>,
    ) -> Result<(), LaneError> {
        let stream = self.streams.to_device;
        let index = self.free_slot(driver, staging)?;
        let slot = &mut self.slots[index];
        // SAFETY: the chunk lies within the caller's memory, which outlives the
        // claim; the slot is free and as large as any chunk.
        unsafe {
            ptr::copy_nonoverlapping(job.host.add(chunk.start), slot.memory, chunk.len());
            driver.copy_to_device(
                job.device + chunk.start as u64,
                slot.memory.cast(),
                chunk.len(),
                stream,
            )?;
        }
        slot.in_flight = true;
        // SAFETY: event and stream are this set's.
        unsafe { driver.event_record(slot.event, stream)? };
        Ok(())
    }

    /// Keeps one transfer under way while the chunk before it is copied out.
    fn run_to_host(&mut self, driver: &Driver, staging: &Staging, job: &Job, most: usize) {
        let mut arriving: Option<Arriving> = None;
        for chunk in std::iter::from_fn(|| job.claim()).take(most) {
            let begun = self.fetch(driver, staging, job, chunk.clone());
            if let Some(before) = arriving.take() {
                self.settle(driver, job, before);
            }
            match begun {
                Ok(slot) => arriving = Some(Arriving { chunk, slot }),
                Err(error) => self.give_up(driver, job, error),
            }
        }
        if let Some(last) = arriving {
            self.settle(driver, job, last);
        }
    }

    fn fetch(
        &mut self,
        driver: &Driver,
        staging: &Staging,
        job: &Job,
        chunk: Range<usize>,
    ) -> Result<usize, LaneError> {
        let stream = self.streams.to_host;
        let index = self.free_slot(driver, staging)?;
        let slot = &mut self.slots[index];
        // SAFETY: the slot is free and as large as any chunk.
        unsafe {
            driver.copy_to_host(
                slot.memory.cast(),
                job.device + chunk.start as u64,
                chunk.len(),
                stream,
            )?;
            slot.in_flight = true;
            driver.event_record(slot.event, stream)?;
        }
        Ok(index)
    }

    fn settle(&mut self, driver: &Driver, job: &Job, arrived: Arriving) {
        let slot = &mut self.slots[arrived.slot];
        match slot.wait(driver) {
            Ok(()) => {
                // SAFETY: the transfer into the slot is done; the chunk lies
                // within the caller's memory, which outlives the claim.
                unsafe {
                    ptr::copy_nonoverlapping(
                        slot.memory,
                        job.host.add(arrived.chunk.start),
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
        if let Err(also) = self.streams.drain(driver) {
            tracing::warn!(lane = self.index, %also, "stream did not drain after a failure");
        }
        job.fail(error);
    }

    /// The next slot of the ring, once its last transfer is done.
    fn free_slot(&mut self, driver: &Driver, staging: &Staging) -> Result<usize, LaneError> {
        let index = self.next;
        let slot = &mut self.slots[index];
        if slot.memory.is_null() {
            slot.memory = staging.pin(driver, slot.number)?;
        }
        slot.wait(driver)?;
        self.next = (index + 1) % self.slots.len();
        Ok(index)
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
