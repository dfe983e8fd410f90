//! CRIU's folder, which stays after a failure, for its log.

use crate::cli::work::{self, Doing};
use anyhow::Result;
use rewarm::criu::tool::DUMP_LOG;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// The folder; removed when it is dropped, unless the log is of use.
pub(super) struct Work {
    path: PathBuf,
    is_kept: Cell<bool>,
}

impl Work {
    pub(super) fn make() -> Result<Work> {
        Ok(Work {
            path: work::make(Doing::Checkpoint)?,
            is_kept: Cell::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the log, if CRIU has written one, and says where.
    pub(super) fn keep(&self) -> String {
        let log = self.path.join(DUMP_LOG);
        self.is_kept.set(log.exists());
        match log.exists() {
            true => format!("the checkpoint failed (CRIU's log is {})", log.display()),
            false => "the checkpoint failed".into(),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.is_kept.get() {
            work::remove(&self.path);
        }
    }
}
