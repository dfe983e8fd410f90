//! All memory that the driver knows: device, pinned, registered, managed, mapped.

use crate::access::{Intent, Rights};
use crate::codes::{
    Answer, ERROR_HOST_MEMORY_ALREADY_REGISTERED, ERROR_HOST_MEMORY_NOT_REGISTERED,
    ERROR_INVALID_VALUE, ERROR_OUT_OF_MEMORY, require,
};
use crate::device::{ALIGNMENT, PAGE};
use crate::ffi::Handle;
use crate::world::World;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

/// Granularity of the host's mappings.
const HOST_PAGE: u64 = 4096;

/// What a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of `cuMemAlloc` and its like.
    Linear,
    /// Of `cuMemMap`; of use once access was given.
    Mapped {
        /// Who may do what.
        rights: Rights,
        /// The physical allocation.
        allocation: Handle,
        /// The offset in it.
        offset: u64,
    },
    /// Of `cuMemHostAlloc`.
    Pinned,
    /// Of `cuMemHostRegister`.
    Registered,
    /// Of `cuMemAllocManaged`.
    Managed,
    /// Of another process (`cuIpcOpenMemHandle`).
    Imported,
}

/// A region of memory that the driver knows.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Its first byte.
    pub base: u64,
    /// Its bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
    /// The context that it belongs to; 0 for none.
    pub context: Handle,
    /// The ordinal of its device.
    pub device: usize,
    /// A number that no other allocation ever had.
    pub id: u64,
    /// Flags of its allocation.
    pub flags: u32,
    /// What `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS` was set to.
    pub sync_memops: bool,
    /// The pool that it came from; 0 for none.
    pub pool: Handle,
}

impl Region {
    /// One past its last byte.
    pub fn end(&self) -> u64 {
        self.base + self.size
    }
}

/// What a copy sees at one of its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Memory of a device.
    Device(usize),
    /// Host memory that the driver knows.
    Pinned,
    /// Managed memory.
    Managed,
    /// Everything else.
    Pageable,
}

/// All regions by their first byte.
#[derive(Default)]
pub struct Memory {
    regions: RwLock<BTreeMap<u64, Region>>,
    next_id: AtomicU64,
}

/// What a new region needs to be told.
pub struct New {
    /// What it is.
    pub kind: Kind,
    /// Its context.
    pub context: Handle,
    /// Its device.
    pub device: usize,
    /// Flags.
    pub flags: u32,
    /// Its pool.
    pub pool: Handle,
}

impl Memory {
    /// The region that contains an address.
    pub fn find(&self, address: u64) -> Option<Region> {
        let regions = self.regions.read();
        let (_, region) = regions.range(..=address).next_back()?;
        (address < region.end()).then_some(*region)
    }

