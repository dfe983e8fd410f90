//! The way out: chunks are looked at on the GPU, what has to be stored crosses the
//! link, and the snapshot is brought to safety.

use super::devices::devices_of;
use super::outgoing::{Leaving, Outgoing, Sums, allocation};
use super::{FreezeError, Freezer, at};
use crate::gate::{self, GateError};
use rewarm::config::LanePlan;
use rewarm::control::{Phase, Progress};
use rewarm::digest::Span;
use rewarm::driver;
use rewarm::driver::sys::CUdevice;
use rewarm::lanes::{LaneSet, Part, Take};
use rewarm::snapshot::{self, CHUNK_BYTES, Contents, Snapshot, Writer};
use std::sync::Arc;
use std::time::Instant;

/// What was found out on the way out, and how long it took.
pub(super) struct TakenOut {
    /// Tells the snapshot from every other.
    pub(super) id: u128,
    /// When it was written, in seconds since 1970.
    pub(super) created: u64,
    pub(super) sums: Sums,
    pub(super) scanned_by: &'static str,
    pub(super) scan_seconds: f64,
    pub(super) store_seconds: f64,
    pub(super) commit_seconds: f64,
}

impl Freezer<'_> {
    /// Brings all chunks into a snapshot, over these lanes of each device.
    pub(super) fn take_out(
        &self,
        writer: Writer,
        leaving: &[Leaving],
        plan: &LanePlan,
    ) -> Result<TakenOut, FreezeError> {
        let devices = devices_of(leaving.iter().map(|one| &one.block));
        let outgoing = Outgoing::new(writer, plan.lanes, &devices, leaving);
        let outgoing = Arc::new(outgoing.map_err(FreezeError::Room)?);

        self.reporter.progress(at(Phase::Scanning));
        let scanning = Instant::now();
        let scanned = self.on_devices(&devices, |device| Ok(self.scan(device, &outgoing)))?;
        let scan_seconds = scanning.elapsed().as_secs_f64();

        let storing = Instant::now();
        self.on_devices(&devices, |device| self.unload(device, &outgoing, plan))?;
        let store_seconds = storing.elapsed().as_secs_f64();

        self.reporter.progress(at(Phase::Committing));
        let committing = Instant::now();
        let sums = outgoing.sums();
        let snapshot = self.commit(outgoing, leaving, &devices)?;
        Ok(TakenOut {
            id: snapshot.manifest().id,
            created: snapshot.manifest().created,
            sums,
            scanned_by: if scanned.iter().all(|by_gpu| *by_gpu) {
                "gpu"
            } else {
                "cpu"
            },
            scan_seconds,
            store_seconds,
            commit_seconds: committing.elapsed().as_secs_f64(),
        })
    }

    /// Has the GPU look at the chunks of a device, whose context is current. False if
    /// it cannot: then they are looked at when they are here.
    fn scan(&self, device: CUdevice, outgoing: &Outgoing) -> bool {
        let numbers = outgoing.unknown(device);
        let spans: Vec<_> = numbers
            .iter()
            .map(|number| {
                let piece = outgoing.piece(*number);
                Span {
                    device: piece.address,
                    bytes: piece.bytes,
                }
            })
            .collect();
        self.digests_by_gpu(self.gpu_digests(), &spans, &mut |number, digest| {
            outgoing.scanned(numbers[number], digest);
        })
    }

    /// Brings what is left of a device's chunks over the lanes. The device's context
    /// is current.
    fn unload(
        &self,
        device: CUdevice,
        outgoing: &Arc<Outgoing>,
        plan: &LanePlan,
    ) -> Result<(), FreezeError> {
        let numbers = outgoing.unknown(device);
        let parts = numbers.iter().map(|number| {
            let piece = outgoing.piece(*number);
            Part {
                device: piece.address,
                bytes: piece.bytes as usize,
            }
        });
        let parts: Vec<_> = parts.collect();
        let total = outgoing.bytes();
        let (taker, reporter) = (outgoing.clone(), self.reporter.clone());
        let take: Arc<Take> = Arc::new(move |brought| {
            if gate::is_exiting() {
                return Err(GateError::Exiting.into());
            }
            let number = numbers[brought.part];
            taker.take(brought.lane, number, brought.offset, brought.bytes)?;
            reporter.progress(Progress {
                phase: Phase::Storing,
                done: taker.done(),
                total,
            });
            Ok(())
        });
        let lanes = LaneSet::new(self.process.driver, plan)?;
        // SAFETY: all memory is there, and no work is under way.
        let unloaded = unsafe { lanes.unload(parts, take) };
        lanes.release();
        Ok(unloaded?)
    }

    fn commit(
        &self,
        outgoing: Arc<Outgoing>,
        leaving: &[Leaving],
        devices: &[CUdevice],
    ) -> Result<Snapshot, FreezeError> {
        // The lanes are gone, so nobody else has a part in it.
        let (writer, chunks) = Arc::into_inner(outgoing)
            .and_then(Outgoing::finish)
            .ok_or(FreezeError::Incomplete)?;
        let devices: driver::Result<_> = devices.iter().map(|one| self.describe(*one)).collect();
        Ok(writer.commit(Contents {
            process: snapshot::Process::current().map_err(FreezeError::Identity)?,
            driver_version: self.driver_version()?,
            devices: devices?,
            chunk_bytes: CHUNK_BYTES,
            allocations: leaving.iter().map(allocation).collect(),
            chunks,
        })?)
    }
}
