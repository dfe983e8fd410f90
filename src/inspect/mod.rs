//! What is in a checkpoint, and what would make it smaller.
//!
//! ```text
//! Tree (a folder)      ─┐                      ┌─ images ── memory (by mapping)
//!                       ├─► Survey::add (file) ┼─ gpu     (manifests of snapshots)
//! Tar ◄─ Unpacked (-.gz)─┘                     └─ pages   (zeros and duplicates)
//!                                  Survey::finish ─► hints ─► Report
//! ```
//!
//! A folder's pages are sampled, as the summary of many GB must not take longer than
//! that of few. An archive is read once from the beginning to the end, whether it is
//! a file or a pipe. Nothing that is read is believed: what is kept of it is bounded
//! (`limits.rs`), names are only shown with their control characters escaped
//! (`name.rs`), and files are reached from the open folder, one plain name after
//! another, links not followed (`tree.rs`).

mod archive;
mod counting;
mod density;
mod error;
mod gpu;
mod hints;
mod images;
mod largest;
mod limits;
mod manifests;
mod memory;
mod name;
mod pages;
mod report;
mod roles;
mod sample;
mod summary;
mod survey;
mod tar;
mod tree;
mod unpacked;

pub use archive::{inspect_archive, inspect_stream};
pub use error::InspectError;
pub use name::shown;
pub use report::{
    Archive, Category, CriuStats, Gpu, Hint, Kind, Large, Memory, MemoryKind, Note, Notes, Pages,
    Process, Report, Shares,
};
pub use tree::Folder;

use std::sync::atomic::AtomicU64;

/// How to look.
#[derive(Debug)]
pub struct Options {
    /// How many of the largest to tell, of each kind.
    pub top: usize,
    /// Whether to read all pages of a folder, and not a sample.
    pub full: bool,
    /// Bytes read so far, of those that take long.
    pub done: AtomicU64,
}
