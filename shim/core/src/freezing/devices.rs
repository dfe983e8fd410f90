//! Each device on its own, all at once.

use super::{FreezeError, Freezer};
use crate::ledger::Block;
use rewarm::digest::{Digest, GpuDigestError, GpuDigests, Span};
use rewarm::driver;
use rewarm::driver::sys::{CUcontext, CUdevice, CUuuid, c_int};
use rewarm::snapshot::Device;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::{io, thread};

/// The devices that blocks are of, each once, in ascending order.
pub(super) fn devices_of<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> Vec<CUdevice> {
    let mut devices: Vec<_> = blocks.into_iter().map(|block| block.device).collect();
    devices.sort_unstable();
    devices.dedup();
    devices
}

impl Freezer<'_> {
    /// A context of each device that the application has one on.
    pub(super) fn contexts_by_device(&self) -> BTreeMap<CUdevice, CUcontext> {
        let mut by_device = BTreeMap::new();
        for context in self.contexts_in_use() {
            let mut device = 0;
            let mut known = false;
            self.process.with_context(context, || {
                // SAFETY: an out-pointer to a local.
                known = unsafe { self.process.driver.current_device(&mut device) }.is_ok();
            });
            if known {
                by_device.entry(device).or_insert(context);
            }
        }
        by_device
    }

    /// Works on several devices at once, with a context of each current; returns
    /// the first failure, when all are done.
    pub(super) fn on_devices<T: Send>(
        &self,
        devices: &[CUdevice],
        work: impl Fn(CUdevice) -> Result<T, FreezeError> + Sync,
    ) -> Result<Vec<T>, FreezeError> {
        let contexts = self.contexts_by_device();
        let one = |device: CUdevice, context: usize| {
            let mut outcome = Err(FreezeError::NoContext(device));
            let context = std::ptr::with_exposed_provenance_mut(context);
            self.process
                .with_context(context, || outcome = work(device));
            outcome
        };
        let mut found = Vec::with_capacity(devices.len());
        for device in devices {
            let context = contexts
                .get(device)
                .ok_or(FreezeError::NoContext(*device))?;
            found.push((*device, context.expose_provenance()));
        }
        if let [(device, context)] = found[..] {
            return one(device, context).map(|outcome| vec![outcome]);
        }
        thread::scope(|scope| {
            let threads: Vec<_> = found
                .into_iter()
                .map(|(device, context)| {
                    thread::Builder::new()
                        .name("rewarm-freeze".into())
                        .spawn_scoped(scope, move || one(device, context))
                })
                .collect();
            let mut outcomes = Vec::with_capacity(threads.len());
            for thread in threads {
                let thread = thread.map_err(FreezeError::Thread)?;
                let joined = thread.join().map_err(|_| io::Error::other("it panicked"));
                outcomes.push(joined.map_err(FreezeError::Thread)??);
            }
            Ok(outcomes)
        })
    }
}

impl Freezer<'_> {
    /// What tells a device from others.
    pub(super) fn describe(&self, device: CUdevice) -> driver::Result<Device> {
        let memory = &self.freezing.memory;
        let mut name = [0; 256];
        let mut uuid = CUuuid::default();
        let mut bytes = 0;
        // SAFETY: out-pointers to locals of the lengths given.
        unsafe {
            memory.device_name(name.as_mut_ptr(), name.len() as c_int, device)?;
            memory.device_uuid(&mut uuid, device)?;
            memory.device_memory(&mut bytes, device)?;
        }
        let name: Vec<u8> = name.iter().map(|byte| *byte as u8).collect();
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(Device {
            ordinal: device as u32,
            name: name.to_string_lossy().into_owned(),
            uuid: u128::from_be_bytes(uuid.bytes),
            bytes: bytes as u64,
        })
    }

    pub(super) fn driver_version(&self) -> driver::Result<u32> {
        let mut version = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.process.driver.driver_version(&mut version)? };
        Ok(version as u32)
    }

    /// Has the GPU digest parts of its memory, with a context of it current. False
    /// if it cannot; then not every digest may have been told.
    pub(super) fn digests_by_gpu(
        &self,
        gpu: Result<GpuDigests, GpuDigestError>,
        spans: &[Span],
        take: &mut dyn FnMut(usize, Digest),
    ) -> bool {
        let digested = gpu.and_then(|gpu| {
            // SAFETY: the memory is there and nothing writes to it while the gate is
            // closed.
            let digested = unsafe { gpu.of(spans, take) };
            gpu.release();
            Ok(digested?)
        });
        digested
            .inspect_err(|error| tracing::info!(%error, "the lanes digest in place of the GPU"))
            .is_ok()
    }

    /// Gets the GPU ready for that, in the current context.
    pub(super) fn gpu_digests(&self) -> Result<GpuDigests, GpuDigestError> {
        GpuDigests::new(self.process.driver, self.freezing.memory)
    }
}
