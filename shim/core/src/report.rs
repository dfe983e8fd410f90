//! The process's report.

use crate::counters::small_total;
use crate::freezing::Freezing;
use crate::process::Process;
use rewarm::control::{
    DeviceReport, MemoryReport, ProcessReport, REPORT_VERSION, SettingsReport, State,
};
use rewarm::lanes::Direction;

/// What this process did so far.
pub(crate) fn process(process: &Process) -> ProcessReport {
    ProcessReport {
        version: REPORT_VERSION,
        rewarm: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        executable: std::env::current_exe()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        state: process
            .freezing
            .as_ref()
            .map_or(State::Active, Freezing::state),
        settings: SettingsReport::new(&process.settings, &process.plan, &process.notes),
        context: process.contexts.lock().report(),
        devices: devices(process),
        undirected: process.undirected.report(0).bypassed,
        memory: match (&process.freezing, &process.ledger) {
            (Some(freezing), Some(ledger)) => freezing.report(ledger),
            _ => MemoryReport::default(),
        },
    }
}

fn devices(process: &Process) -> Vec<DeviceReport> {
    process
        .devices
        .iter()
        .map(|(ordinal, device)| {
            let copies = |direction| {
                device
                    .copies(direction)
                    .report(small_total(ordinal, direction))
            };
            let (lanes, pinned) = device.held();
            DeviceReport {
                ordinal: ordinal as i32,
                lanes,
                pinned_bytes: pinned as u64,
                h2d: copies(Direction::ToDevice),
                d2h: copies(Direction::ToHost),
                fills: device.fills().report(),
            }
        })
        .filter(|device| {
            let quiet = DeviceReport {
                ordinal: device.ordinal,
                ..DeviceReport::default()
            };
            *device != quiet
        })
        .collect()
}
