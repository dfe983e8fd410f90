//! The lanes of one device, and a copy over them.

use super::chunks::Chunks;
use super::crew::{Crew, Shared};
use super::job::{Direction, Job, MemoryCopy, Work};
use super::lane::Lane;
use super::mapped_file::{MappedFile, SourceFiles};
use super::staging::Staging;
use super::streams::Streams;
use super::{LaneError, in_place, waits};
use crate::config::LanePlan;
use crate::driver::sys::*;
use crate::driver::{CudaError, Driver};
use parking_lot::Mutex;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The driver itself holds an asynchronous copy from pageable memory back until
/// its stream gets there, once the copy is larger than its own staging; smaller
/// ones return at once (driver 580: 1 MiB returns, 8 MiB waits).
const DRIVER_WAITS_FROM: usize = 8 << 20;

/// How long a caller waits for its lane before it looks whether there is
/// anything left for it to do.
const PATIENCE: Duration = Duration::from_micros(200);

/// Smallest copy, in bytes, that one lane alone can speed up.
pub fn in_place_from() -> usize {
    in_place::SMALLEST
}

/// A linear copy between pageable host memory and device memory.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Which way.
    pub direction: Direction,
    /// Address in device memory.
    pub device: CUdeviceptr,
    /// Address in host memory.
    pub host: *mut u8,
    /// Bytes to copy.
    pub bytes: usize,
    /// The stream that orders the copy: a real one, or a default stream's
    /// explicit handle.
    pub stream: CUstream,
    /// Whether the call is an asynchronous one, which may have to return before
    /// its stream gets to it.
    pub asynchronous: bool,
}

/// How a copy over the lanes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Staged by the lanes.
    Staged {
        /// Bytes that came from the file that the source is mapped from.
        from_file: u64,
    },
    /// Copied from registered windows of the source.
    InPlace,
    /// Nothing was done: the stream is busy, and the driver would return
    /// without waiting for it.
    StreamBusy,
}

/// The lanes of one device, made in one context and shared by all threads.
pub struct LaneSet {
    shared: Arc<Shared>,
    crew: Mutex<Crew>,
    /// The lane that calling threads work on themselves.
    own: Mutex<Lane>,
    /// Events for starts and joins.
    events: Mutex<Vec<CUevent>>,
    lanes: usize,
    slot_bytes: usize,
}

// SAFETY: handles of the driver, usable from any thread that has the context.
unsafe impl Send for LaneSet {}
// SAFETY: as above; what is not shareable is behind locks.
unsafe impl Sync for LaneSet {}

impl LaneSet {
    /// Makes the lanes in the calling thread's current context. No memory is
    /// pinned yet.
    ///
    /// # Errors
    /// The first driver call that failed; everything made until then is given
    /// back. A thread that does not start is no error.
    pub fn new(driver: Driver, plan: &LanePlan) -> Result<LaneSet, LaneError> {
        let begun = Instant::now();
        let _relaxed = RelaxedCapture::enter(&driver)?;
        let mut context = ptr::null_mut();
        // SAFETY: an out-pointer to a local.
        unsafe { driver.current_context(&mut context)? };
        let staging = Staging::reserve(plan.lanes * plan.slots_per_lane, plan.chunk_bytes)?;
        let streams = Streams::new(&driver)?;
        let files = SourceFiles::new(plan);
        let shared = Arc::new(Shared::new(driver, context, staging, streams, files));
        let mut lanes = Vec::new();
        for index in 0..plan.lanes {
            match Lane::new(&driver, index, plan.slots_per_lane, streams) {
                Ok(lane) => lanes.push(lane),
                Err(error) => {
                    release(&shared, lanes);
                    streams.destroy(&driver);
                    return Err(error);
                }
            }
        }
        let own = lanes.remove(0);
        let (crew, left) = Crew::start(&shared, lanes);
        release(&shared, left);
        tracing::debug!(took = ?begun.elapsed(), lanes = crew.len() + 1, "lanes made");
        Ok(LaneSet {
            lanes: plan.lanes,
            slot_bytes: plan.chunk_bytes,
            crew: Mutex::new(crew),
            own: Mutex::new(own),
            events: Mutex::default(),
            shared,
        })
    }

