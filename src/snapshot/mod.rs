//! Snapshots: the device memory of a process, in a folder.
//!
//! | file | what it is |
//! |---|---|
//! | `manifest.json` | what there is and where; without it there is no snapshot |
//! | `data-GGGG-WW.bin` | chunks, written in generation G by writer W |
//! | `spare-WW.bin` | room made ahead for the next snapshot |
//!
//! A snapshot appears whole or not at all: chunks are written and brought to
//! safety (fsync), then the manifest is, under another name, and takes its place
//! by a rename. Until then an older snapshot in the folder stays as it was, and
//! chunks that have not changed since may be left in its files. What a killed
//! writer leaves is removed by the next one. A lock on the folder keeps writers
//! apart.
//!
//! Several writers append to a file of their own each, as writes to one file wait
//! for each other. All offsets are multiples of a page, so that files can be read
//! and written past the page cache.
//!
//! ```text
//! Writer::create ─► place, write_part (any thread) ─► commit ─► Snapshot
//!       │ previous(): the older snapshot, of which chunks may stay   │
//!       └──────────── prepare(): room made ahead                     ▼
//!                     remove, recycle ◄── manifest(), file() ◄── Snapshot::open
//! ```
//!
//! The core's `freezing` module fills a [`Writer`] from the lanes, and reads a
//! [`Snapshot`]'s files with them. While a process is frozen nothing is kept open:
//! that its snapshot is not overwritten follows from the process that the manifest
//! names ([`Process`]), which is looked for when another one begins to write.
//!
//! All that is read is checked before it is used (`check.rs`), and files are only
//! reached by plain names in the open folder (`folder.rs`).

mod check;
mod error;
mod folder;
mod manifest;
mod names;
mod output;
mod parallel;
mod process;
mod reader;
mod spares;
mod verify;
mod writer;

pub use error::{Cause, SnapshotError};
pub use manifest::{
    Allocation, CHUNK_BYTES, Chunk, DataFile, Device, Discarded, Manifest, PAGE, Piece, Stored,
};
pub use process::Process;
pub use reader::Snapshot;
pub use spares::prepare;
pub use writer::{Contents, Place, Writer, WriterOptions};
