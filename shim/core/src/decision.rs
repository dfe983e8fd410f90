//! Whether a linear copy is fanned out, and the fan-out itself.

use crate::process::{self, Process};
use crate::{counters, devices::Device};
use rewarm::control::Bypass;
use rewarm::driver::sys::*;
use rewarm::lanes::{Direction, LaneError, Outcome, Transfer, in_place_from};
use std::ptr;
use std::time::Instant;

/// A linear copy between host and device as the application asked for it.
pub(crate) type Copy = Transfer;

/// With fewer lanes, device to host is no faster than the driver.
const LEAST_LANES_TO_HOST: usize = 2;

/// A copy whose direction the entry point says.
///
/// # Safety
/// `copy` describes the call that `plain` makes.
#[inline(always)]
pub(crate) unsafe fn linear(copy: Copy, plain: impl Fn() -> CUresult) -> CUresult {
    if copy.bytes < process::min_copy() {
        counters::small(process::small_device(), copy.direction);
        return plain();
    }
    // SAFETY: passed on.
    unsafe { large(copy, &plain) }
}

/// A copy between two unified addresses, whose direction their kinds say.
///
/// # Safety
/// As [`linear`].
#[inline(always)]
pub(crate) unsafe fn unified(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
    asynchronous: bool,
    plain: impl Fn() -> CUresult,
) -> CUresult {
    if bytes < process::min_copy() {
        return plain();
    }
    // SAFETY: passed on.
    unsafe { large_unified(to, from, bytes, stream, asynchronous, &plain) }
}

#[cold]
#[inline(never)]
unsafe fn large_unified(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
    asynchronous: bool,
    plain: &dyn Fn() -> CUresult,
) -> CUresult {
    let Some(process) = process::current() else {
        return plain();
    };
    let direction = match (process.kind(to), process.kind(from)) {
        (Kind::Device { .. }, Kind::Pageable) => Direction::ToDevice,
        (Kind::Pageable, Kind::Device { .. }) => Direction::ToHost,
        (to, from) => {
            process.undirected.bypassed(undirected(&to, &from));
            return plain();
        }
    };
    let (device, host) = match direction {
        Direction::ToDevice => (to, from),
        Direction::ToHost => (from, to),
    };
    let host = ptr::with_exposed_provenance_mut(host as usize);
    // SAFETY: passed on.
    unsafe {
        large(
            Copy {
                direction,
                device,
                host,
                bytes,
                stream,
                asynchronous,
            },
            plain,
        )
    }
}

fn undirected(to: &Kind, from: &Kind) -> Bypass {
    match (to, from) {
        (Kind::Managed, _) | (_, Kind::Managed) => Bypass::Managed,
        (Kind::Device { .. }, Kind::Device { .. }) => Bypass::DeviceToDevice,
        (Kind::Pinned, _) | (_, Kind::Pinned) => Bypass::PinnedHost,
        (Kind::Pageable, Kind::Pageable) => Bypass::HostToHost,
        _ => Bypass::NotDeviceMemory,
    }
}

#[cold]
#[inline(never)]
unsafe fn large(copy: Copy, plain: &dyn Fn() -> CUresult) -> CUresult {
    let Some(process) = process::current() else {
        return plain();
    };
    let (ordinal, decided) = process.decide(&copy);
    let device = process.devices.get(ordinal);
    // SAFETY: passed on.
    match decided.and_then(|context| unsafe { process.fan_out(device, context, &copy) }) {
        Ok(()) => CUresult::SUCCESS,
        Err(reason) => {
            device.copies(copy.direction).bypassed(reason);
            plain()
        }
    }
}

/// What the driver knows of an address.
enum Kind {
    Pageable,
    Pinned,
    Managed,
    Device {
        ordinal: CUdevice,
        context: CUcontext,
    },
    Other,
}

impl Process {
    /// The device that a copy is counted for, and the context that it may be
    /// fanned out in. What rules it out most often is asked first.
    fn decide(&self, copy: &Copy) -> (CUdevice, Result<CUcontext, Bypass>) {
        let mut ordinal = 0;
        // SAFETY: an out-pointer to a local.
        let asked = unsafe { self.driver.current_device(&mut ordinal) };
        let context = self.current_context();
        if asked.is_err() || context.is_null() {
            return (0, Err(Bypass::NoContext));
        }
        let decided = self.may_fan_out(copy, ordinal, context);
        (ordinal, decided.map(|()| context))
    }

