//! Settings: one table declares them, everything else comes from it.
//!
//! Inside a process a bad value is ignored with a note ([`Settings::from_env`]);
//! the command line refuses it ([`Settings::strict`]).

mod cgroups;
pub mod cpus;
pub mod memory;
mod plan;
mod run_dirs;
mod settings;
mod strategy;
mod table;

pub use cpus::allowed as cpus;
pub use plan::LanePlan;
pub(crate) use run_dirs::effective_uid;
pub use run_dirs::run_dirs_of;
pub use settings::{BadValue, Settings};
pub use strategy::{Strategy, UnknownStrategy};
pub use table::{Flag, FlagValue, Kind, PREWARM_PID, SETTINGS, Setting, markdown};

/// A sentence for people: what was clamped or ignored, and why.
pub type Note = String;
