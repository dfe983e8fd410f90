//! Whether the files that the processes had open or mapped are as they were.

use super::{Cut, Misfit, at_once};
use crate::checkpoint::FileEntry;
use crate::checkpoint::files::entry;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) fn check(files: &[FileEntry]) -> Vec<Misfit> {
    at_once(files, |then| {
        let now = entry(&then.path);
        let path = then.path.clone();
        let misfit = match (grown(then, now.as_ref()), now) {
            (Some(cut), _) => Some(Misfit::Grown(cut)),
            (None, None) => Some(Misfit::File {
                how: why_none(&path),
                path,
            }),
            (None, Some(now)) => how_changed(then, &now).map(|how| Misfit::File { path, how }),
        };
        misfit.into_iter().collect()
    })
}

/// What the processes were writing, such as a log, and has become longer.
fn grown(then: &FileEntry, now: Option<&FileEntry>) -> Option<Cut> {
    let now =
        now.filter(|now| then.modified.is_none() && !then.is_log && now.bytes > then.bytes)?;
    Some(Cut {
        path: then.path.clone(),
        then: then.bytes,
        now: now.bytes,
    })
}

impl Cut {
    /// Cuts the file to the length that it had.
    ///
    /// # Errors
    /// The system's; and if the file has changed once more.
    pub fn make(&self) -> io::Result<()> {
        let file = File::options()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() != self.now {
            return Err(io::Error::other("somebody is changing it"));
        }
        file.set_len(self.then)
    }
}

fn why_none(path: &Path) -> String {
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            "is missing, and the processes use it".into()
        }
        Err(error) => format!("cannot be looked at ({error}), and the processes use it"),
        Ok(_) => "is not a regular file as it was".into(),
    }
}

fn how_changed(then: &FileEntry, now: &FileEntry) -> Option<String> {
    if then.is_log {
        return None;
    }
    if now.bytes != then.bytes {
        let (then, now) = (then.bytes, now.bytes);
        return Some(format!("was changed: it had {then} bytes and has {now}"));
    }
    match (&then.build_id, &now.build_id) {
        (then, now) if then != now => {
            let told = |id: &Option<String>| id.clone().unwrap_or("none".into());
            Some(format!(
                "was changed: it had the build id {} and has {}",
                told(then),
                told(now)
            ))
        }
        // Nothing else tells what is in it.
        (None, None) if then.modified.is_some() && then.modified != now.modified => {
            Some("was changed: its time of modification is another one".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FileEntry {
        FileEntry {
            path: "/x".into(),
            bytes: 7,
            mode: 0o100_644,
            modified: Some(1),
            build_id: None,
            is_log: false,
        }
    }

    #[test]
    fn programs_are_known_by_their_build_ids_and_others_by_their_time() {
        let library = |id: &str| FileEntry {
            build_id: Some(id.into()),
            ..file()
        };
        let touched = |file: FileEntry| FileEntry {
            modified: Some(2),
            ..file
        };
        assert_eq!(how_changed(&file(), &file()), None);
        assert_eq!(how_changed(&library("a"), &touched(library("a"))), None);
        let said = |then: FileEntry, now| how_changed(&then, &now).unwrap();
        assert!(said(library("a"), library("b")).contains("build id a and has b"));
        assert!(said(library("a"), file()).contains("has none"));
        assert!(said(file(), touched(file())).contains("time"));
        let written = FileEntry {
            modified: None,
            ..file()
        };
        assert_eq!(how_changed(&written, &file()), None);
        let longer = FileEntry { bytes: 8, ..file() };
        assert!(said(file(), longer.clone()).contains("had 7 bytes and has 8"));
        assert_eq!(grown(&file(), Some(&longer)), None);
        assert_eq!(grown(&written, Some(&longer)).unwrap().now, 8);
        assert_eq!(grown(&written, Some(&file())), None);
        let log = FileEntry {
            is_log: true,
            ..written.clone()
        };
        assert_eq!(grown(&log, Some(&longer)), None);
        assert_eq!(how_changed(&log, &longer), None);
        assert!(why_none(Path::new("/no/such/file")).contains("missing"));
    }
}