    fn may_fan_out(
        &self,
        copy: &Copy,
        ordinal: CUdevice,
        context: CUcontext,
    ) -> Result<(), Bypass> {
        if !self.settings.parallel_restore {
            return Err(Bypass::Disabled);
        }
        if copy.host.is_null() {
            return Err(Bypass::NullHost);
        }
        match self.kind(copy.host.addr() as CUdeviceptr) {
            Kind::Pageable => {}
            Kind::Pinned => return Err(Bypass::PinnedHost),
            Kind::Managed => return Err(Bypass::Managed),
            Kind::Device { .. } => return Err(Bypass::DeviceToDevice),
            Kind::Other => return Err(Bypass::NotDeviceMemory),
        }
        self.enough_cpus(copy)?;
        self.is_plain_memory(copy.device, ordinal, context)?;
        self.is_plain_memory(
            copy.device.wrapping_add(copy.bytes as u64 - 1),
            ordinal,
            context,
        )?;
        let mut capturing = 0;
        // SAFETY: an out-pointer to a local; the driver checks the stream.
        let asked = unsafe { self.driver.stream_is_capturing(copy.stream, &mut capturing) };
        if asked.is_err() || capturing != 0 {
            return Err(Bypass::Capturing);
        }
        Ok(())
    }

    fn enough_cpus(&self, copy: &Copy) -> Result<(), Bypass> {
        let enough = match copy.direction {
            Direction::ToDevice => self.plan.lanes > 1 || copy.bytes >= in_place_from(),
            Direction::ToHost => self.plan.lanes >= LEAST_LANES_TO_HOST,
        };
        if enough {
            Ok(())
        } else {
            Err(Bypass::TooFewCpus)
        }
    }

    fn is_plain_memory(
        &self,
        address: CUdeviceptr,
        current: CUdevice,
        context: CUcontext,
    ) -> Result<(), Bypass> {
        match self.kind(address) {
            Kind::Device { ordinal, .. } if ordinal != current => Err(Bypass::ForeignDevice),
            // Memory mapped by the application belongs to no context.
            Kind::Device { context: owner, .. } if owner != context && !owner.is_null() => {
                Err(Bypass::ForeignContext)
            }
            Kind::Device { .. } => Ok(()),
            Kind::Managed => Err(Bypass::Managed),
            Kind::Pageable | Kind::Pinned | Kind::Other => Err(Bypass::NotDeviceMemory),
        }
    }

    fn kind(&self, address: CUdeviceptr) -> Kind {
        let mut memory: c_uint = 0;
        let mut managed: c_uint = 0;
        let mut ordinal: CUdevice = 0;
        let mut context: CUcontext = ptr::null_mut();
        let mut attributes = [
            CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            CU_POINTER_ATTRIBUTE_IS_MANAGED,
            CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            CU_POINTER_ATTRIBUTE_CONTEXT,
        ];
        let mut values = [
            (&raw mut memory).cast(),
            (&raw mut managed).cast(),
            (&raw mut ordinal).cast(),
            (&raw mut context).cast(),
        ];
        // SAFETY: as many values as attributes, each of the attribute's type.
        let asked = unsafe {
            self.driver.pointer_attributes(
                attributes.len() as c_uint,
                attributes.as_mut_ptr(),
                values.as_mut_ptr(),
                address,
            )
        };
        match (asked, managed, memory) {
            (Err(_), ..) => Kind::Other,
            (_, 1.., _) => Kind::Managed,
            (_, _, 0) => Kind::Pageable,
            (_, _, CU_MEMORYTYPE_HOST) => Kind::Pinned,
            (_, _, CU_MEMORYTYPE_DEVICE) => Kind::Device { ordinal, context },
            _ => Kind::Other,
        }
    }

    /// # Safety
    /// The copy was found fit by [`Process::decide`] on this thread, in `context`.
    unsafe fn fan_out(
        &self,
        device: &Device,
        context: CUcontext,
        copy: &Copy,
    ) -> Result<(), Bypass> {
        let begun = Instant::now();
        let lanes = device
            .lanes(&self.driver, &self.plan)
            .ok_or(Bypass::LanesUnavailable)?;
        if context != lanes.context() {
            return Err(Bypass::ForeignContext);
        }
        // SAFETY: the application's own buffers; the lanes' context is current.
        match unsafe { lanes.run(copy) } {
            Ok(Outcome::StreamBusy) => Err(Bypass::StreamBusy),
            Ok(outcome) => {
                device.succeeded();
                device
                    .copies(copy.direction)
                    .fanned_out(copy.bytes, outcome, begun.elapsed());
                Ok(())
            }
            Err(LaneError::Pages(error)) => {
                tracing::warn!(%error, ?copy, "the driver copies from memory");
                Err(Bypass::FileUnreadable)
            }
            Err(error) => {
                device.failed();
                tracing::warn!(%error, ?copy, "the lanes failed; the driver repeats the copy");
                Err(Bypass::LaneFailed)
            }
        }
    }
}
