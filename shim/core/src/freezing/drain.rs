//! Waiting, with a time limit, until nothing runs on the GPU for this process.

use super::{FreezeError, Freezer};
use crate::gate;
use rewarm::driver::sys::*;
use rewarm::driver::{self, DrainDriver, Driver, MemoryDriver};
use std::ptr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often an event is asked for: at first as soon as the CPU is given back, then
/// seldom.
const EAGER: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(500);

/// Waits for the work of contexts.
pub(super) struct Drain {
    pub(super) driver: Driver,
    pub(super) memory: MemoryDriver,
    /// Before CUDA 12.5 a thread waits instead.
    pub(super) events: Option<DrainDriver>,
}

impl Drain {
    /// Waits until every stream of every context is idle. No call of the
    /// application's may be under way, and no capture.
    pub(super) fn all(&self, contexts: &[CUcontext], until: Instant) -> Result<(), FreezeError> {
        for context in contexts {
            let idle = match &self.events {
                Some(events) => self.by_event(events, *context, until),
                None => self.by_thread(*context, until),
            };
            if !idle.map_err(FreezeError::Drain)? {
                return Err(FreezeError::Busy);
            }
        }
        Ok(())
    }

    /// Whether a context was idle in time.
    fn by_event(
        &self,
        events: &DrainDriver,
        context: CUcontext,
        until: Instant,
    ) -> driver::Result<bool> {
        let mut event = ptr::null_mut();
        // SAFETY: a live context, and an event of it that is destroyed below.
        unsafe {
            self.driver.push_context(context)?;
            let made = self
                .driver
                .event_create(&mut event, CU_EVENT_DISABLE_TIMING);
            let idle = made.and_then(|()| {
                events.record_context(context, event)?;
                self.poll(event, until)
            });
            if !event.is_null() {
                let _ = self.driver.event_destroy(event);
            }
            let _ = self.driver.pop_context(&mut ptr::null_mut());
            idle
        }
    }

    fn poll(&self, event: CUevent, until: Instant) -> driver::Result<bool> {
        let begun = Instant::now();
        loop {
            // SAFETY: an event of the current context.
            match unsafe { self.driver.event_query(event) } {
                Err(error) if error.code == CUresult::NOT_READY => {}
                other => return other.map(|()| true),
            }
            if Instant::now() >= until || gate::is_exiting() {
                return Ok(false);
            }
            if begun.elapsed() < EAGER {
                thread::yield_now();
            } else {
                thread::sleep(PAUSE);
            }
        }
    }

    /// As [`Drain::by_event`]. Where work never ends the thread never does either;
    /// it sleeps in the driver.
    fn by_thread(&self, context: CUcontext, until: Instant) -> driver::Result<bool> {
        let (driver, memory) = (self.driver, self.memory);
        let context = context.expose_provenance();
        let (say, hear) = channel();
        let wait = move || {
            let context = ptr::with_exposed_provenance_mut(context);
            // SAFETY: a context that lives as long as the gate is closed.
            let waited = unsafe {
                driver
                    .set_current_context(context)
                    .and_then(|()| memory.context_synchronize())
            };
            // Nobody hears it after the time limit.
            let _ = say.send(waited);
        };
        let thread = thread::Builder::new().name("rewarm-drain".into());
        if thread.spawn(wait).is_err() {
            return Ok(false);
        }
        match hear.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(waited) => waited.map(|()| true),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(false),
        }
    }
}

impl Freezer<'_> {
    /// Every context that the application may have work in.
    pub(super) fn contexts_in_use(&self) -> Vec<CUcontext> {
        let mut contexts = self.process.contexts.lock().live();
        let mut count = 0;
        // SAFETY: an out-pointer to a local; what fails leaves it zero.
        let _ = unsafe { self.process.driver.device_count(&mut count) };
        for ordinal in 0..count {
            contexts.extend(self.process.primary(ordinal));
        }
        contexts
    }
}
