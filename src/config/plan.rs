//! From what was asked for to what the machine and the staging memory allow.

use super::{Note, Settings, Strategy};

const MIB: usize = 1 << 20;

/// Smaller slots are not worth a transfer (36 of 55 GB/s on an H200).
const SMALLEST_SLOT: usize = 256 << 10;

/// A lane fills one slot while the other is on its way; more than four gain nothing.
const SLOTS: std::ops::RangeInclusive<usize> = 2..=4;

/// Lanes that take memory out to files and bring it back. Eight keep the link busy
/// where a copy's source is; tmpfs takes more CPU for each byte (H200, 16 CPUs; out:
/// 33 GB/s with 8 lanes, 42 with 12, 46 with 16; in: 38, 51 and 52).
const WRITERS: usize = 16;
const READERS: usize = 16;

/// A slot of a lane that takes memory out: what it holds stays in a cache until it is
/// written. And of one that brings it back: pinning takes time too.
const OUTGOING_SLOT: usize = MIB;
const INCOMING_SLOT: usize = 2 * MIB;

/// The lanes of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanePlan {
    /// Number of lanes.
    pub lanes: usize,
    /// Slots in each lane's ring.
    pub slots_per_lane: usize,
    /// Size of a slot, in bytes: the largest chunk.
    pub chunk_bytes: usize,
    /// Most pinned staging memory, in bytes: all slots together.
    pub staging_bytes: usize,
    /// Whether copies from mapped files read the file.
    pub read_files: bool,
    /// How files are read.
    pub read_strategy: Strategy,
    /// What was clamped, one sentence each.
    pub notes: Vec<Note>,
}

impl LanePlan {
    /// The lanes that take device memory out to files, with no more staging memory
    /// than copies may have.
    pub fn writing(&self, cpus: usize) -> LanePlan {
        self.with_lanes(WRITERS.min(cpus), *SLOTS.end(), OUTGOING_SLOT)
    }

    /// The lanes that bring it back.
    pub fn reading(&self, cpus: usize) -> LanePlan {
        let lanes = READERS.min(cpus).max(self.lanes);
        self.with_lanes(lanes, *SLOTS.start(), INCOMING_SLOT)
    }

    fn with_lanes(&self, lanes: usize, slots_per_lane: usize, chunk_bytes: usize) -> LanePlan {
        let fitting = self.staging_bytes / (slots_per_lane * chunk_bytes);
        let lanes = fitting.min(lanes).max(1);
        LanePlan {
            lanes,
            slots_per_lane,
            chunk_bytes,
            staging_bytes: lanes * slots_per_lane * chunk_bytes,
            notes: Vec::new(),
            ..self.clone()
        }
    }
}

impl Settings {
    /// The lanes of one device, in a process that may use `cpus` CPUs.
    ///
    /// The staging memory is the limit that holds: first lanes, then chunks
    /// give way to it.
    pub fn plan(&self, cpus: usize) -> LanePlan {
        let mut notes = Vec::new();
        let lanes = self.plan_lanes(cpus.max(1), &mut notes);
        let chunk_bytes = self.plan_chunk(lanes, &mut notes);
        let fitting = self.staging_bytes / (lanes * chunk_bytes);
        let slots_per_lane = fitting.clamp(*SLOTS.start(), *SLOTS.end());
        let staging_bytes = lanes * slots_per_lane * chunk_bytes;
        LanePlan {
            lanes,
            slots_per_lane,
            chunk_bytes,
            staging_bytes,
            read_files: self.read_files,
            read_strategy: self.read_strategy,
            notes,
        }
    }

