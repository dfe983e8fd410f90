//! Peer access: the driver's own allocations have it by context, mapped memory by
//! device.

use super::Ledger;
use super::books::{Owner, access, set_access};
use rewarm::driver::sys::*;

impl Ledger {
    /// The current context may access the memory of another from now on.
    pub(crate) fn peer_enabled(&self, peer: CUcontext) {
        let Some((pair, devices)) = self.pair(peer) else {
            return;
        };
        self.books.write().peers.insert(pair, devices);
        self.regulate(devices.0, devices.1, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    }

    /// The current context may no longer access the memory of another.
    pub(crate) fn peer_disabled(&self, peer: CUcontext) {
        let Some((pair, devices)) = self.pair(peer) else {
            return;
        };
        let still = {
            let mut books = self.books.write();
            books.peers.remove(&pair);
            books.accessors(devices.1).contains(&devices.0)
        };
        if !still {
            self.regulate(devices.0, devices.1, CU_MEM_ACCESS_FLAGS_PROT_NONE);
        }
    }

    /// The current context and another, with their devices.
    fn pair(&self, peer: CUcontext) -> Option<((Owner, Owner), (CUdevice, CUdevice))> {
        let device_of = |context| {
            let mut device = 0;
            self.inside(context, || {
                // SAFETY: an out-pointer to a local.
                unsafe { self.driver.current_device(&mut device) }
            })
            .ok()?;
            Some(device)
        };
        let current = self.current_context();
        let devices = (device_of(current)?, device_of(peer)?);
        Some(((Owner(current), Owner(peer)), devices))
    }

    /// Changes a device's access to all of the ledger's allocations on another.
    fn regulate(&self, accessor: CUdevice, device: CUdevice, flags: c_int) {
        let right = access(accessor, flags);
        let allocations: Vec<_> = {
            let books = self.books.read();
            books
                .mappings
                .iter()
                .filter(|(_, mapping)| {
                    mapping.own.is_some()
                        && books
                            .physical
                            .get(&mapping.token)
                            .is_some_and(|physical| physical.device() == device)
                })
                .map(|(base, mapping)| {
                    let mut rights = mapping.access.clone();
                    set_access(&mut rights, &[right]);
                    (*base, mapping.size, mapping.token, rights)
                })
                .collect()
        };
        for (address, size, token, rights) in allocations {
            // SAFETY: a mapping; one that was freed meanwhile is refused.
            let set = unsafe {
                self.memory
                    .set_access(address, size, rights.as_ptr(), rights.len())
            };
            let mut books = self.books.write();
            let entry = books.mappings.get_mut(&address);
            match (set, entry.filter(|mapping| mapping.token == token)) {
                (Ok(()), Some(mapping)) => set_access(&mut mapping.access, &[right]),
                (Err(error), Some(_)) => {
                    tracing::warn!(%error, address, size, accessor, "peer access was not changed");
                }
                (_, None) => {}
            }
        }
    }
}
