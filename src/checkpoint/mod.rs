//! Checkpoints of whole processes: a folder with CRIU's images and the snapshots of
//! device memory, and a manifest over both.
//!
//! ```text
//! DIR/checkpoint.json   what there is, and what it needs to be restored (Manifest)
//! DIR/images/           CRIU's images
//! DIR/gpu/<pid>/        device memory of process <pid>, written by itself (snapshot)
//! ```

mod affinity;
mod error;
pub mod files;
pub mod fit;
pub mod images;
mod machine;
mod manifest;
mod obstacles;
mod options;
mod pipes;
mod place;
pub mod tree;

pub use affinity::{Pinned, of_threads as pinned};
pub use error::CheckpointError;
pub use machine::Machine;
pub use manifest::{
    FileEntry, GPU, GpuEntry, IMAGES, ImageEntry, Manifest, NAME, ProcessEntry, RESTORE_OPTIONS,
    list_images, partial,
};
pub use obstacles::{Problem, has_outer_streams, of_tree as obstacles};
pub use options::{Options, has_connections, has_outer_connections};
pub use pipes::{StandardPipe, cut_pipes, standard_pipes};
pub use place::{Place, is_safe};
