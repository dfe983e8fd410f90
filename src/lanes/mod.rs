//! Lanes: parallel host-side work that keeps one saturated link busy.
//!
//! The link carries 55 GB/s from pinned memory; one thread that stages pageable
//! memory feeds it 10. So a copy is cut into chunks, and several lanes, each a
//! thread with a small ring of pinned slots, fill slots side by side and put the
//! transfers on one stream. What fills a slot is a copy from memory, or a read of
//! a file ([`crate::pages`]): of the one that the source is mapped from, or of
//! those that [`LaneSet::load`] was given.
//!
//! A fan-out keeps what a plain copy promises with four waits, and no more:
//!
//! 1. **start**: the calling thread waits until everything before the copy on
//!    its stream is done, since that may still read the destination or, through
//!    a host function, write the source. Only then do lanes see the copy, so
//!    nothing on a lane ever waits for the application.
//! 2. **slot**: a slot is filled again only after its last transfer is done.
//! 3. **staged**: the call returns when the last byte of the source was read
//!    (device to host: when the last byte was written).
//! 4. **join**: the caller's stream waits for the transfers, so that its later
//!    work sees the data.
//!
//! `tests/random_programs.rs` drops each in turn and shows what breaks.
//!
//! ```no_run
//! use rewarm::config::{Settings, cpus};
//! use rewarm::driver::Driver;
//! use rewarm::lanes::{LaneSet, Load, LoadOptions};
//! use rewarm::pages::{FileRange, PageFile};
//!
//! /// Loads a file into device memory of its size, in the current context.
//! ///
//! /// # Safety
//! /// As [`LaneSet::load`].
//! unsafe fn load(driver: Driver, device: u64) -> Result<f64, Box<dyn std::error::Error>> {
//!     let lanes = LaneSet::new(driver, &Settings::default().plan(cpus()))?;
//!     let range = FileRange::whole(PageFile::open("weights.bin")?);
//!     let report = unsafe { lanes.load(&[Load { range, device }], &LoadOptions::default())? };
//!     lanes.release();
//!     Ok(report.bytes as f64 / report.seconds / 1e9)
//! }
//! ```

mod chunks;
mod crew;
mod error;
mod fill;
mod in_place;
mod job;
mod lane;
mod load;
mod mapped_file;
mod set;
mod staging;
mod stores;
mod streams;
mod unload;
mod waits;

pub use crew::SignalsBlocked;
pub use error::LaneError;
pub use fill::Filled;
pub use job::Direction;
pub use load::{Load, LoadOptions};
pub use set::{LaneSet, Outcome, Transfer, in_place_from};
pub use unload::{Brought, Part, Take};
