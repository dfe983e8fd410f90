//! Whether a checkpoint can be restored here. Everything that stands in the way is
//! found at once and before anything starts, each with what to do about it.

mod access;
mod files;
mod gpus;
mod images;
mod machine;
mod pids;

pub use gpus::{GpuPlan, are_all_here, plan_gpus};

use super::Manifest;
use crate::criu::tool::Version;
use std::fmt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// Something that keeps a checkpoint from being restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// Others could have changed it.
    #[error("{}: {why}: what it holds would run as those users, so make it yours alone (chown, chmod go-w) if you trust it", path.display())]
    Open {
        /// Which folder.
        path: PathBuf,
        /// Who may write to it.
        why: String,
    },
    /// Part of the checkpoint is missing or not as it was written.
    #[error("{}: {how}; the checkpoint cannot be restored: bring the file back from a copy of the folder", path.display())]
    Image {
        /// Which file.
        path: PathBuf,
        /// In what way.
        how: String,
    },
    /// A snapshot of device memory is missing or not as it was written.
    #[error("snapshot of the device memory of process {pid}: {how}")]
    Snapshot {
        /// Whose.
        pid: u32,
        /// In what way.
        how: String,
    },
    /// A file outside of the checkpoint is not as the processes had it.
    #[error("{}: {how}; put the file back that was there when the checkpoint was made, or make a new checkpoint", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// In what way.
        how: String,
    },
    /// A file that the processes were writing has grown since.
    #[error(
        "{0}; if what was added may go, add --truncate-files (keep a copy of the file, if in doubt)"
    )]
    Grown(Cut),
    /// Numbers that processes, threads, groups or sessions need are in use.
    #[error(
        "{} taken by {holder}: the restored processes need their old pids, so end it, or restore in a pid namespace of its own (unshare --pid --fork --mount-proc)",
        listed(pids)
    )]
    Pid {
        /// The numbers.
        pids: Vec<u32>,
        /// Who has them.
        holder: String,
    },
    /// The machine is not like the one that the checkpoint was made on.
    #[error("{0}")]
    Machine(String),
}

/// A file to be cut to the length that it had, as CRIU insists on that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which file.
    pub path: PathBuf,
    /// Its length at the checkpoint, in bytes.
    pub then: u64,
    /// Its length now.
    pub now: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { path, then, now } = self;
        let name = path.display();
        write!(
            to,
            "{name}: has grown since the checkpoint, from {then} to {now} bytes"
        )
    }
}

/// Numbers in words, the first few of them.
fn listed(pids: &[u32]) -> String {
    const MOST: usize = 4;
    let first: Vec<_> = pids.iter().take(MOST).map(u32::to_string).collect();
    match pids.len() {
        1 => format!("pid {} is", first[0]),
        2..=MOST => format!("pids {} are", first.join(", ")),
        more => format!("pids {} and {} more are", first.join(", "), more - MOST),
    }
}

/// Looks at all that can be told without the driver.
pub fn check(manifest: &Manifest, folder: &Path, criu: Version) -> Vec<Misfit> {
    // Others cannot even look at much.
    if let Some(misfit) = machine::rights() {
        return vec![misfit];
    }
    let parts: [&(dyn Fn() -> Vec<Misfit> + Sync); 5] = [
        &|| access::check(folder),
        &|| images::check(manifest, folder),
        &|| files::check(&manifest.files),
        &|| pids::check(manifest),
        &|| machine::check(manifest, criu),
    ];
    at_once(&parts, |part| part())
}

/// Most threads at once.
const THREADS: usize = 8;

/// What is found for each, in no order, by a few threads.
fn at_once<T: Sync, R: Send>(items: &[T], look: impl Fn(&T) -> Vec<R> + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(item) = items.get(next.fetch_add(1, Relaxed)) {
            found.extend(look(item));
        }
        found
    };
    thread::scope(|scope| {
        let start = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..THREADS.min(items.len())).filter_map(start).collect();
        let mut found = work();
        for other in others {
            match other.join() {
                Ok(more) => found.extend(more),
                Err(panic) => resume_unwind(panic),
            }
        }
        found
    })
}
