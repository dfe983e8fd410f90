//! Freezing and thawing: where the gate, the ledger, the lanes and the snapshot
//! meet.
//!
//! ```text
//! Running ──freeze──► gate closed, streams idle ──► chunks in a snapshot ──► memory released ─► Frozen
//!    ▲                        any failure: gate opens, nothing was changed                        │
//!    └── gate opens ◄── digests right ◄── chunks back ◄── memory made again ◄──────thaw───────────┘
//!                             any failure: memory released again, stays Frozen
//! ```
//!
//! The memory is released only when the snapshot is whole on disk, and the snapshot
//! goes only when the memory is back: there is no moment at which the process could
//! lose it.

mod devices;
mod drain;
mod error;
mod freeze;
mod gathered;
mod incoming;
mod outgoing;
mod report;
mod take_out;
mod thaw;

pub(crate) use error::FreezeError;

use crate::gate::Closed;
use crate::ledger::Ledger;
use crate::process::Process;
use drain::Drain;
use parking_lot::{Mutex, MutexGuard};
use rewarm::control::{
    self, FreezeReport, Phase, Progress, Reporter, Request, Response, ThawReport,
};
use rewarm::driver::{DrainDriver, Driver, LookupError, MemoryDriver};
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a freezable process needs besides.
pub(crate) struct Freezing {
    pub(crate) memory: MemoryDriver,
    drain: Drain,
    state: Mutex<State>,
    /// What others are told meanwhile.
    told: Mutex<Told>,
    /// Who drops the last snapshot.
    cleaning: Mutex<Option<JoinHandle<()>>>,
}

/// Whether the process runs.
enum State {
    Running,
    Frozen(Box<Frozen>),
}

/// A process without its device memory.
struct Frozen {
    /// Opens when dropped.
    _gate: Closed,
    /// Folder of the snapshot.
    snapshot: PathBuf,
    /// Tells it from every other.
    id: u128,
    /// Whether the folder had room made ahead.
    was_prepared: bool,
}

/// What the report tells.
struct Told {
    state: control::State,
    /// While frozen: where, and since when, in seconds since 1970.
    snapshot: Option<(PathBuf, u64)>,
    frozen: Option<FreezeReport>,
    thawed: Option<ThawReport>,
}

impl Freezing {
    /// The right to freeze or thaw, for one at a time.
    fn turn(&self) -> Result<MutexGuard<'_, State>, FreezeError> {
        self.state.try_lock().ok_or(FreezeError::UnderWay)
    }

    /// Waits until the last snapshot is gone: the next needs its room.
    fn wait_for_room(&self) {
        if let Some(thread) = self.cleaning.lock().take() {
            // A panic ends the process.
            let _ = thread.join();
        }
    }

    /// Says that something is under way until what it returns is dropped, and then
    /// what holds after all.
    fn under_way(&self, state: control::State) -> UnderWay<'_> {
        let before = mem::replace(&mut self.told.lock().state, state);
        UnderWay {
            told: &self.told,
            then: before,
        }
    }

    /// The process is in `exit`, as the gate knows: waits for what is under way, which
    /// gives up soon. The driver must not be shut down in the middle of a copy.
    pub(crate) fn wait_at_exit(&self) {
        const LONGEST: Duration = Duration::from_secs(5);
        drop(self.state.try_lock_for(LONGEST));
    }
}

/// Something is under way.
struct UnderWay<'a> {
    told: &'a Mutex<Told>,
    then: control::State,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.told.lock().state = self.then;
    }
}

impl Freezing {
    /// Looks up what the driver needs to have.
    ///
    /// # Safety
    /// As [`Driver::load`].
    pub(crate) unsafe fn load(
        driver: Driver,
        lookup: impl Fn(&'static std::ffi::CStr) -> *const std::ffi::c_void,
    ) -> Result<Freezing, LookupError> {
        // SAFETY: passed on.
        let (memory, events) = unsafe {
            (
                MemoryDriver::load(&lookup)?,
                DrainDriver::load(&lookup).ok(),
            )
        };
        Ok(Freezing {
            memory,
            drain: Drain {
                driver,
                memory,
                events,
            },
            state: Mutex::new(State::Running),
            cleaning: Mutex::default(),
            told: Mutex::new(Told {
                state: control::State::Active,
                snapshot: None,
                frozen: None,
                thawed: None,
            }),
        })
    }
}

/// One request, with everything that it needs.
struct Freezer<'a> {
    process: &'a Process,
    freezing: &'a Freezing,
    ledger: &'a Ledger,
    reporter: &'a Reporter,
}

impl Process {
    /// Answers a request about freezing.
    pub(crate) fn answer_freezing(&self, request: &Request, reporter: &Reporter) -> Response {
        let (Some(freezing), Some(ledger)) = (&self.freezing, &self.ledger) else {
            return Response::Error(FreezeError::NotFreezable.to_string());
        };
        let freezer = Freezer {
            process: self,
            freezing,
            ledger,
            reporter,
        };
        freezer.answer(request).unwrap_or_else(|error| {
            tracing::warn!(%error, ?request, "it was not done");
            Response::Error(error.to_string())
        })
    }
}

impl Freezer<'_> {
    fn answer(&self, request: &Request) -> Result<Response, FreezeError> {
        Ok(match request {
            Request::Prepare(asked) => Response::Prepared(self.prepare(asked)?),
            Request::Freeze(asked) | Request::FreezeForLock(asked) => {
                Response::Frozen(self.freeze(asked)?)
            }
            Request::Thaw(asked) | Request::ThawAfterLock(asked) => {
                Response::Thawed(self.thaw(asked)?)
            }
            Request::Discard(asked) => {
                self.ledger
                    .discard(asked.address, asked.bytes, asked.discard)?;
                Response::Discarded
            }
            Request::Status => Response::Status(Box::new(crate::report::process(self.process))),
        })
    }

    /// Gives the memory back to the machine, and the lanes that copies are fanned out
    /// over. What cannot go stays, and comes back with the rest.
    fn release(&self) {
        let released = self.ledger.release();
        if !released.resident.is_empty() {
            tracing::warn!(?released, "some memory stays on the device");
        }
        for context in self.contexts_in_use() {
            for lanes in self.process.devices.take_lanes(context) {
                self.process.with_context(context, || lanes.release());
            }
        }
    }
}

fn at(phase: Phase) -> Progress {
    Progress {
        phase,
        done: 0,
        total: 0,
    }
}

/// Does something long while another thread reports how far it is.
fn watched<T>(
    reporter: &Reporter,
    phase: Phase,
    done: &AtomicU64,
    total: u64,
    work: impl FnOnce() -> T,
) -> T {
    const PAUSE: Duration = Duration::from_millis(50);
    let is_over = AtomicBool::new(false);
    let watch = || {
        while !is_over.load(Relaxed) {
            reporter.progress(Progress {
                phase,
                done: done.load(Relaxed),
                total,
            });
            thread::park_timeout(PAUSE);
        }
    };
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("rewarm-watch".into());
        let watcher = builder.spawn_scoped(scope, watch);
        let worked = work();
        is_over.store(true, Relaxed);
        // Without a watcher nobody hears of it.
        if let Ok(watcher) = watcher {
            watcher.thread().unpark();
        }
        worked
    })
}
