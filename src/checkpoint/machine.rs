//! What of a machine a checkpoint depends on.

use crate::driver::Devices;
use crate::sealed::bounded;
use crate::snapshot::Device;
use serde::{Deserialize, Serialize};
use std::fs;

const MOST_FEATURES: usize = 1 << 12;
const MOST_GPUS: usize = 1 << 10;

/// A machine, as a checkpoint was made on it or is to be restored on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Release of the kernel, as `uname -r` has it.
    pub kernel: String,
    /// Model of the first CPU, as `/proc/cpuinfo` has it.
    pub cpu_model: String,
    /// The first CPU's flags in `/proc/cpuinfo`, sorted.
    #[serde(deserialize_with = "bounded::<MOST_FEATURES, _, _>")]
    pub cpu_features: Vec<String>,
    /// The driver's CUDA version, 1000 × major + 10 × minor; `None`: no CUDA was
    /// asked for, or there is no driver.
    pub driver_version: Option<u32>,
    /// Version of the driver's kernel module, such as 580.95.05.
    pub kernel_module: Option<String>,
    /// The GPUs that this command sees, by ordinal.
    #[serde(deserialize_with = "bounded::<MOST_GPUS, _, _>")]
    pub gpus: Vec<Device>,
}

impl Machine {
    /// This machine. `devices` are what the driver tells, where CUDA matters.
    pub fn look(devices: Option<&Devices>) -> Machine {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut cpu_features: Vec<_> = cpu_field(&cpu, "flags")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        cpu_features.sort_unstable();
        Machine {
            kernel: line_of("/proc/sys/kernel/osrelease").unwrap_or_default(),
            cpu_model: cpu_field(&cpu, "model name").to_owned(),
            cpu_features,
            driver_version: devices.map(|found| found.driver_version),
            kernel_module: devices.and_then(|_| line_of("/sys/module/nvidia/version")),
            gpus: devices.map(gpus).unwrap_or_default(),
        }
    }
}

fn gpus(found: &Devices) -> Vec<Device> {
    let numbered = (0..).zip(&found.devices);
    let gpu = numbered.map(|(ordinal, device)| Device {
        ordinal,
        name: device.name.clone(),
        uuid: device.uuid,
        bytes: device.bytes,
    });
    gpu.collect()
}

fn line_of(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The first CPU's value in `/proc/cpuinfo`.
fn cpu_field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map_or("", |(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_a_cpu() {
        let machine = Machine::look(None);
        assert!(!machine.kernel.is_empty() && !machine.cpu_model.is_empty());
        assert!(machine.cpu_features.contains(&"sse2".to_owned()));
        assert_eq!(machine, Machine::look(None));
    }

    #[test]
    fn devices_keep_their_order() {
        let device = |name: &str| crate::driver::DeviceFacts {
            name: name.into(),
            ..Default::default()
        };
        let devices = Devices {
            driver_version: 13_000,
            devices: vec![device("a"), device("b")],
        };
        let machine = Machine::look(Some(&devices));
        assert_eq!(machine.driver_version, Some(13_000));
        assert_eq!((machine.gpus[1].ordinal, &*machine.gpus[1].name), (1, "b"));
    }
}
