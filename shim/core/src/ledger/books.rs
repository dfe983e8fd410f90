//! What the ledger keeps: physical memory, its mappings, and memory that is only noted.

use rewarm::driver::sys::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

/// A context as a key: compared, never dereferenced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Owner(pub(super) CUcontext);

// SAFETY: a handle, which any thread may pass to the driver.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

/// What physical memory is asked for with, shared between threads.
#[derive(Clone, Copy)]
pub(super) struct Properties(pub(super) CUmemAllocationProp);

// SAFETY: plain values; the one pointer in them is for another operating system.
unsafe impl Send for Properties {}
// SAFETY: as above.
unsafe impl Sync for Properties {}

/// Why physical memory of the application's own making cannot leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stay {
    /// Another process or device may hold it.
    Exported,
    /// It is a part of a multicast object or of an array.
    Bound,
}

/// Physical memory that can be made anew elsewhere.
pub(super) struct Physical {
    /// In bytes, a multiple of the granularity.
    pub(super) size: usize,
    pub(super) properties: Properties,
    pub(super) flags: u64,
    /// The driver's handle while a reference is held by it. The application's
    /// references, however many, are one of the driver's.
    pub(super) handle: Option<CUmemGenericAllocationHandle>,
    /// The application's references; 1 for an allocation of [`Own`].
    pub(super) references: u32,
    /// Where it is mapped.
    pub(super) mappings: BTreeSet<CUdeviceptr>,
    pub(super) stays: Option<Stay>,
    /// Parts that need not survive, sorted and apart.
    pub(super) discarded: Vec<Range<u64>>,
    /// Where its bytes are reached during a freeze.
    pub(super) window: Option<Window>,
    /// Whether its mappings were touched by a freeze.
    pub(super) moved: bool,
}

/// Where the bytes of physical memory are reached during a freeze.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) address: CUdeviceptr,
    /// Addresses of the ledger's own, and whether something is mapped there.
    pub(super) scratch: Option<bool>,
}

impl Physical {
    pub(super) fn new(
        size: usize,
        properties: CUmemAllocationProp,
        flags: u64,
        handle: CUmemGenericAllocationHandle,
    ) -> Physical {
        Physical {
            size,
            properties: Properties(properties),
            flags,
            handle: Some(handle),
            references: 1,
            mappings: BTreeSet::new(),
            stays: None,
            discarded: Vec::new(),
            window: None,
            moved: false,
        }
    }

    pub(super) fn device(&self) -> CUdevice {
        self.properties.0.location.id
    }
}

/// An allocation that the ledger made in the driver's place.
#[derive(Clone, Copy)]
pub(super) struct Own {
    /// Bytes that the application asked for.
    pub(super) bytes: usize,
    pub(super) context: Owner,
    /// What the application set `SYNC_MEMOPS` to.
    pub(super) sync_memops: Option<bool>,
}

/// Physical memory at an address.
pub(super) struct Mapping {
    pub(super) size: usize,
    pub(super) token: u64,
    /// Offset in the physical memory.
    pub(super) offset: usize,
    /// Who may access it, as last set; one entry a location.
    pub(super) access: Vec<CUmemAccessDesc>,
    pub(super) mapped: bool,
    pub(super) own: Option<Own>,
}

impl Mapping {
    /// Whether a device may read it.
    pub(super) fn is_readable_by(&self, device: CUdevice) -> bool {
        self.access.iter().any(|access| {
            access.location == on_device(device) && access.flags != CU_MEM_ACCESS_FLAGS_PROT_NONE
        })
    }
}

/// Memory that stays where it is, or stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Of fewer bytes than the ledger makes allocations of.
    Small,
    /// Made by the driver although large enough.
    Plain,
    /// Of a stream-ordered pool.
    Pool,
    /// Managed.
    Managed,
    /// Of another process.
    Imported,
    /// The application's own physical memory: exported, bound, or not of a device.
    Physical,
}

/// An allocation that is only noted.
#[derive(Clone, Copy)]
pub(super) struct Other {
    pub(super) bytes: usize,
    pub(super) kind: Kind,
    pub(super) context: Owner,
}

/// Physical memory of another process, by the driver's handle.
#[derive(Default)]
pub(super) struct Import {
    pub(super) references: u32,
    pub(super) mappings: BTreeMap<CUdeviceptr, usize>,
}

