//! The lanes and counters of each device.

use crate::counters::{Copies, DEVICES, Fills};
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
use rewarm::config::LanePlan;
use rewarm::driver::Driver;
use rewarm::driver::sys::{CUcontext, CUdevice};
use rewarm::lanes::{Direction, LaneSet};
use std::sync::atomic::{AtomicU32, Ordering};

/// Failures in a row, of making lanes or of copying over them, after which a
/// device is left to the driver.
const MOST_FAILURES: u32 = 3;

/// One device of the process.
#[derive(Default)]
pub(crate) struct Device {
    to_device: Copies,
    to_host: Copies,
    fills: Fills,
    lanes: RwLock<Option<LaneSet>>,
    failures: AtomicU32,
}

impl Device {
    /// Counters of one direction.
    pub(crate) fn copies(&self, direction: Direction) -> &Copies {
        match direction {
            Direction::ToDevice => &self.to_device,
            Direction::ToHost => &self.to_host,
        }
    }

    /// Counters of fills.
    pub(crate) fn fills(&self) -> &Fills {
        &self.fills
    }

    /// The device's lanes, made in the current context if there are none.
    /// They stay while the guard lives.
    pub(crate) fn lanes(
        &self,
        driver: &Driver,
        plan: &LanePlan,
    ) -> Option<MappedRwLockReadGuard<'_, LaneSet>> {
        if self.failures.load(Ordering::Relaxed) >= MOST_FAILURES {
            return None;
        }
        loop {
            let lanes = self.lanes.read();
            if lanes.is_some() {
                return RwLockReadGuard::try_map(lanes, Option::as_ref).ok();
            }
            drop(lanes);
            let mut lanes = self.lanes.write();
            if lanes.is_none() {
                match LaneSet::new(*driver, plan) {
                    Ok(made) => *lanes = Some(made),
                    Err(error) => {
                        self.failed();
                        tracing::warn!(%error, "lanes could not be made");
                        return None;
                    }
                }
            }
        }
    }

    /// The device's lanes, if there are any, without waiting for anything: even
    /// from within a copy over them.
    pub(crate) fn lanes_at_once(&self) -> Option<MappedRwLockReadGuard<'_, LaneSet>> {
        let lanes = self.lanes.try_read_recursive()?;
        RwLockReadGuard::try_map(lanes, Option::as_ref).ok()
    }

    /// Lanes failed.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Lanes carried a copy.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Lanes and bytes of pinned memory at the moment.
    pub(crate) fn held(&self) -> (usize, usize) {
        match &*self.lanes.read() {
            Some(lanes) => (lanes.lanes(), lanes.pinned_bytes()),
            None => (0, 0),
        }
    }

    /// Takes the lanes away if they live in `context`.
    fn take_lanes(&self, context: CUcontext) -> Option<LaneSet> {
        self.lanes
            .write()
            .take_if(|lanes| lanes.context() == context)
    }
}

/// All devices of the process, by ordinal.
pub(crate) struct Devices([Device; DEVICES]);

impl Devices {
    pub(crate) fn new() -> Devices {
        Devices(std::array::from_fn(|_| Device::default()))
    }

    /// A device; ordinals beyond the table share its last entry.
    pub(crate) fn get(&self, ordinal: CUdevice) -> &Device {
        &self.0[usize::try_from(ordinal).unwrap_or(0).min(DEVICES - 1)]
    }

    /// Every entry with its ordinal.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Device)> {
        self.0.iter().enumerate()
    }

    /// Takes away every set of lanes that lives in `context`.
    pub(crate) fn take_lanes(&self, context: CUcontext) -> impl Iterator<Item = LaneSet> {
        self.0
            .iter()
            .filter_map(move |device| device.take_lanes(context))
    }
}
