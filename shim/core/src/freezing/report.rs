//! What the report says of device memory.

use super::Freezing;
use crate::ledger::{Ledger, LedgerReport};
use rewarm::control::{MemoryReport, State};

impl Freezing {
    /// What the process is in the middle of, or has become.
    pub(crate) fn state(&self) -> State {
        self.told.lock().state
    }

    /// Device memory, and what freezing did with it.
    pub(crate) fn report(&self, ledger: &Ledger) -> MemoryReport {
        let LedgerReport {
            leaves,
            discarded_bytes,
            stays,
            ..
        } = ledger.report();
        let mut report = MemoryReport {
            freezable: true,
            movable_bytes: leaves.bytes,
            discarded_bytes,
            ..MemoryReport::default()
        };
        for (kind, tally) in stays {
            let bytes = match kind.is_obstacle() {
                true => &mut report.obstacles,
                false => &mut report.staying,
            };
            *bytes.entry(kind.name().to_owned()).or_default() += tally.bytes;
        }
        let told = self.told.lock();
        report.last_freeze = told.frozen.clone();
        report.last_thaw = told.thawed.clone();
        if let Some((snapshot, since)) = &told.snapshot {
            report.snapshot = Some(snapshot.clone());
            report.frozen_since = Some(*since);
        }
        report
    }
}
