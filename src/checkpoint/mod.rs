//! Checkpoints of whole processes: a folder with CRIU's images and the snapshots of
//! device memory, and a manifest over both.
