//! What there is, and why a freeze is impossible.

use super::Ledger;
use super::books::{Kind, Physical};
use rewarm::driver::sys::CUdevice;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;

/// How many allocations, of how many bytes in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Allocations.
    pub(crate) count: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Memory because of which the process cannot be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// What it is.
    pub(crate) kind: Kind,
    /// The address of the first one; 0 if it is not mapped.
    pub(crate) address: u64,
    /// How much of it there is.
    pub(crate) tally: Tally,
}

/// For users: `2 allocations of managed memory, 4.0 MiB`.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { count, bytes } = self.tally;
        let plural = if count == 1 { "" } else { "s" };
        let mebibytes = bytes as f64 / (1 << 20) as f64;
        write!(
            f,
            "{count} allocation{plural} of {}, {mebibytes:.1} MiB",
            self.kind
        )
    }
}

impl Kind {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Small => "small",
            Kind::Plain => "plain",
            Kind::Pool => "pool",
            Kind::Managed => "managed",
            Kind::Imported => "imported",
            Kind::Physical => "shared",
        }
    }

    /// Whether a process that has such memory cannot be frozen.
    pub(crate) fn is_obstacle(self) -> bool {
        matches!(self, Kind::Managed | Kind::Imported)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Small => "small memory",
            Kind::Plain => "the driver's memory",
            Kind::Pool => "pool memory",
            Kind::Managed => "managed memory",
            Kind::Imported => "memory of another process",
            Kind::Physical => "shared or bound physical memory",
        })
    }
}

/// Device memory of the process, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LedgerReport {
    /// What can leave.
    pub(crate) leaves: Tally,
    /// Of that: bytes that need not survive.
    pub(crate) discarded_bytes: u64,
    /// What stays or stands in the way.
    pub(crate) stays: BTreeMap<Kind, Tally>,
    /// Arrays, which stay.
    pub(crate) arrays: u64,
    /// Requests for legacy handles of memory that can leave.
    pub(crate) handles_refused: u64,
}

impl Ledger {
    /// Counts everything.
    pub(crate) fn report(&self) -> LedgerReport {
        let books = self.books.read();
        let mut report = LedgerReport {
            arrays: books.arrays.max(0) as u64,
            handles_refused: self.refused.load(Ordering::Relaxed),
            ..LedgerReport::default()
        };
        for physical in books.physical.values() {
            if physical.stays.is_some() {
                report
                    .stays
                    .entry(Kind::Physical)
                    .or_default()
                    .add(physical.size as u64);
                continue;
            }
            report.leaves.add(physical.size as u64);
            report.discarded_bytes += physical
                .discarded
                .iter()
                .map(|range| range.end - range.start)
                .sum::<u64>();
        }
        for (bytes, references) in books.fixed.values() {
            if *references > 0 {
                report
                    .stays
                    .entry(Kind::Physical)
                    .or_default()
                    .add(*bytes as u64);
            }
        }
        for other in books.others.values() {
            report
                .stays
                .entry(other.kind)
                .or_default()
                .add(other.bytes as u64);
        }
        for import in books.imports.values() {
            let bytes: usize = import.mappings.values().sum();
            report
                .stays
                .entry(Kind::Imported)
                .or_default()
                .add(bytes as u64);
        }
        report
    }

    /// Why the process cannot be frozen; empty if it can.
    pub(crate) fn obstacles(&self) -> Vec<Obstacle> {
        let report = self.report();
        let books = self.books.read();
        let in_the_way = report.stays.iter().filter(|(kind, _)| kind.is_obstacle());
        in_the_way
            .map(|(&kind, &tally)| {
                let first = books.others.iter().find(|(_, other)| other.kind == kind);
                let address = first.map_or(0, |(address, _)| *address);
                Obstacle {
                    kind,
                    address,
                    tally,
                }
            })
            .collect()
    }

    /// Bytes that a freeze takes away.
    pub(crate) fn movable_bytes(&self) -> u64 {
        self.report().leaves.bytes
    }

    /// Bytes of one device that a freeze takes away.
    pub(crate) fn bytes_of(&self, device: CUdevice) -> u64 {
        let books = self.books.read();
        let moves = |physical: &&Physical| physical.stays.is_none() && physical.device() == device;
        let sizes = books.physical.values().filter(moves);
        sizes.map(|physical| physical.size as u64).sum()
    }

    /// Bytes of the application's device memory that stay on the device.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.report()
            .stays
            .values()
            .map(|tally| tally.bytes)
            .sum::<u64>()
    }
}
