//! Which files the given paths mean.

use super::files::Failures;
use serde::Serialize;
use std::collections::HashSet;
use std::fmt::Display;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Files, each once.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) files: Vec<PathBuf>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) failures: Failures,
    /// Device and inode of every file.
    known: HashSet<(u64, u64)>,
}

/// Something below a folder that is not brought in.
#[derive(Serialize)]
pub(super) struct Skipped {
    path: PathBuf,
    reason: &'static str,
}

impl Skipped {
    pub(super) fn describe(&self) -> String {
        format!("{}: {}", self.path.display(), self.reason)
    }
}

impl Listing {
    pub(super) fn of(paths: &[PathBuf]) -> Listing {
        let mut listing = Listing::default();
        for path in paths {
            match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => listing.add_tree(path),
                Ok(metadata) if metadata.is_file() => listing.add(path, &metadata),
                Ok(_) => listing.fail(path, "neither a regular file nor a folder"),
                Err(error) => listing.fail(path, error),
            }
        }
        listing
    }

    fn add_tree(&mut self, root: &Path) {
        for entry in WalkDir::new(root).sort_by_file_name() {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) => self.add_entry(entry.path(), entry.path_is_symlink()),
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    match error.into_io_error() {
                        Some(error) => self.fail(&path, error),
                        None => self.fail(&path, "a loop of folders"),
                    }
                }
            }
        }
    }

    fn add_entry(&mut self, path: &Path, is_link: bool) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => self.add(path, &metadata),
            Ok(metadata) if metadata.is_dir() => self.skip(path, "a link to a folder"),
            Ok(_) => self.skip(path, "not a regular file"),
            Err(error) if is_link && error.kind() == io::ErrorKind::NotFound => {
                self.skip(path, "a link that leads nowhere");
            }
            Err(error) => self.fail(path, error),
        }
    }

    fn add(&mut self, path: &Path, metadata: &Metadata) {
        if self.known.insert((metadata.dev(), metadata.ino())) {
            self.files.push(path.to_owned());
        } else {
            self.skip(path, "the same file under another name");
        }
    }

    fn skip(&mut self, path: &Path, reason: &'static str) {
        let path = path.to_owned();
        self.skipped.push(Skipped { path, reason });
    }

    fn fail(&mut self, path: &Path, reason: impl Display) {
        self.failures
            .add(format_args!("{}: {reason}", path.display()));
    }
}