/// Everything by its key.
#[derive(Default)]
pub(super) struct Books {
    pub(super) physical: BTreeMap<u64, Physical>,
    pub(super) mappings: BTreeMap<CUdeviceptr, Mapping>,
    pub(super) others: BTreeMap<CUdeviceptr, Other>,
    pub(super) imports: HashMap<CUmemGenericAllocationHandle, Import>,
    /// Physical memory that is not moved, by the driver's handle, in bytes.
    pub(super) fixed: HashMap<CUmemGenericAllocationHandle, (usize, u32)>,
    /// Pairs of contexts of which the first may access the second's memory, and
    /// their devices.
    pub(super) peers: HashMap<(Owner, Owner), (CUdevice, CUdevice)>,
    pub(super) arrays: i64,
    tokens: u64,
}

/// What every token begins with. The driver's handles are addresses, which do not.
const TOKEN: u64 = 0xA7C3 << 48;
const TOKEN_MASK: u64 = 0xFFFF << 48;

/// Whether a handle is one that the ledger gave out.
pub(super) fn is_token(handle: CUmemGenericAllocationHandle) -> bool {
    handle & TOKEN_MASK == TOKEN
}

impl Books {
    /// A number that no physical memory ever had, fit to be a handle.
    pub(super) fn new_token(&mut self) -> u64 {
        self.tokens += 1;
        TOKEN | self.tokens
    }

    /// The mapping that an address lies in.
    pub(super) fn mapping_at(&self, address: CUdeviceptr) -> Option<(CUdeviceptr, &Mapping)> {
        let (base, mapping) = self.mappings.range(..=address).next_back()?;
        (address - base < mapping.size as u64).then_some((*base, mapping))
    }

    /// An allocation of the ledger's that begins at `address`.
    pub(super) fn own(&self, address: CUdeviceptr) -> Option<(&Mapping, &Own)> {
        let mapping = self.mappings.get(&address)?;
        Some((mapping, mapping.own.as_ref()?))
    }

    /// Bases of the mappings that begin in a range.
    pub(super) fn bases(&self, address: CUdeviceptr, bytes: usize) -> Vec<CUdeviceptr> {
        let end = address.saturating_add(bytes as u64);
        self.mappings
            .range(address..end)
            .map(|(base, _)| *base)
            .collect()
    }

    /// Bases of the mappings that a range touches.
    pub(super) fn touched(&self, address: CUdeviceptr, bytes: usize) -> Vec<CUdeviceptr> {
        let first = self
            .mapping_at(address)
            .map_or(address, |(base, _mapping)| base);
        let end = address.saturating_add(bytes as u64);
        self.bases(first, (end - first) as usize)
    }

    /// Enters a mapping of physical memory that is known.
    pub(super) fn insert_mapping(&mut self, address: CUdeviceptr, mapping: Mapping) {
        if let Some(physical) = self.physical.get_mut(&mapping.token) {
            physical.mappings.insert(address);
            self.mappings.insert(address, mapping);
        }
    }

    /// Takes a mapping out; its physical memory stays known until [`Books::purge`].
    pub(super) fn remove_mapping(&mut self, address: CUdeviceptr) -> Option<Mapping> {
        let mapping = self.mappings.remove(&address)?;
        if let Some(physical) = self.physical.get_mut(&mapping.token) {
            physical.mappings.remove(&address);
        }
        Some(mapping)
    }

    /// Forgets physical memory that nothing refers to any more.
    pub(super) fn purge(&mut self, token: u64) {
        if self
            .physical
            .get(&token)
            .is_some_and(|physical| physical.references == 0 && physical.mappings.is_empty())
        {
            self.physical.remove(&token);
        }
    }

    /// Devices that may access memory of `device`: itself and its peers.
    pub(super) fn accessors(&self, device: CUdevice) -> Vec<CUdevice> {
        let mut devices: Vec<_> = self
            .peers
            .values()
            .filter(|(_, peer)| *peer == device)
            .map(|(accessor, _)| *accessor)
            .chain([device])
            .collect();
        devices.sort_unstable();
        devices.dedup();
        devices
    }
}

/// A device as a place of memory.
pub(super) fn on_device(device: CUdevice) -> CUmemLocation {
    CUmemLocation {
        kind: CU_MEM_LOCATION_TYPE_DEVICE,
        id: device,
    }
}

/// Reading and writing, or nothing, for a device.
pub(super) fn access(device: CUdevice, flags: c_int) -> CUmemAccessDesc {
    CUmemAccessDesc {
        location: on_device(device),
        flags,
    }
}

/// Notes what was set; a location is in the list once.
pub(super) fn set_access(rights: &mut Vec<CUmemAccessDesc>, set: &[CUmemAccessDesc]) {
    for new in set {
        match rights.iter_mut().find(|old| old.location == new.location) {
            Some(old) => *old = *new,
            None => rights.push(*new),
        }
    }
}
