//! The virtual memory calls: reserved addresses, physical allocations, mappings.

use crate::access::Rights;
use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_OUT_OF_MEMORY, require};
use crate::device::{Device, PAGE};
use crate::ffi::Handle;
use crate::memory::{Kind, New, Region};
use crate::shared;
use crate::world::World;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const SHARED: u32 = 1;

/// Where the bytes of a physical allocation are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Backing {
    /// In the device's file.
    Device,
    /// In a file of its own, as it may be shared.
    Own(i32),
    /// In a file of whoever shared it.
    Imported(i32),
}

/// A physical allocation.
#[derive(Clone, Copy, Debug)]
pub struct Physical {
    /// Its device.
    pub device: usize,
    backing: Backing,
    /// Where it lies in its file.
    pub offset: u64,
    /// Its bytes.
    pub size: u64,
    /// Handle types that it may be exported as.
    pub handle_types: u32,
    /// Whether `allocFlags.gpuDirectRDMACapable` was asked for.
    pub rdma: u8,
    /// References by handles.
    references: u32,
    /// References by mappings.
    mappings: u32,
}

impl Physical {
    /// The file that it lies in.
    pub fn file(&self, world: &World) -> i32 {
        match self.backing {
            Backing::Device => world.devices[self.device].file,
            Backing::Own(file) | Backing::Imported(file) => file,
        }
    }

    /// Gives its memory back.
    fn free(&self, world: &World) {
        let device = &world.devices[self.device];
        match self.backing {
            Backing::Device => {
                device.punch(self.offset, self.size);
                device.physical.give(self.offset, self.size);
            }
            Backing::Own(file) | Backing::Imported(file) => shared::close(file),
        }
        // Imported memory counts where it was made.
        if !matches!(self.backing, Backing::Imported(_)) {
            device.discharge(self.size);
        }
    }
}

/// Reserved addresses and physical allocations.
#[derive(Default)]
pub struct Vmm {
    reserved: Mutex<BTreeMap<u64, u64>>,
    physical: Mutex<HashMap<Handle, Physical>>,
}

/// Maps `bytes` of nothing, at an address or anywhere.
fn map_nothing(at: u64, bytes: usize) -> Answer<u64> {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: anywhere, or over a range that this module has reserved.
    let base = unsafe { libc::mmap(at as *mut c_void, bytes, libc::PROT_NONE, kind, -1, 0) };
    require(base != libc::MAP_FAILED, ERROR_OUT_OF_MEMORY)?;
    Ok(base as u64)
}

fn unmap(base: u64, bytes: u64) {
    if bytes > 0 {
        // SAFETY: a part of a reservation that is given up.
        unsafe { libc::munmap(base as *mut c_void, bytes as usize) };
    }
}

impl Vmm {
    /// Reserves addresses; a wish for a place is only a wish, and not granted.
    pub fn reserve(&self, size: usize, alignment: usize) -> Answer<u64> {
        require(
            size > 0 && (size as u64).is_multiple_of(PAGE),
            ERROR_INVALID_VALUE,
        )?;
        require(
            alignment == 0 || alignment.is_power_of_two(),
            ERROR_INVALID_VALUE,
        )?;
        let alignment = (alignment as u64).max(PAGE);
        let room = (size as u64)
            .checked_add(alignment)
            .ok_or(ERROR_OUT_OF_MEMORY)?;
        let start = map_nothing(0, room as usize)?;
        let base = start.next_multiple_of(alignment);
        unmap(start, base - start);
        unmap(base + size as u64, start + room - base - size as u64);
        self.reserved.lock().insert(base, size as u64);
        Ok(base)
    }

    /// Gives reserved addresses back; nothing may be mapped there.
    pub fn free(&self, world: &World, base: u64, size: usize) -> Answer {
        let mut reserved = self.reserved.lock();
        require(
            reserved.get(&base) == Some(&(size as u64)),
            ERROR_INVALID_VALUE,
        )?;
        require(
            world.memory.within(base, size as u64).is_empty(),
            ERROR_INVALID_VALUE,
        )?;
        reserved.remove(&base);
        unmap(base, size as u64);
        Ok(())
    }