    /// The context that the lanes live in.
    pub fn context(&self) -> CUcontext {
        self.shared.context
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Length of a slot, in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Waits until all transfers of the set are done.
    pub(super) fn drain(&self) -> Result<(), LaneError> {
        self.shared.streams.drain(&self.shared.driver)
    }

    /// Lanes that work: the caller's own and one for each thread.
    pub fn lanes(&self) -> usize {
        self.crew.lock().len() + 1
    }

    /// Bytes of pinned staging memory.
    pub fn pinned_bytes(&self) -> usize {
        self.shared.staging.pinned_bytes()
    }

    /// Copies. Returns when a plain copy would have to: the source has been read
    /// (to the device), or the destination written (to the host), and the
    /// stream's later work comes after the copy.
    ///
    /// # Errors
    /// The first failure. Nothing is under way any more then, and the copy can
    /// be repeated by other means.
    ///
    /// # Safety
    /// The host memory must be valid for the copy, and the context of
    /// [`LaneSet::context`] must be current.
    pub unsafe fn run(&self, transfer: &Transfer) -> Result<Outcome, LaneError> {
        let driver = &self.shared.driver;
        let _relaxed = RelaxedCapture::enter(driver)?;
        self.shared.alert();
        if !self.wait_for_stream(transfer)? {
            return Ok(Outcome::StreamBusy);
        }
        if self.lanes == 1
            && transfer.direction == Direction::ToDevice
            && let Some(source) = in_place::Source::new(transfer.host.addr(), transfer.bytes)
        {
            let mut lane = self.own.lock();
            in_place::copy(
                driver,
                &self.shared.streams,
                &mut lane,
                &source,
                transfer.device,
            )?;
            return Ok(Outcome::InPlace);
        }
        let copy = MemoryCopy::new(
            transfer.direction,
            transfer.device,
            transfer.host,
            self.file_behind(transfer),
            Chunks::new(transfer.bytes, self.slot_bytes, self.lanes),
        );
        let job = self.fan_out(Work::Memory(Box::new(copy)), transfer)?;
        Ok(Outcome::Staged {
            from_file: job.file_bytes(),
        })
    }

    /// The file that the source is mapped from. Only to be asked once the stream's
    /// earlier work is done: it may write the source.
    fn file_behind(&self, transfer: &Transfer) -> Option<MappedFile> {
        if transfer.direction == Direction::ToHost {
            return None;
        }
        let start = transfer.host.addr();
        self.shared
            .files
            .find(start..start.checked_add(transfer.bytes)?)
    }

    /// The **start** wait. False if the driver would not wait.
    fn wait_for_stream(&self, transfer: &Transfer) -> Result<bool, LaneError> {
        let driver = &self.shared.driver;
        let event = self.spare_event()?;
        // SAFETY: an event of this set and the caller's stream.
        let waited = unsafe {
            driver.event_record(event, transfer.stream).and_then(|()| {
                match driver.event_query(event) {
                    Err(CudaError {
                        code: CUresult::NOT_READY,
                        ..
                    }) => {
                        if transfer.asynchronous
                            && transfer.direction == Direction::ToDevice
                            && transfer.bytes <= DRIVER_WAITS_FROM
                        {
                            return Ok(false);
                        }
                        if waits::START.is_kept() {
                            driver.event_synchronize(event)?;
                        }
                        Ok(true)
                    }
                    other => other.map(|()| true),
                }
            })
        };
        self.events.lock().push(event);
        Ok(waited?)
    }

    /// An event from the pool; a wait that was queued on it stays what it was.
    fn spare_event(&self) -> Result<CUevent, LaneError> {
        if let Some(event) = self.events.lock().pop() {
            return Ok(event);
        }
        let mut event = ptr::null_mut();
        // SAFETY: an out-pointer to a local.
        unsafe {
            self.shared
                .driver
                .event_create(&mut event, CU_EVENT_DISABLE_TIMING)?
        };
        Ok(event)
    }

    fn fan_out(&self, work: Work, transfer: &Transfer) -> Result<Arc<Job>, LaneError> {
        let moved = self.carry(work);
        self.join(transfer).or_else(|error| {
            self.shared
                .streams
                .drain(&self.shared.driver)
                .and(Err(error))
        })?;
        moved
    }

    /// Has all lanes work on a copy; returns when the last chunk is on its way.
    pub(super) fn carry(&self, work: Work) -> Result<Arc<Job>, LaneError> {
        let shared = &self.shared;
        let job = Arc::new(Job::new(work));
        if job.chunks() > 1 {
            shared.offer(&job);
        }
        // While another caller has the lane, the threads get on with this copy.
        while !job.is_exhausted() {
            if let Some(mut lane) = self.own.try_lock_for(PATIENCE) {
                lane.run(&shared.driver, &shared.staging, &job, usize::MAX);
            }
        }
        job.wait()?;
        Ok(job)
    }

    /// The **join** wait.
    fn join(&self, transfer: &Transfer) -> Result<(), LaneError> {
        if transfer.direction == Direction::ToHost || !waits::JOIN.is_kept() {
            return Ok(());
        }
        let driver = &self.shared.driver;
        let event = self.spare_event()?;
        // SAFETY: an event and a stream of this set, and the caller's stream.
        let joined = unsafe {
            driver
                .event_record(event, self.shared.streams.to_device)
                .and_then(|()| driver.stream_wait_event(transfer.stream, event, 0))
        };
        self.events.lock().push(event);
        Ok(joined?)
    }

    /// Ends the threads and gives everything back, in a context that is still
    /// alive and current. No copy may be under way.
    pub fn release(self) {
        let driver = &self.shared.driver;
        // Whatever fails here, no thread stays that holds on to a job.
        let mut lanes = self.crew.into_inner().stop(&self.shared);
        lanes.push(self.own.into_inner());
        let Ok(_relaxed) = RelaxedCapture::enter(driver) else {
            return;
        };
        if let Err(error) = self.shared.streams.drain(driver) {
            tracing::warn!(%error, "transfers did not drain");
        }
        release(&self.shared, lanes);
        for event in self.events.into_inner() {
            // SAFETY: events of this set, used by nobody any more.
            let _ = unsafe { driver.event_destroy(event) };
        }
        self.shared.streams.destroy(driver);
    }
}

fn release(shared: &Shared, lanes: Vec<Lane>) {
    for mut lane in lanes {
        lane.release(&shared.driver, &shared.staging);
    }
}

/// While it lives, the calling thread's driver calls neither fail because of a
/// stream capture elsewhere nor invalidate it.
pub(super) struct RelaxedCapture<'a> {
    driver: &'a Driver,
    before: c_int,
}

impl RelaxedCapture<'_> {
    pub(super) fn enter(driver: &Driver) -> Result<RelaxedCapture<'_>, CudaError> {
        let mut mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: exchanges with a local.
        unsafe { driver.exchange_capture_mode(&mut mode)? };
        Ok(RelaxedCapture {
            driver,
            before: mode,
        })
    }
}

impl Drop for RelaxedCapture<'_> {
    fn drop(&mut self) {
        // SAFETY: puts the mode back that `enter` was given.
        let _ = unsafe { self.driver.exchange_capture_mode(&mut self.before) };
    }
}
