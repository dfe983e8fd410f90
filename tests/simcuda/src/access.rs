//! Which device may touch which memory.

use crate::ffi::Handle;
use crate::memory::{Kind, Region};
use crate::world::World;

/// `CU_MEM_ACCESS_FLAGS_PROT_READ`.
const READ: u32 = 1;
/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`.
const READ_WRITE: u32 = 3;

/// What is done with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// It is only read.
    Read,
    /// It is written.
    Write,
}

/// Who touches memory: a context and its device.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    /// The context.
    pub context: Handle,
    /// The ordinal of its device.
    pub device: usize,
}

/// Which devices may read and write a mapping, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    readers: u64,
    writers: u64,
}

impl Rights {
    /// Replaces a device's rights by `CUmemAccess_flags`.
    pub fn set(&mut self, device: usize, flags: u32) {
        let bit = 1 << device;
        let put = |bits: u64, given: bool| if given { bits | bit } else { bits & !bit };
        self.readers = put(self.readers, flags & READ != 0);
        self.writers = put(self.writers, flags == READ_WRITE);
    }

    /// A device's rights as `CUmemAccess_flags`.
    pub fn of(self, device: usize) -> u32 {
        match (self.readers >> device & 1, self.writers >> device & 1) {
            (_, 1) => READ_WRITE,
            (1, _) => READ,
            _ => 0,
        }
    }

    /// Whether any device may do anything.
    pub fn any(self) -> bool {
        self.readers != 0
    }

    /// Whether a device may do that.
    pub fn allow(self, device: usize, intent: Intent) -> bool {
        match intent {
            Intent::Read => self.of(device) != 0,
            Intent::Write => self.of(device) == READ_WRITE,
        }
    }
}

/// Whether `CUmemAccess_flags` are valid.
pub fn is_valid(flags: u32) -> bool {
    matches!(flags, 0 | READ | READ_WRITE)
}

impl Actor {
    /// Whether a kernel may touch a range, all of which must be known memory.
    pub fn reaches(&self, world: &World, start: u64, bytes: u64, intent: Intent) -> bool {
        let mut at = start;
        let Some(end) = start.checked_add(bytes) else {
            return false;
        };
        while at < end {
            match world.memory.find(at) {
                Some(region) if self.may_touch(world, &region, intent) => at = region.end(),
                _ => return false,
            }
        }
        true
    }

    fn may_touch(&self, world: &World, region: &Region, intent: Intent) -> bool {
        match region.kind {
            Kind::Pinned | Kind::Registered | Kind::Managed => true,
            Kind::Mapped { rights, .. } => rights.allow(self.device, intent),
            Kind::Linear if region.pool != 0 => true,
            Kind::Linear | Kind::Imported => {
                let pair = (self.context, region.context);
                region.device == self.device || world.peers.lock().contains(&pair)
            }
        }
    }
}
