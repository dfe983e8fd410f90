//! Thawing: the memory is made again at the same addresses, and filled from the
//! snapshot.

use super::devices::devices_of;
use super::incoming::{Brought, Incoming};
use super::{FreezeError, Freezer, Frozen, State, at};
use crate::gate::{self, GateError};
use rewarm::control::{self, Phase, Thaw, ThawReport};
use rewarm::driver::sys::CUresult;
use rewarm::snapshot::Snapshot;
use std::thread;
use std::time::{Duration, Instant};

/// Between two tries to get memory.
const PAUSE: Duration = Duration::from_millis(50);

impl Freezer<'_> {
    /// Brings the device memory back and lets the process go on.
    pub(super) fn thaw(&self, request: &Thaw) -> Result<ThawReport, FreezeError> {
        let mut state = self.freezing.turn()?;
        let State::Frozen(frozen) = &*state else {
            return Err(FreezeError::NotFrozen);
        };
        if gate::is_exiting() {
            return Err(GateError::Exiting.into());
        }
        let mut under_way = self.freezing.under_way(control::State::Thawing);
        let begun = Instant::now();
        let snapshot = self.open_snapshot(frozen, request)?;
        let waiting = Instant::now();
        let map_seconds = self.make_memory(request)?;
        let wait_seconds = waiting.elapsed().as_secs_f64() - map_seconds;
        let filled = self
            .fill(&snapshot, request)
            // The snapshot has it all, so the memory can go again.
            .inspect_err(|_| self.release())?;
        let mut report = ThawReport {
            snapshot: snapshot.path().to_owned(),
            wait_seconds,
            map_seconds,
            ..filled
        };
        let was_prepared = frozen.was_prepared;
        *state = State::Running; // The gate opens.
        report.seconds = begun.elapsed().as_secs_f64() - wait_seconds;
        report.kept = request.keep_snapshot || !is_removed(&snapshot, was_prepared);
        self.let_go(snapshot);
        under_way.then = control::State::Active;
        let mut told = self.freezing.told.lock();
        told.thawed = Some(report.clone());
        told.snapshot = None;
        drop(told);
        Ok(report)
    }

    /// The snapshot of the freeze, if it is that.
    fn open_snapshot(&self, frozen: &Frozen, request: &Thaw) -> Result<Snapshot, FreezeError> {
        let path = request.from.as_ref().unwrap_or(&frozen.snapshot);
        let snapshot = Snapshot::open(path)?;
        let manifest = snapshot.manifest();
        let foreign = |what| {
            Err(FreezeError::Foreign {
                path: path.clone(),
                what,
            })
        };
        if manifest.id != frozen.id {
            return foreign("it is another snapshot");
        }
        if manifest.driver_version != self.driver_version()? {
            return foreign("it is of another driver version");
        }
        for then in &manifest.devices {
            // After a restore it may well be another one of the same kind.
            let now = self.describe(then.ordinal as i32)?;
            if (&then.name, then.bytes) != (&now.name, now.bytes) {
                return foreign("it is of another kind of GPU");
            }
        }
        Ok(snapshot)
    }

    /// Makes the physical memory again, as soon as there is enough; seconds that it
    /// took when there was.
    fn make_memory(&self, request: &Thaw) -> Result<f64, FreezeError> {
        let asked = Instant::now();
        loop {
            let begun = Instant::now();
            match self.ledger.restore() {
                Ok(()) => return Ok(begun.elapsed().as_secs_f64()),
                Err(error) if error.code == CUresult::OUT_OF_MEMORY => {}
                Err(error) => return Err(error.into()),
            }
            if gate::is_exiting() {
                return Err(GateError::Exiting.into());
            }
            let is_over = asked.elapsed().as_secs_f64() >= request.wait_seconds;
            if is_over || self.reporter.is_abandoned() {
                return Err(self.what_is_missing());
            }
            self.reporter.progress(at(Phase::Waiting));
            thread::sleep(PAUSE);
        }
    }

    /// Which device has too little memory, and how little.
    fn what_is_missing(&self) -> FreezeError {
        let mut worst = (0, 0, 0);
        for (device, context) in self.contexts_by_device() {
            let (mut free, mut total) = (0, 0);
            self.process.with_context(context, || {
                // SAFETY: out-pointers to locals.
                let _ = unsafe { self.freezing.memory.info(&mut free, &mut total) };
            });
            let needed = self.ledger.bytes_of(device);
            if needed.saturating_sub(free as u64) >= worst.2 - worst.1 {
                worst = (device, free as u64, needed.max(free as u64));
            }
        }
        let (device, free, needed) = worst;
        FreezeError::NoMemory {
            device,
            free,
            needed,
        }
    }

    /// Brings the bytes back, and makes sure that they are right.
    fn fill(&self, snapshot: &Snapshot, request: &Thaw) -> Result<ThawReport, FreezeError> {
        let blocks = self.ledger.open()?;
        let incoming = Incoming::new(snapshot, &blocks, request.order)?;
        let brought = self.on_devices(&devices_of(&blocks), |device| {
            self.bring_back(device, &incoming, request.verify)
        })?;
        self.ledger.settle()?;
        let longest = |seconds: fn(&Brought) -> f64| brought.iter().map(seconds).fold(0., f64::max);
        let is_by = |what| brought.iter().any(|one| one.verified_by == what);
        let verified_by = match request.verify {
            false => "no",
            true if is_by("cpu") => "cpu",
            true => "gpu",
        };
        Ok(ThawReport {
            allocations: blocks.len(),
            bytes: blocks.iter().map(|block| block.bytes).sum(),
            loaded_bytes: incoming.stored_bytes(),
            verified_by: verified_by.to_owned(),
            load_seconds: longest(|one| one.load_seconds),
            verify_seconds: longest(|one| one.verify_seconds),
            ..ThawReport::default()
        })
    }

    /// Unmaps a snapshot, and gives back what was removed. That takes a while, and
    /// nobody waits for it but the next freeze.
    fn let_go(&self, snapshot: Snapshot) {
        let builder = thread::Builder::new().name("rewarm-clean".into());
        *self.freezing.cleaning.lock() = builder.spawn(move || drop(snapshot)).ok();
    }
}

/// Removes a snapshot that nobody needs any more, or leaves its files as room for
/// the next. False if it is still there: that is no reason to fail a thaw.
fn is_removed(snapshot: &Snapshot, as_room: bool) -> bool {
    let removed = if as_room {
        snapshot.recycle()
    } else {
        snapshot.remove()
    };
    removed
        .inspect_err(|error| tracing::warn!(%error, "the snapshot was not removed"))
        .is_ok()
}
