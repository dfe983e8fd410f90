//! The settings, read from the environment once per first `cuInit`.

use std::time::Duration;

/// Access rights have a bit per device.
const MOST_DEVICES: usize = 64;

/// One variable each; `README.md` has the same table for users.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `SIMCUDA_DEVICES`: number of devices (default 1).
    pub devices: usize,
    /// `SIMCUDA_MEMORY_MB`: memory of each device (default 4096).
    pub memory: u64,
    /// `SIMCUDA_LINK_GBPS`: rate of each direction of a device's link, 0 for no delay (default).
    pub link_gbps: f64,
    /// `SIMCUDA_PAGEABLE_GBPS`: rate of the driver's own staging, 0 for no delay (default).
    pub pageable_gbps: f64,
    /// `SIMCUDA_CALL_NS`: cost of every call (default 0).
    pub call_cost: Duration,
    /// `SIMCUDA_INIT_MS`: cost of the first `cuInit` (default 0).
    pub init_cost: Duration,
    /// `SIMCUDA_CONTEXT_MS`: cost of each context (default 0).
    pub context_cost: Duration,
    /// `SIMCUDA_SEED`: seed of the delays (default 1).
    pub seed: u64,
    /// `SIMCUDA_DELAY_US`: longest random delay before each stream operation;
    /// 0 (default) yields the processor a random number of times instead.
    pub delay_us: u64,
    /// `SIMCUDA_FAIL`: calls that fail, see `faults`.
    pub fail: String,
    /// `SIMCUDA_JOURNAL`: file to append one line per call to.
    pub journal: Option<String>,
    /// `SIMCUDA_MACHINE`: folder of the processes that share the devices, see `machine`.
    pub machine: Option<String>,
    /// `SIMCUDA_POISON`: whether fresh memory of `cuMemAlloc` is filled with 0xCD.
    pub poison: bool,
}

/// `SIMCUDA_VERSION` (default 13000); apart from the rest, as it is asked before `cuInit`.
pub fn version() -> i32 {
    number("SIMCUDA_VERSION", 13000.0) as i32
}

/// `SIMCUDA_MISSING`: exports that `cuGetProcAddress` does not know; asked before `cuInit`, too.
pub fn is_missing(spelling: &str) -> bool {
    text("SIMCUDA_MISSING").is_some_and(|list| list.split(',').any(|name| name.trim() == spelling))
}

impl Settings {
    /// Reads the environment; what does not parse counts as absent.
    pub fn from_environment() -> Self {
        Self {
            devices: (number("SIMCUDA_DEVICES", 1.0) as usize).min(MOST_DEVICES),
            memory: number("SIMCUDA_MEMORY_MB", 4096.0) as u64 * 1024 * 1024,
            link_gbps: number("SIMCUDA_LINK_GBPS", 0.0),
            pageable_gbps: number("SIMCUDA_PAGEABLE_GBPS", 0.0),
            call_cost: Duration::from_nanos(number("SIMCUDA_CALL_NS", 0.0) as u64),
            init_cost: Duration::from_millis(number("SIMCUDA_INIT_MS", 0.0) as u64),
            context_cost: Duration::from_millis(number("SIMCUDA_CONTEXT_MS", 0.0) as u64),
            seed: number("SIMCUDA_SEED", 1.0) as u64,
            delay_us: number("SIMCUDA_DELAY_US", 0.0) as u64,
            fail: text("SIMCUDA_FAIL").unwrap_or_default(),
            journal: text("SIMCUDA_JOURNAL"),
            machine: text("SIMCUDA_MACHINE"),
            poison: number("SIMCUDA_POISON", 0.0) != 0.0,
        }
    }
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str, default: f64) -> f64 {
    text(name)
        .and_then(|value| value.trim().parse().ok())
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)
        .unwrap_or(default)
}
