//! Events.

use crate::capture::Capture;
use crate::codes::{Answer, ERROR_CAPTURED_EVENT, ERROR_INVALID_HANDLE, ERROR_NOT_READY, require};
use crate::ffi::Handle;
use crate::stream::Marker;
use crate::world::World;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// `CU_EVENT_DISABLE_TIMING`.
pub const DISABLE_TIMING: u32 = 2;

/// When a recorded point was passed.
pub type Stamp = Arc<OnceLock<Instant>>;

/// What an event was last recorded as.
#[derive(Clone, Default)]
pub enum Recorded {
    /// Never: complete.
    #[default]
    Never,
    /// In a stream.
    At(Marker, Stamp),
    /// In a stream that was capturing, after that many of its operations.
    Captured(Arc<Capture>, Handle, usize),
}

/// An event.
pub struct Event {
    /// The context that it belongs to.
    pub context: Handle,
    /// Flags of its creation.
    pub flags: u32,
    /// Its last recording.
    pub recorded: Mutex<Recorded>,
}

impl Event {
    /// The point to wait for on the host, if it was ever recorded.
    pub fn host_marker(&self) -> Answer<Option<Marker>> {
        match &*self.recorded.lock() {
            Recorded::Never => Ok(None),
            Recorded::At(marker, _) => Ok(Some(marker.clone())),
            Recorded::Captured(..) => Err(ERROR_CAPTURED_EVENT),
        }
    }

    /// With what work in its context has failed, if it has.
    pub fn check(&self, world: &World) -> Answer {
        let context = world.contexts.find(self.context);
        context.map_or(Ok(()), |context| context.check())
    }

    /// When it was passed; for times between events.
    pub fn time(&self) -> Answer<Instant> {
        require(self.flags & DISABLE_TIMING == 0, ERROR_INVALID_HANDLE)?;
        match &*self.recorded.lock() {
            Recorded::Never => Err(ERROR_INVALID_HANDLE),
            Recorded::At(marker, stamp) => {
                require(marker.is_done(), ERROR_NOT_READY)?;
                stamp.get().copied().ok_or(ERROR_NOT_READY)
            }
            Recorded::Captured(..) => Err(ERROR_CAPTURED_EVENT),
        }
    }
}
