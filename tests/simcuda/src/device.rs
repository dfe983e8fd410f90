//! A simulated device: a piece of host memory with a capacity, and a link to it.

use crate::codes::{Answer, ERROR_OUT_OF_MEMORY};
use crate::context::Context;
use crate::ffi::Handle;
use crate::link::Link;
use crate::machine::{Machine, Turn};
use crate::settings::Settings;
use crate::world::World;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Granularity of physical memory.
pub const PAGE: u64 = 2 << 20;
/// Alignment of linear allocations.
pub const ALIGNMENT: u64 = 512;

/// Free ranges of a space, first fit.
pub struct Arena {
    free: Mutex<BTreeMap<u64, u64>>,
}

impl Arena {
    fn new(start: u64, size: u64) -> Self {
        let free = Mutex::new(BTreeMap::from([(start, size)]));
        Self { free }
    }

    /// Takes a range whose start is a multiple of `alignment`.
    pub fn take(&self, size: u64, alignment: u64) -> Option<u64> {
        let mut free = self.free.lock();
        let fits = |(start, length): (&u64, &u64)| {
            let aligned = start.next_multiple_of(alignment);
            (aligned + size <= start + length).then_some((*start, *length, aligned))
        };
        let (start, length, aligned) = free.iter().find_map(fits)?;
        free.remove(&start);
        if aligned > start {
            free.insert(start, aligned - start);
        }
        if aligned + size < start + length {
            free.insert(aligned + size, start + length - aligned - size);
        }
        Some(aligned)
    }

    /// Gives a range back.
    pub fn give(&self, start: u64, size: u64) {
        let mut free = self.free.lock();
        let (mut start, mut size) = (start, size);
        if let Some((&before, &length)) = free.range(..start).next_back()
            && before + length == start
        {
            free.remove(&before);
            (start, size) = (before, length + size);
        }
        if let Some(length) = free.remove(&(start + size)) {
            size += length;
        }
        free.insert(start, size);
    }
}

/// The primary context of a device.
#[derive(Default)]
pub struct Primary {
    count: u32,
    flags: u32,
    handle: Option<Handle>,
    context: Option<Arc<Context>>,
}

/// A device.
pub struct Device {
    /// Its number.
    pub ordinal: usize,
    /// Its memory in bytes.
    pub capacity: u64,
    /// Bytes in use by this process.
    pub used: AtomicU64,
    /// The file behind all of its memory.
    pub file: i32,
    /// Where the linear part of its memory is mapped.
    pub base: u64,
    /// Linear memory, as offsets in the file.
    pub linear: Arena,
    /// Physical memory for the virtual memory calls, as offsets in the file.
    pub physical: Arena,
    /// The link's direction to the device.
    pub down: Arc<Link>,
    /// The link's direction to the host.
    pub up: Arc<Link>,
    /// The engine that stages pageable memory.
    pub staging: Link,
    machine: Option<Arc<Machine>>,
    primary: Mutex<Primary>,
}

