//! A private folder for CRIU's log and the hook's socket.

use anyhow::{Context, Result};
use rewarm::criu::tool::DUMP_LOG;
use std::cell::Cell;
use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The folder; removed when it is dropped, unless the log is of use.
pub(super) struct Work {
    path: PathBuf,
    is_kept: Cell<bool>,
}

impl Work {
    pub(super) fn make() -> Result<Work> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.as_nanos());
        let name = format!("rewarm-checkpoint-{}-{nanos}", std::process::id());
        let path = env::temp_dir().join(name);
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        let is_kept = Cell::new(false);
        Ok(Work { path, is_kept })
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
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
