//! Whether the files that the processes had open or mapped are as they were.

use super::{Misfit, at_once};
use crate::checkpoint::FileEntry;
use crate::checkpoint::files::entry;

pub(super) fn check(files: &[FileEntry]) -> Vec<Misfit> {
    at_once(files, |then| {
        let how = how_changed(then, entry(&then.path));
        let path = then.path.clone();
        how.map(|how| Misfit::File { path, how })
            .into_iter()
            .collect()
    })
}

fn how_changed(then: &FileEntry, now: Option<FileEntry>) -> Option<String> {
    let Some(now) = now else {
        return Some("is missing, and the processes use it".into());
    };
    if then.is_log {
        return None;
    }
    if now.bytes != then.bytes {
        let is_grown = then.modified.is_none() && now.bytes > then.bytes;
        let (then, now) = (then.bytes, now.bytes);
        let changed = format!("was changed: it had {then} bytes and has {now}");
        // What the processes wrote since: another restore of theirs, or they went on.
        return Some(match is_grown {
            true => format!(
                "{changed} (`truncate -s {then}` takes away what was written since; a log that is opened for appending, as with >>, may grow)"
            ),
            false => changed,
        });
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
        assert_eq!(how_changed(&file(), Some(file())), None);
        assert_eq!(
            how_changed(&library("a"), Some(touched(library("a")))),
            None
        );
        let said = |then: FileEntry, now| how_changed(&then, now).unwrap();
        assert!(said(library("a"), Some(library("b"))).contains("build id a and has b"));
        assert!(said(library("a"), Some(file())).contains("has none"));
        assert!(said(file(), Some(touched(file()))).contains("time"));
        let written = FileEntry {
            modified: None,
            ..file()
        };
        assert_eq!(how_changed(&written, Some(file())), None);
        assert!(said(file(), None).contains("missing"));
        let longer = FileEntry { bytes: 8, ..file() };
        let now = || Some(longer.clone());
        assert!(said(file(), now()).contains("had 7 bytes and has 8"));
        assert!(said(written, now()).contains("truncate -s 7"));
        let log = FileEntry {
            is_log: true,
            ..file()
        };
        assert_eq!(how_changed(&log, now()), None);
        assert!(said(log, None).contains("missing"));
    }
}
