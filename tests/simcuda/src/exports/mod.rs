//! The exported functions, by topic.

mod capture;
mod checkpoint;
mod context;
mod copy;
mod device;
mod event;
mod graph;
mod init;
mod ipc;
mod launch;
mod lookup;
mod memory;
mod pool;
mod stream;
mod table;
mod unsupported;
mod vmm;