    /// Makes a physical allocation, which reads as zero.
    pub fn create(
        &self,
        world: &World,
        size: usize,
        device: &Device,
        handle_types: u32,
        rdma: u8,
    ) -> Answer<Handle> {
        require(
            size > 0 && (size as u64).is_multiple_of(PAGE),
            ERROR_INVALID_VALUE,
        )?;
        let size = size as u64;
        device.charge(size)?;
        let is_shared = handle_types & SHARED != 0;
        let place = if is_shared {
            shared::create(device.ordinal, size).map(|file| (Backing::Own(file), 0))
        } else {
            let offset = device.physical.take(size, PAGE);
            offset
                .map(|offset| (Backing::Device, offset))
                .ok_or(ERROR_OUT_OF_MEMORY)
        };
        let (backing, offset) = place.inspect_err(|_| device.discharge(size))?;
        Ok(self.add(
            world,
            Physical {
                device: device.ordinal,
                backing,
                offset,
                size,
                handle_types,
                rdma,
                references: 1,
                mappings: 0,
            },
        ))
    }

    fn add(&self, world: &World, physical: Physical) -> Handle {
        let handle = world.new_handle();
        self.physical.lock().insert(handle, physical);
        handle
    }

    /// A descriptor for an allocation that may be shared.
    pub fn export(&self, handle: Handle) -> Answer<i32> {
        match self.get(handle)?.backing {
            Backing::Own(file) | Backing::Imported(file) => shared::duplicate(file),
            Backing::Device => Err(ERROR_INVALID_VALUE),
        }
    }

    /// The allocation of a descriptor, whoever made it.
    pub fn import(&self, world: &World, file: i32) -> Answer<Handle> {
        let (device, size) = shared::identify(file)?;
        require(device < world.devices.len(), ERROR_INVALID_VALUE)?;
        let backing = Backing::Imported(shared::duplicate(file)?);
        Ok(self.add(
            world,
            Physical {
                device,
                backing,
                offset: 0,
                size,
                handle_types: SHARED,
                rdma: 0,
                references: 1,
                mappings: 0,
            },
        ))
    }

    /// An allocation.
    pub fn get(&self, handle: Handle) -> Answer<Physical> {
        self.physical
            .lock()
            .get(&handle)
            .copied()
            .ok_or(ERROR_INVALID_VALUE)
    }

    /// All allocations.
    pub fn all(&self) -> Vec<Physical> {
        self.physical.lock().values().copied().collect()
    }

    /// Whether a mapped region's allocation can be exported as a file descriptor.
    pub fn is_exportable(&self, region: &Region) -> bool {
        match region.kind {
            Kind::Mapped { allocation, .. } => self
                .get(allocation)
                .is_ok_and(|physical| physical.handle_types & SHARED != 0),
            _ => false,
        }
    }

    /// One more handle reference to the allocation that is mapped at an address.
    pub fn retain(&self, world: &World, address: u64) -> Answer<Handle> {
        let region = world.memory.find(address).ok_or(ERROR_INVALID_VALUE)?;
        let Kind::Mapped { allocation, .. } = region.kind else {
            return Err(ERROR_INVALID_VALUE);
        };
        self.update(world, allocation, |physical| physical.references += 1)?;
        Ok(allocation)
    }

    /// One handle reference less.
    pub fn release(&self, world: &World, handle: Handle) -> Answer {
        require(self.get(handle)?.references > 0, ERROR_INVALID_VALUE)?;
        self.update(world, handle, |physical| physical.references -= 1)
    }

    /// Changes an allocation, and frees it when nothing refers to it any more.
    fn update(&self, world: &World, handle: Handle, change: impl FnOnce(&mut Physical)) -> Answer {
        let mut all = self.physical.lock();
        let physical = all.get_mut(&handle).ok_or(ERROR_INVALID_VALUE)?;
        change(physical);
        if physical.references == 0 && physical.mappings == 0 {
            physical.free(world);
            all.remove(&handle);
        }
        Ok(())
    }