    fn plan_lanes(&self, cpus: usize, notes: &mut Vec<Note>) -> usize {
        let asked = self.lanes.max(1);
        let holds = (self.staging_bytes / (SLOTS.start() * SMALLEST_SLOT)).max(1);
        let lanes = asked.min(cpus).min(holds);
        if lanes == asked {
            return lanes;
        }
        let why = if lanes == cpus {
            format!("this process may use {cpus} {}", plural(cpus, "CPU"))
        } else {
            format!(
                "the staging memory of {} MiB holds no more",
                self.staging_bytes / MIB
            )
        };
        notes.push(format!(
            "CRIU_CUDA_STREAMS={asked} clamped to {lanes}: {why}"
        ));
        lanes
    }

    fn plan_chunk(&self, lanes: usize, notes: &mut Vec<Note>) -> usize {
        let fits = round_down(self.staging_bytes / (lanes * SLOTS.start())).max(SMALLEST_SLOT);
        if self.chunk_bytes <= fits {
            return self.chunk_bytes.max(SMALLEST_SLOT);
        }
        notes.push(format!(
            "CRIU_CUDA_CHUNK_MB={} clamped to {}: the staging memory of {} MiB holds {} slots for each of {lanes} {}",
            self.chunk_bytes / MIB,
            fits as f64 / MIB as f64,
            self.staging_bytes / MIB,
            SLOTS.start(),
            plural(lanes, "lane"),
        ));
        fits
    }
}

/// Whole huge pages where there is room for one.
fn round_down(bytes: usize) -> usize {
    let grain = if bytes >= 2 * MIB {
        2 * MIB
    } else {
        SMALLEST_SLOT
    };
    bytes / grain * grain
}

fn plural(count: usize, noun: &str) -> String {
    format!("{noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lanes: usize, chunk_mb: usize, staging_mb: usize, cpus: usize) -> LanePlan {
        let settings = Settings {
            lanes,
            chunk_bytes: chunk_mb * MIB,
            staging_bytes: staging_mb * MIB,
            ..Settings::default()
        };
        settings.plan(cpus)
    }

    #[test]
    fn defaults_fill_the_staging_memory_exactly() {
        let plan = plan(8, 4, 128, 16);
        assert_eq!(
            (plan.lanes, plan.slots_per_lane, plan.chunk_bytes),
            (8, 4, 4 * MIB)
        );
        assert_eq!((plan.staging_bytes, plan.notes.len()), (128 * MIB, 0));
    }

    #[test]
    fn a_chunk_of_256_works_and_says_what_it_became() {
        let plan = plan(8, 256, 128, 16);
        assert_eq!((plan.slots_per_lane, plan.chunk_bytes), (2, 8 * MIB));
        assert_eq!(
            plan.notes,
            [
                "CRIU_CUDA_CHUNK_MB=256 clamped to 8: the staging memory of 128 MiB holds 2 slots for each of 8 lanes"
            ]
        );
    }

    #[test]
    fn lanes_are_never_more_than_cpus() {
        let plan = plan(8, 4, 128, 2);
        assert_eq!((plan.lanes, plan.slots_per_lane), (2, 4));
        assert_eq!(
            plan.notes,
            ["CRIU_CUDA_STREAMS=8 clamped to 2: this process may use 2 CPUs"]
        );
    }

    #[test]
    fn whatever_is_asked_for_fits_the_staging_memory() {
        for lanes in [1, 2, 3, 7, 8, 12, 64] {
            for chunk in [1, 3, 4, 16, 256, 4096] {
                for staging in [8, 9, 100, 128, 1024] {
                    for cpus in [0, 1, 2, 5, 64, 256] {
                        let plan = plan(lanes, chunk, staging, cpus);
                        assert!((1..=lanes).contains(&plan.lanes), "{plan:?}");
                        assert!(plan.lanes <= cpus.max(1), "{plan:?}");
                        assert!(plan.staging_bytes <= staging * MIB, "{plan:?}");
                        assert!(SLOTS.contains(&plan.slots_per_lane), "{plan:?}");
                        assert!(plan.chunk_bytes >= SMALLEST_SLOT, "{plan:?}");
                        assert_eq!(plan.chunk_bytes % SMALLEST_SLOT, 0, "{plan:?}");
                    }
                }
            }
        }
    }
}
