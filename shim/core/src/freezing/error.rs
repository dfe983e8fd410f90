//! Why a freeze or thaw did not come about. Whatever it is, the process is as it
//! was before: it runs, or it is frozen.

use crate::gate::GateError;
use crate::ledger::NotMovable;
use rewarm::driver::CudaError;
use rewarm::lanes::LaneError;
use rewarm::snapshot::SnapshotError;
use std::path::PathBuf;

/// What was in the way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FreezeError {
    #[error("this process was not started with --freezable (REWARM_FREEZABLE=1)")]
    NotFreezable,
    #[error("a freeze or thaw of this process is under way")]
    UnderWay,
    #[error("this process is frozen already; its snapshot is in {}", .0.display())]
    Frozen(PathBuf),
    #[error("this process is not frozen")]
    NotFrozen,
    #[error("it cannot be frozen: it has {}", .0.join("; "))]
    Obstacles(Vec<String>),
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(
        "a stream capture is under way; nothing was changed; try again, or give it longer with --drain"
    )]
    Capturing,
    #[error("its GPU work does not end in time; nothing was changed; give it longer with --drain")]
    Busy,
    #[error("its GPU work cannot be waited for: {0}")]
    Drain(CudaError),
    #[error("no context of GPU {0} is left that its memory could be reached from")]
    NoContext(i32),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the snapshot in {} is not of this freeze: {what}", path.display())]
    Foreign { path: PathBuf, what: &'static str },
    #[error(
        "{} does not hold what was frozen: {what}; the process stays frozen, and can be thawed once the snapshot is whole again",
        path.display()
    )]
    Corrupt { path: PathBuf, what: String },
    #[error(
        "GPU {device} has {free} bytes of memory free and the process needs {needed}; it stays frozen; free some, or let it wait with --wait"
    )]
    NoMemory { device: i32, free: u64, needed: u64 },
    #[error("the memory could not be copied: {0}")]
    Lanes(#[from] LaneError),
    #[error("not all of the memory was stored; nothing was changed; try again")]
    Incomplete,
    #[error(transparent)]
    Driver(#[from] CudaError),
    #[error(transparent)]
    Discard(#[from] NotMovable),
    #[error("no address space is left; nothing was changed: {0}")]
    Room(std::io::Error),
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    #[error("this process cannot be told from others: {0}")]
    Identity(std::io::Error),
}
