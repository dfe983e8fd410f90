//! Whether the files that the processes had open or mapped are as they were.

use super::{Misfit, at_once};
use crate::checkpoint::FileEntry;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

pub(super) fn check(files: &[FileEntry]) -> Vec<Misfit> {
    at_once(files, |entry| {
        let how = misfit(entry);
        let path = entry.path.clone();
        how.map(|how| Misfit::File { path, how })
            .into_iter()
            .collect()
    })
}

fn misfit(entry: &FileEntry) -> Option<String> {
    let found = match fs::metadata(&entry.path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some("is missing, and the processes use it".into());
        }
        Err(error) => return Some(format!("cannot be looked at ({error})")),
    };
    let kind = |mode: u32| mode & libc::S_IFMT;
    if kind(found.mode()) != kind(entry.mode) {
        return Some("is another kind of file now".into());
    }
    if found.len() != entry.bytes {
        return Some(format!(
            "was changed: it had {} bytes and has {} now",
            entry.bytes,
            found.len()
        ));
    }
    None
}