    /// Maps a part of an allocation at reserved addresses; it is not accessible yet.
    pub fn map(
        &self,
        world: &World,
        base: u64,
        size: usize,
        offset: usize,
        handle: Handle,
    ) -> Answer {
        let physical = self.get(handle)?;
        require(physical.references > 0, ERROR_INVALID_VALUE)?;
        let pages = [base, size as u64, offset as u64]
            .iter()
            .all(|value| value.is_multiple_of(PAGE));
        require(size > 0 && pages, ERROR_INVALID_VALUE)?;
        let end = (offset as u64)
            .checked_add(size as u64)
            .ok_or(ERROR_INVALID_VALUE)?;
        require(end <= physical.size, ERROR_INVALID_VALUE)?;
        require(self.contains(base, size as u64), ERROR_INVALID_VALUE)?;
        require(
            world.memory.within(base, size as u64).is_empty(),
            ERROR_INVALID_VALUE,
        )?;
        self.update(world, handle, |physical| physical.mappings += 1)?;
        let kind = Kind::Mapped {
            rights: Rights::default(),
            allocation: handle,
            offset: offset as u64,
        };
        let new = New {
            kind,
            context: 0,
            device: physical.device,
            flags: 0,
            pool: 0,
        };
        world.memory.add(base, size as u64, new);
        Ok(())
    }

    fn contains(&self, base: u64, size: u64) -> bool {
        let reserved = self.reserved.lock();
        let range = reserved.range(..=base).next_back();
        range.is_some_and(|(start, length)| {
            base.checked_add(size)
                .is_some_and(|end| end <= start + length)
        })
    }

    /// Unmaps whole mappings.
    pub fn unmap(&self, world: &World, base: u64, size: usize) -> Answer {
        let regions = covered(world, base, size as u64)?;
        for region in regions {
            let Kind::Mapped { allocation, .. } = region.kind else {
                continue;
            };
            world.memory.remove(region.base, |_| true);
            map_nothing(region.base, region.size as usize)?;
            self.update(world, allocation, |physical| physical.mappings -= 1)?;
        }
        Ok(())
    }

    /// Gives devices access to whole mappings, or takes it: pairs of device and flags.
    pub fn set_access(
        &self,
        world: &World,
        base: u64,
        size: usize,
        accesses: &[(usize, u32)],
    ) -> Answer {
        for region in covered(world, base, size as u64)? {
            let Kind::Mapped {
                mut rights,
                allocation,
                offset,
            } = region.kind
            else {
                continue;
            };
            for (device, flags) in accesses {
                rights.set(*device, *flags);
            }
            if rights.any() {
                self.show(world, &region, allocation, offset)?;
            } else {
                map_nothing(region.base, region.size as usize)?;
            }
            world.memory.change(region.base, |region| {
                region.kind = Kind::Mapped {
                    rights,
                    allocation,
                    offset,
                };
            });
        }
        Ok(())
    }

    /// Puts an allocation's memory at the addresses of a mapping.
    fn show(&self, world: &World, region: &Region, allocation: Handle, offset: u64) -> Answer {
        let physical = self.get(allocation)?;
        let file = physical.file(world);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let at = region.base as *mut c_void;
        let from = (physical.offset + offset) as i64;
        // SAFETY: the addresses are reserved by this module and mapped by the application.
        let result = unsafe { libc::mmap(at, region.size as usize, access, kind, file, from) };
        require(result != libc::MAP_FAILED, ERROR_OUT_OF_MEMORY)
    }
}

/// The mappings of a range that they must fill exactly.
fn covered(world: &World, base: u64, size: u64) -> Answer<Vec<Region>> {
    require(
        size > 0 && base.checked_add(size).is_some(),
        ERROR_INVALID_VALUE,
    )?;
    let regions = world.memory.within(base, size);
    let mut at = base;
    for region in &regions {
        let is_next = region.base == at && matches!(region.kind, Kind::Mapped { .. });
        require(is_next, ERROR_INVALID_VALUE)?;
        at = region.end();
    }
    require(at == base + size, ERROR_INVALID_VALUE)?;
    Ok(regions)
}
