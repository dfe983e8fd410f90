//! The engine of rewarm: what the preloaded core and the command line share.
//!
//! Dependencies point one way: `control` → `lanes` → `pages`, `driver` →
//! `config`; `weights` → `pages`; `snapshot` → `pages`, `digest`; `digest` → `pages`,
//! `driver`.

pub mod config;
pub mod control;
mod descriptors;
pub mod digest;
pub mod driver;
pub mod lanes;
pub mod pages;
pub mod snapshot;
#[cfg(feature = "cli")]
pub mod weights;