    /// Makes a region known.
    pub fn add(&self, base: u64, size: u64, new: New) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let New {
            kind,
            context,
            device,
            flags,
            pool,
        } = new;
        let region = Region {
            base,
            size,
            kind,
            context,
            device,
            id,
            flags,
            sync_memops: false,
            pool,
        };
        self.regions.write().insert(base, region);
    }

    /// Forgets the region that starts at `base` if `is_it` says so.
    pub fn remove(&self, base: u64, is_it: impl FnOnce(&Region) -> bool) -> Option<Region> {
        let mut regions = self.regions.write();
        regions
            .get(&base)
            .is_some_and(is_it)
            .then(|| regions.remove(&base))
            .flatten()
    }

    /// Changes the region that starts at `base`.
    pub fn change(&self, base: u64, change: impl FnOnce(&mut Region)) {
        if let Some(region) = self.regions.write().get_mut(&base) {
            change(region);
        }
    }

    /// The regions that touch a range.
    pub fn within(&self, start: u64, size: u64) -> Vec<Region> {
        let regions = self.regions.read();
        let first = regions
            .range(..start)
            .next_back()
            .filter(|(_, region)| region.end() > start);
        let others = regions.range(start..start + size);
        first
            .into_iter()
            .chain(others)
            .map(|(_, region)| *region)
            .collect()
    }

    /// Every region.
    pub fn all(&self) -> Vec<Region> {
        self.regions.read().values().copied().collect()
    }

    /// What lies at a range that a device reads or writes; an allocation that it leaves is an
    /// invalid value, and so is a mapping to which the device has no such access.
    pub fn side(&self, address: u64, bytes: usize, device: usize, intent: Intent) -> Answer<Side> {
        let Some(region) = self.find(address) else {
            return Ok(Side::Pageable);
        };
        let end = address
            .checked_add(bytes as u64)
            .ok_or(ERROR_INVALID_VALUE)?;
        let side = match region.kind {
            Kind::Linear | Kind::Imported => Side::Device(region.device),
            Kind::Pinned | Kind::Registered => Side::Pinned,
            Kind::Managed => Side::Managed,
            Kind::Mapped { .. } => {
                self.check_mapped(address, end, device, intent)?;
                return Ok(Side::Device(region.device));
            }
        };
        require(end <= region.end(), ERROR_INVALID_VALUE)?;
        Ok(side)
    }

    /// Mapped memory may be copied across the borders of its mappings.
    fn check_mapped(&self, start: u64, end: u64, device: usize, intent: Intent) -> Answer {
        let mut at = start;
        while at < end {
            let region = self.find(at).ok_or(ERROR_INVALID_VALUE)?;
            let allowed = match region.kind {
                Kind::Mapped { rights, .. } => rights.allow(device, intent),
                _ => false,
            };
            require(allowed, ERROR_INVALID_VALUE)?;
            at = region.end();
        }
        Ok(())
    }

    /// Allocates device memory.
    pub fn allocate_device(&self, world: &World, size: usize, new: New) -> Answer<u64> {
        require(size > 0, ERROR_INVALID_VALUE)?;
        let device = &world.devices[new.device];
        require(size as u64 <= device.capacity, ERROR_OUT_OF_MEMORY)?;
        let room = (size as u64).next_multiple_of(ALIGNMENT);
        device.charge(room)?;
        let alignment = if room >= PAGE / 2 { PAGE } else { ALIGNMENT };
        let Some(offset) = device.linear.take(room, alignment) else {
            device.discharge(room);
            return Err(ERROR_OUT_OF_MEMORY);
        };
        let base = device.base + offset;
        if world.settings.poison {
            // SAFETY: the range was free in the arena and lies in the device's mapping.
            unsafe { std::ptr::write_bytes(base as *mut u8, 0xCD, size) };
        }
        self.add(base, size as u64, new);
        Ok(base)
    }

    /// Frees device or managed memory that starts at `base`.
    pub fn free_device(&self, world: &World, base: u64) -> Answer {
        let of_calls = |region: &Region| matches!(region.kind, Kind::Linear | Kind::Managed);
        let region = self.remove(base, of_calls).ok_or(ERROR_INVALID_VALUE)?;
        match region.kind {
            Kind::Managed => unmap(region.base, region.size),
            _ => free_linear(world, &region),
        }
        Ok(())
    }

    /// Allocates host memory and makes it known.
    pub fn allocate_host(&self, size: usize, new: New) -> Answer<u64> {
        require(size > 0, ERROR_INVALID_VALUE)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping, checked below.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
        require(base != libc::MAP_FAILED, ERROR_OUT_OF_MEMORY)?;
        self.add(base as u64, size as u64, new);
        Ok(base as u64)
    }

    /// Frees memory of `cuMemHostAlloc`.
    pub fn free_host(&self, base: u64) -> Answer {
        let region = self
            .remove(base, |region| region.kind == Kind::Pinned)
            .ok_or(ERROR_INVALID_VALUE)?;
        unmap(region.base, region.size);
        Ok(())
    }

    /// Registers host memory of the application.
    pub fn register(&self, base: u64, size: usize, new: New) -> Answer {
        require(
            base != 0 && size > 0 && base.checked_add(size as u64).is_some(),
            ERROR_INVALID_VALUE,
        )?;
        require(
            self.within(base, size as u64).is_empty(),
            ERROR_HOST_MEMORY_ALREADY_REGISTERED,
        )?;
        require(is_mapped(base, size), ERROR_INVALID_VALUE)?;
        self.add(base, size as u64, new);
        Ok(())
    }

    /// Forgets registered memory.
    pub fn unregister(&self, base: u64) -> Answer {
        let removed = self.remove(base, |region| region.kind == Kind::Registered);
        removed.map(drop).ok_or(ERROR_HOST_MEMORY_NOT_REGISTERED)
    }

    /// Frees what a context that ends owns. Mapped memory belongs to no context.
    pub fn free_all_of(&self, world: &World, context: Handle) {
        for region in self.all().iter().filter(|region| region.context == context) {
            match region.kind {
                Kind::Linear | Kind::Managed => drop(self.free_device(world, region.base)),
                Kind::Pinned => drop(self.free_host(region.base)),
                Kind::Registered => drop(self.unregister(region.base)),
                Kind::Imported => {
                    self.remove(region.base, |_| true);
                    unmap_imported(region);
                }
                Kind::Mapped { .. } => {}
            }
        }
    }
}

fn free_linear(world: &World, region: &Region) {
    let device = &world.devices[region.device];
    let room = region.size.next_multiple_of(ALIGNMENT);
    let offset = region.base - device.base;
    // Small pieces share host pages with their neighbours and cost more to return than they hold.
    if room >= 64 * 1024 {
        device.punch(offset, room);
    }
    device.linear.give(offset, room);
    device.discharge(room);
}

fn unmap(base: u64, size: u64) {
    // SAFETY: the range is a mapping that the driver made for one region, which is gone.
    unsafe { libc::munmap(base as *mut c_void, size as usize) };
}

/// Gives up the mapping of memory of another process.
pub fn unmap_imported(region: &Region) {
    let before = region.base % HOST_PAGE;
    unmap(region.base - before, region.size + before);
}

/// Whether every page of a range is mapped.
fn is_mapped(base: u64, size: usize) -> bool {
    let start = base & !(HOST_PAGE - 1);
    let end = (base + size as u64).next_multiple_of(HOST_PAGE);
    // msync with MS_ASYNC does nothing but look at the mappings, and takes no memory for it.
    // SAFETY: the kernel only looks the range up.
    let result =
        unsafe { libc::msync(start as *mut c_void, (end - start) as usize, libc::MS_ASYNC) };
    result == 0
}
