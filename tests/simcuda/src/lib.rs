//! A CUDA driver over host memory, for tests on machines without a GPU.
//!
//! Built as `libcuda.so.1`; `README.md` beside this crate tells what it keeps
//! of the real driver and what not. From the outside in:
//!
//! - `exports` holds the C functions, by topic; `entry` is the one gate that
//!   each of them passes (initialised? forked? fault? journal? locked?);
//! - `world` is everything that one `cuInit` makes; `context`, `stream`,
//!   `event`, `memory`, `access`, `vmm`, `capture` are the parts of it;
//! - `work` is what a stream can do, `link` how long that takes.
//!
//! All mutable state hangs off statics in this library's own data segment, so
//! that putting those segments back to an earlier snapshot (which a preloaded
//! library may do in a forked child) makes the driver forget its past.

mod access;
mod capture;
mod checkpoint;
mod codes;
mod context;
mod copy;
mod device;
mod entry;
mod event;
mod exports;
mod faults;
mod ffi;
mod graph;
mod journal;
mod kernels;
mod link;
mod machine;
mod memory;
mod pointers;
mod settings;
mod shared;
mod staging;
mod stream;
mod thread;
mod vmm;
mod work;
mod workers;
mod world;
