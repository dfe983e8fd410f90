//! The engine of rewarm: what the preloaded core and the command line share.
//!
//! Dependencies point one way: `control` → `lanes` → `pages`, `driver` →
//! `config`; `weights` → `pages`; `snapshot` → `pages`, `digest`; `digest` → `pages`,
//! `driver`; `checkpoint` → `criu`, `control`, `snapshot`, `driver`; `criu` → `pages`,
//! `digest`. All may use `proc` and `pidfd`.

#[cfg(feature = "cli")]
pub mod checkpoint;
pub mod config;
pub mod control;
#[cfg(feature = "cli")]
pub mod criu;
mod descriptors;
pub mod digest;
pub mod driver;
#[cfg(feature = "cli")]
pub mod inspect;
pub mod lanes;
pub mod pages;
#[cfg(feature = "cli")]
pub mod pidfd;
#[cfg(feature = "cli")]
pub mod preload;
pub mod proc;
mod sealed;
pub mod snapshot;
#[cfg(feature = "cli")]
pub mod weights;
