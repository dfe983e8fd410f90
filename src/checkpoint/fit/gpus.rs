//! Which GPU takes the place of which.

use super::Misfit;
use crate::checkpoint::{Machine, Manifest};
use crate::snapshot::{Device, Snapshot};
use std::fs;
use std::path::Path;

/// First CUDA version of drivers that restore to other GPUs, as `cuDriverGetVersion`
/// has it.
const MAPS_DEVICES: u32 = 13_000;

/// What the driver's restore is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuPlan {
    /// Pairs of old and new UUIDs, the first byte highest. Empty: every GPU is here.
    pub moves: Vec<(u128, u128)>,
}

/// Where the memory of the checkpoint's GPUs goes. `here` is this machine as the
/// driver tells it.
///
/// # Errors
/// Everything that does not fit.
pub fn plan_gpus(
    manifest: &Manifest,
    folder: &Path,
    here: &Machine,
) -> Result<GpuPlan, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let then = &manifest.machine;
    misfits.extend(driver(then, here));
    let mut free: Vec<&Device> = here.gpus.iter().collect();
    let mut moves = Vec::new();
    // Those that are the same must not be given away to others.
    let (same, other): (Vec<_>, Vec<_>) = then
        .gpus
        .iter()
        .partition(|gpu| here.gpus.iter().any(|one| one.uuid == gpu.uuid));
    for gpu in same.into_iter().chain(other) {
        let needed = needed(manifest, folder, gpu);
        let fits = |one: &&Device| one.name == gpu.name && one.bytes >= needed;
        let found = free
            .iter()
            .position(|one| one.uuid == gpu.uuid && fits(one))
            .or_else(|| free.iter().position(fits));
        match found {
            Some(found) => moves.push((gpu.uuid, free.remove(found).uuid)),
            None => misfits.push(no_place(gpu, needed, &here.gpus)),
        }
    }
    if moves.iter().all(|(old, new)| old == new) {
        moves.clear();
    } else if here.driver_version.unwrap_or(0) < MAPS_DEVICES {
        misfits.push(Misfit::Machine(
            "the GPUs here are others of the same model, and this driver restores to the same GPUs only: restore where the checkpoint was made, or with a driver of CUDA 13 (release 580) or later".into(),
        ));
    }
    if misfits.is_empty() {
        Ok(GpuPlan { moves })
    } else {
        Err(misfits)
    }
}

fn driver(then: &Machine, here: &Machine) -> Option<Misfit> {
    let name = |machine: &Machine| match (&machine.kernel_module, machine.driver_version) {
        (Some(release), _) => release.clone(),
        (None, Some(version)) => format!("CUDA {}.{}", version / 1000, version % 1000 / 10),
        (None, None) => "none".into(),
    };
    let differs =
        then.driver_version != here.driver_version || then.kernel_module != here.kernel_module;
    differs.then(|| {
        Misfit::Machine(format!(
            "the checkpoint was made with another driver ({}) than this machine has ({}): a process can only go on with the driver that it was using; restore where that driver is installed",
            name(then),
            name(here)
        ))
    })
}

/// Bytes that a GPU must have. Where the driver has put memory into the images, how
/// much that is cannot be told.
fn needed(manifest: &Manifest, folder: &Path, gpu: &Device) -> u64 {
    let mut sum = 0u64;
    let processes = manifest.processes.iter();
    for (process, entry) in processes.filter_map(|one| Some((one, one.gpu.as_ref()?))) {
        let snapshot = entry.snapshot.as_ref();
        let snapshot = snapshot.map(|path| Snapshot::open_of(&folder.join(path), process.uid));
        let Some(Ok(snapshot)) = snapshot else {
            return gpu.bytes;
        };
        let found = snapshot.manifest();
        let device = found.devices.iter().find(|device| device.uuid == gpu.uuid);
        let allocations = found.allocations.iter();
        let its =
            allocations.filter(|one| device.is_some_and(|device| one.device == device.ordinal));
        sum = its.fold(sum, |sum, one| sum.saturating_add(one.bytes));
    }
    sum
}

fn no_place(gpu: &Device, needed: u64, here: &[Device]) -> Misfit {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let list = |gpus: &[Device]| match gpus {
        [] => "none".to_owned(),
        gpus => {
            let tell = |gpu: &Device| format!("{} with {} MiB", gpu.name, mib(gpu.bytes));
            gpus.iter().map(tell).collect::<Vec<_>>().join(", ")
        }
    };
    let is_small = here
        .iter()
        .any(|one| one.name == gpu.name && one.bytes < needed);
    let why = match is_small {
        true => "is too small",
        false => "of the same model is not free for it",
    };
    Misfit::Machine(format!(
        "GPU {} of the checkpoint ({}) needs {} MiB of device memory, and what is here {why} (here: {}); restore on a machine with the same GPUs, and look at CUDA_VISIBLE_DEVICES and the container's devices",
        gpu.ordinal,
        gpu.name,
        mib(needed),
        list(here)
    ))
}

/// Whether the kernel's driver lists all these GPUs, by UUID: then this is the same
/// machine, and nobody needs to wait until the driver has started to know it.
pub fn are_all_here(gpus: &[Device]) -> bool {
    let Ok(entries) = fs::read_dir("/proc/driver/nvidia/gpus") else {
        return false;
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("information")).ok());
    let found: Vec<_> = texts.filter_map(|text| uuid_in(&text)).collect();
    !gpus.is_empty() && gpus.iter().all(|gpu| found.contains(&gpu.uuid))
}

/// The UUID in `/proc/driver/nvidia/gpus/ADDRESS/information`.
fn uuid_in(text: &str) -> Option<u128> {
    let line = text.lines().find(|line| line.starts_with("GPU UUID:"))?;
    let (_, uuid) = line.split_once("GPU-")?;
    u128::from_str_radix(&uuid.trim().replace('-', ""), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_uuids() {
        let text = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 1\nGPU UUID: \t GPU-00112233-4455-6677-8899-aabbccddeeff\nVideo BIOS: x\n";
        assert_eq!(
            uuid_in(text),
            Some(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)
        );
        assert_eq!(uuid_in("GPU UUID: \t GPU-????????"), None);
    }
}
