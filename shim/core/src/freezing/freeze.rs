//! Freezing: device memory to a snapshot, and back to the machine.

use super::outgoing::Leaving;
use super::{FreezeError, Freezer, Frozen, State, at, watched};
use crate::gate::{self, Closed};
use rewarm::config::{LanePlan, cpus};
use rewarm::control::{self, Freeze, FreezeReport, Phase, Prepare, PrepareReport};
use rewarm::snapshot::{Writer, WriterOptions, prepare};
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks whether a capture is over.
const CAPTURE_PAUSE: Duration = Duration::from_millis(5);

impl Freezer<'_> {
    /// Takes all device memory that can leave to a snapshot.
    pub(super) fn freeze(&self, request: &Freeze) -> Result<FreezeReport, FreezeError> {
        let mut state = self.freezing.turn()?;
        if let State::Frozen(frozen) = &*state {
            return Err(FreezeError::Frozen(frozen.snapshot.clone()));
        }
        let mut under_way = self.freezing.under_way(control::State::Freezing);
        self.refuse_obstacles()?;
        self.freezing.wait_for_room();
        let begun = Instant::now();
        // Once: the CPUs that the process may use can change meanwhile.
        let plan = self.writing();
        let writer = Writer::create(
            &request.to,
            WriterOptions {
                writers: plan.lanes,
                budget_bytes: request.budget_bytes,
            },
        )?;
        let was_prepared = writer.uses_room();
        let until = begun + Duration::from_secs_f64(request.drain_seconds);
        self.reporter.progress(at(Phase::Draining));
        let gate = self.close_gate(until)?;
        // Again: until the gate was closed there could be more.
        self.refuse_obstacles()?;
        self.freezing.drain.all(&self.contexts_in_use(), until)?;
        let drain_seconds = begun.elapsed().as_secs_f64();

        let leaving = self.leaving()?;
        let taken = self
            .take_out(writer, &leaving, &plan)
            .inspect_err(|_| self.give_up())?;

        let releasing = Instant::now();
        self.release();
        let report = FreezeReport {
            snapshot: request.to.clone(),
            allocations: leaving.len(),
            bytes: leaving.iter().map(|one| one.block.bytes).sum(),
            zero_bytes: taken.sums.zero,
            discarded_bytes: taken.sums.discarded,
            unchanged_bytes: taken.sums.unchanged,
            stored_bytes: taken.sums.stored,
            left_bytes: self.ledger.left_bytes(),
            scanned_by: taken.scanned_by.to_owned(),
            drain_seconds,
            scan_seconds: taken.scan_seconds,
            store_seconds: taken.store_seconds,
            commit_seconds: taken.commit_seconds,
            release_seconds: releasing.elapsed().as_secs_f64(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        *state = State::Frozen(Box::new(Frozen {
            _gate: gate,
            snapshot: request.to.clone(),
            id: taken.id,
            was_prepared,
        }));
        under_way.then = control::State::Frozen;
        let mut told = self.freezing.told.lock();
        told.frozen = Some(report.clone());
        told.snapshot = Some((request.to.clone(), taken.created));
        drop(told);
        Ok(report)
    }

    /// Makes room for a snapshot of all memory that can leave now.
    pub(super) fn prepare(&self, request: &Prepare) -> Result<PrepareReport, FreezeError> {
        let begun = Instant::now();
        self.freezing.wait_for_room();
        let bytes = self.ledger.movable_bytes();
        let done = AtomicU64::new(0);
        let made = watched(self.reporter, Phase::Preparing, &done, bytes, || {
            prepare(&request.to, bytes, self.writing().lanes, &done)
        })?;
        Ok(PrepareReport {
            snapshot: request.to.clone(),
            bytes: made,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn writing(&self) -> LanePlan {
        self.process.plan.writing(cpus())
    }

    fn refuse_obstacles(&self) -> Result<(), FreezeError> {
        let obstacles = self.ledger.obstacles();
        if obstacles.is_empty() {
            return Ok(());
        }
        let named = obstacles.iter().map(ToString::to_string);
        Err(FreezeError::Obstacles(named.collect()))
    }

    /// All blocks, where their bytes can be reached.
    fn leaving(&self) -> Result<Vec<Leaving>, FreezeError> {
        let blocks = self.ledger.open()?;
        let leaving = blocks.into_iter().map(|block| Leaving {
            discarded: self.ledger.discarded(block.id),
            block,
        });
        Ok(leaving.collect())
    }

    /// The freeze is not to be: everything is as before.
    fn give_up(&self) {
        if let Err(error) = self.ledger.settle() {
            tracing::error!(%error, "addresses of rewarm's own were not given back");
        }
    }

    /// Closes the gate at a moment at which no stream is being captured: a capture can
    /// only go on while it is open.
    fn close_gate(&self, until: Instant) -> Result<Closed, FreezeError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let gate = gate::close(left)?;
            if !self.process.captures.is_any() {
                return Ok(gate);
            }
            drop(gate);
            if Instant::now() >= until {
                return Err(FreezeError::Capturing);
            }
            thread::sleep(CAPTURE_PAUSE);
        }
    }
}
