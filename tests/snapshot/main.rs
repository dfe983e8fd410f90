//! Snapshots on disk: whole or not there, whatever happens to who writes them, and
//! safe to open whoever wrote them.

#[path = "../common/mod.rs"]
mod common;
mod cuts;
mod hostile;
mod kills;
mod memory;
mod room;
mod steps;
mod whole;
