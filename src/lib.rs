//! The engine of rewarm: what the preloaded core and the command line share.
//!
//! Dependencies point one way: `control` → `lanes` → `pages`, `driver` →
//! `config`; `weights` → `pages`.

pub mod config;
pub mod control;
mod descriptors;
pub mod driver;
pub mod lanes;
pub mod pages;
#[cfg(feature = "cli")]
pub mod weights;
