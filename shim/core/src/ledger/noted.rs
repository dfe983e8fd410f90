//! Memory that is noted and otherwise left to the driver.

use super::books::{Kind, Other, Owner};
use super::{LEAST, Ledger};
use rewarm::driver::sys::*;
use std::sync::atomic::Ordering;

impl Ledger {
    /// The driver has allocated `bytes` at `address` for the current context.
    pub(crate) fn note(&self, address: CUdeviceptr, bytes: usize, kind: Kind) {
        let context = Owner(self.current_context());
        let other = Other {
            bytes,
            kind,
            context,
        };
        self.books.write().others.insert(address, other);
    }

    /// The driver has made an ordinary allocation.
    pub(crate) fn note_plain(&self, address: CUdeviceptr, bytes: usize) {
        let kind = if bytes < LEAST {
            Kind::Small
        } else {
            Kind::Plain
        };
        self.note(address, bytes, kind);
    }

    /// The driver has opened memory of another process.
    pub(crate) fn note_imported(&self, address: CUdeviceptr) {
        let (mut base, mut bytes) = (0, 0);
        // SAFETY: out-pointers to locals; without an answer the size is unknown.
        let _ = unsafe { self.memory.address_range(&mut base, &mut bytes, address) };
        self.note(address, bytes, Kind::Imported);
    }

    /// Frees by the driver what is noted at `address`, if anything is. Forgotten
    /// first: another thread may be given the same address.
    pub(crate) fn forget(
        &self,
        address: CUdeviceptr,
        driver: impl FnOnce() -> CUresult,
    ) -> CUresult {
        let forgotten = self.books.write().others.remove(&address);
        let result = driver();
        if let Some(other) = forgotten
            && !result.is_ok()
        {
            self.books.write().others.insert(address, other);
        }
        result
    }

    /// The application asks for a legacy handle of memory at `address`. What the
    /// ledger made has none: from now on the driver makes the allocations.
    pub(crate) fn shared(&self, address: CUdeviceptr, result: CUresult) {
        let is_own = self
            .books
            .read()
            .mapping_at(address)
            .is_some_and(|(_, mapping)| mapping.own.is_some());
        if result.is_ok() || !is_own {
            return;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        if !self.shares.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                address,
                "cuIpcGetMemHandle cannot work on memory that can be frozen; \
                 later allocations of this process cannot be frozen, but shared"
            );
        }
    }

    /// Arrays came or went.
    pub(crate) fn arrays(&self, change: i64) {
        self.books.write().arrays += change;
    }
}
