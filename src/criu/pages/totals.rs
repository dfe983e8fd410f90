//! What was filled so far.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How far a page server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageProgress {
    /// Bytes in place.
    pub copied: u64,
    /// Bytes that the images have for the processes; what they give back before
    /// it is in place never gets there.
    pub total: u64,
    /// Times that a thread waited for a page.
    pub faults: u64,
    /// Pages among them that no image has, which are zero.
    pub zeros: u64,
}

/// What a page server did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PageReport {
    /// In the end.
    pub progress: PageProgress,
    /// From the first process to the last page, in seconds.
    pub seconds: f64,
}

/// The same, being counted.
#[derive(Debug, Default)]
pub(super) struct Totals {
    copied: AtomicU64,
    total: AtomicU64,
    faults: AtomicU64,
    zeros: AtomicU64,
}

impl Totals {
    pub(super) fn add_copied(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_fault(&self) {
        self.faults.fetch_add(1, Relaxed);
    }

    pub(super) fn add_zero(&self) {
        self.zeros.fetch_add(1, Relaxed);
    }

    pub(super) fn progress(&self) -> PageProgress {
        PageProgress {
            copied: self.copied.load(Relaxed),
            total: self.total.load(Relaxed),
            faults: self.faults.load(Relaxed),
            zeros: self.zeros.load(Relaxed),
        }
    }
}
