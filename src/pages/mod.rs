//! The page reader: ranges of files into slots, as fast as the storage gives them.
//!
//! A page fault brings 4 KiB on one thread; a reader brings megabytes on several.
//! Ranges are cut into chunks (`cut.rs`), worker threads claim chunks in ascending
//! order and read each into a slot (`work.rs`), and what they do with a filled slot
//! is theirs: lanes transfer it to a device, [`read`] hands it to a callback.
//!
//! How a chunk is read is a [`Strategy`]. `Auto` decides for each chunk by
//! evidence (`strategy.rs`): is it in the page cache, what file system is it on,
//! is io_uring allowed, may the page cache be passed by, and which of the ways
//! left was faster so far.
//!
//! | strategy | reads by | best for |
//! |---|---|---|
//! | `pread` | `pread(2)` on each worker | what is in the page cache, tmpfs |
//! | `mapped` | copying from a mapping, 64 KiB a fault | files in tmpfs that were just written, with CPUs to spare |
//! | `readahead` | `pread(2)`, with hints for what comes next | cold files that shall stay cached, with CPUs to spare; network file systems |
//! | `direct` | `pread(2)` with O_DIRECT | cold files on local disks, where io_uring is forbidden |
//! | `io_uring` | O_DIRECT through one ring a worker, all its slots in flight | cold files on local disks |
//!
//! [`mappings`] finds the file behind memory that is mapped from one.
//!
//! ```
//! use rewarm::config::{Settings, cpus};
//! use rewarm::pages::{FileRange, PageFile, ReadOptions, read};
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! let file = PageFile::open("Cargo.toml")?;
//! let options = ReadOptions::new(&Settings::default().plan(cpus()));
//! let lines = AtomicU64::new(0);
//! let report = read(&[FileRange::whole(file)], &options, &|piece| {
//!     let count = piece.bytes.iter().filter(|byte| **byte == b'\n').count();
//!     lines.fetch_add(count as u64, Ordering::Relaxed);
//! })?;
//! println!("{lines:?} lines in {} bytes, {:?}", report.bytes, report.strategies);
//! # assert!(lines.into_inner() > 10);
//! # Ok::<(), rewarm::pages::PageError>(())
//! ```

mod cold;
mod cut;
mod error;
mod file;
pub mod mappings;
mod memory;
mod pace;
mod reader;
mod residency;
mod ring;
mod strategy;
mod trial;
mod view;
mod ways;
mod work;

pub use crate::config::Strategy;
pub(crate) use cut::Chunk;
pub use error::{PageError, Reason};
pub use file::{FileRange, PageFile, Store};
pub(crate) use mappings::{Backing, Mappings};
pub use memory::Region;
pub(crate) use memory::populate;
pub use reader::{Piece, ReadOptions, ReadReport, read};
pub use residency::{Residency, evict, residency};
pub(crate) use strategy::Experience;
pub(crate) use ways::Ways;
pub(crate) use work::{GRAIN, Manner, Reading, Slot, Worker, work};