impl Device {
    /// Makes the memory and maps its linear part. Both parts are twice the capacity, as the
    /// capacity is counted and fragments must not get in the way.
    pub fn new(ordinal: usize, settings: &Settings, machine: Option<Arc<Machine>>) -> Option<Self> {
        let part = (settings.memory * 2).next_multiple_of(PAGE).max(PAGE);
        // SAFETY: a constant name; the descriptor is checked below.
        let file = unsafe { libc::memfd_create(c"simcuda".as_ptr(), libc::MFD_CLOEXEC) };
        // SAFETY: plain system calls on an own descriptor; results are checked.
        let base = unsafe {
            if file < 0 || libc::ftruncate(file, (part * 2) as i64) != 0 {
                return None;
            }
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let kind = libc::MAP_SHARED | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), part as usize, access, kind, file, 0)
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        Some(Self {
            ordinal,
            capacity: settings.memory,
            used: AtomicU64::new(0),
            file,
            base: base as u64,
            linear: Arena::new(0, part),
            physical: Arena::new(part, part),
            down: Arc::new(Link::new(settings.link_gbps)),
            up: Arc::new(Link::new(settings.link_gbps)),
            staging: Link::new(settings.pageable_gbps),
            machine,
            primary: Mutex::default(),
        })
    }

    /// Counts memory as used, or says that it is out.
    pub fn charge(&self, bytes: u64) -> Answer {
        let _turn = self.turn()?;
        let free = self.capacity.saturating_sub(self.used_by_others());
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= free);
        let charged = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        self.note();
        charged.map(drop).map_err(|_| ERROR_OUT_OF_MEMORY)
    }

    /// Counts memory as free again.
    pub fn discharge(&self, bytes: u64) {
        let _turn = self.turn();
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.note();
    }

    /// Bytes that nobody uses.
    pub fn free(&self) -> u64 {
        let used = self.used.load(Ordering::Acquire);
        self.capacity
            .saturating_sub(used.saturating_add(self.used_by_others()))
    }

    fn turn(&self) -> Answer<Option<Turn>> {
        let machine = self.machine.as_deref();
        let turn = machine.map(Machine::turn).transpose();
        turn.map_err(|_| ERROR_OUT_OF_MEMORY)
    }

    fn used_by_others(&self) -> u64 {
        let machine = self.machine.as_deref();
        machine.map_or(0, |machine| machine.others(self.ordinal))
    }

    /// Lets others have what this process uses, for as long as it is checkpointed.
    pub fn leave(&self) {
        if let Some(machine) = &self.machine {
            machine.note(self.ordinal, 0);
        }
    }

    /// Takes it again, if there is room.
    pub fn enter_again(&self) -> bool {
        let Ok(_turn) = self.turn() else { return false };
        let used = self.used.load(Ordering::Acquire);
        let fits = used.saturating_add(self.used_by_others()) <= self.capacity;
        if fits {
            self.note();
        }
        fits
    }

    fn note(&self) {
        if let Some(machine) = &self.machine {
            machine.note(self.ordinal, self.used.load(Ordering::Acquire));
        }
    }

    /// Gives the host memory behind a part of the file back; it reads as zero afterwards.
    pub fn punch(&self, offset: u64, bytes: u64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: an own descriptor; whatever the kernel says, nothing of ours breaks.
        unsafe { libc::fallocate(self.file, mode, offset as i64, bytes as i64) };
    }

    /// One more user of the primary context, which is made if there is none.
    pub fn retain_primary(&self, world: &'static World) -> Handle {
        let mut primary = self.primary.lock();
        let handle = *primary.handle.get_or_insert_with(|| world.new_handle());
        primary.count += 1;
        if primary.context.is_none() {
            let flags = primary.flags;
            primary.context = Some(Context::create(world, handle, self.ordinal, flags, true));
        }
        handle
    }

    /// One user less; the last one destroys it.
    pub fn release_primary(&self, world: &'static World) -> Answer {
        let gone = {
            let mut primary = self.primary.lock();
            if primary.count == 0 {
                return Err(crate::codes::ERROR_INVALID_CONTEXT);
            }
            primary.count -= 1;
            if primary.count == 0 {
                primary.context.take()
            } else {
                None
            }
        };
        if let Some(context) = gone {
            context.destroy(world);
        }
        Ok(())
    }

    /// Destroys it whoever uses it. The count stays with nobody.
    pub fn reset_primary(&self, world: &'static World) {
        let gone = {
            let mut primary = self.primary.lock();
            primary.count = 0;
            primary.flags = 0;
            primary.context.take()
        };
        if let Some(context) = gone {
            context.destroy(world);
        }
    }

    /// Flags, and whether it is active.
    pub fn primary_state(&self) -> (u32, bool) {
        let primary = self.primary.lock();
        (primary.flags, primary.context.is_some())
    }

    /// Sets flags, also of an active one.
    pub fn set_primary_flags(&self, flags: u32) {
        let mut primary = self.primary.lock();
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags.store(flags, Ordering::Relaxed);
        }
    }
}
