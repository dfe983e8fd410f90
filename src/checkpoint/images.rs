//! CRIU's images when they are whole: brought to safety, with their digests.

use super::{CheckpointError, ImageEntry, list_images};
use crate::digest::{Digest, Digester, LEAF};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// Threads that bring files to safety at once: most of it is waiting for the disk.
const THREADS: usize = 8;

/// Bytes read at once: whole leaves of a digest.
const READ: usize = 64 * LEAF;

/// Whether an image holds pages, which have digests of their own.
pub fn holds_pages(name: &str) -> bool {
    name.starts_with("pages-") && name.ends_with(".img")
}

/// Brings all files of the folder to safety, and tells what there is.
///
/// # Errors
/// The first file that cannot be read or brought to safety.
pub fn seal(images: &Path) -> Result<Vec<ImageEntry>, CheckpointError> {
    let files = list_images(images)?;
    let next = AtomicUsize::new(0);
    let sealed = Mutex::new(Ok(Vec::new()));
    let work = || {
        while let Some((name, bytes)) = files.get(next.fetch_add(1, Relaxed)) {
            let entry = seal_file(&images.join(name), name, *bytes);
            let mut sealed = sealed.lock().unwrap_or_else(|broken| broken.into_inner());
            match (&mut *sealed, entry) {
                (Ok(list), Ok(entry)) => list.push(entry),
                (Ok(_), Err(error)) => *sealed = Err(error),
                (Err(_), _) => return,
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(files.len()) {
            // What no thread can be had for is done here.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let mut entries = sealed
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner())?;
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    sync_folder(images)?;
    Ok(entries)
}

/// Brings the names in a folder to safety.
///
/// # Errors
/// What the system says.
pub fn sync_folder(folder: &Path) -> Result<(), CheckpointError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(CheckpointError::io(folder, "bring it to safety (fsync)"))
}

fn seal_file(path: &Path, name: &str, bytes: u64) -> Result<ImageEntry, CheckpointError> {
    let file = File::open(path).map_err(CheckpointError::io(path, "open it"))?;
    let synced = file.sync_all();
    synced.map_err(CheckpointError::io(path, "bring it to safety (fsync)"))?;
    let digest = match holds_pages(name) {
        true => None,
        false => Some(digest_of(&file).map_err(CheckpointError::io(path, "read it"))?),
    };
    Ok(ImageEntry {
        name: name.to_owned(),
        bytes,
        digest,
    })
}

/// The digest of all that can be read from here on.
///
/// # Errors
/// What the system says.
pub fn digest_of(mut from: impl Read) -> std::io::Result<Digest> {
    let mut buffer = vec![0; READ];
    let mut digester = Digester::default();
    loop {
        let mut filled = 0;
        while filled < READ {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        digester.update(&buffer[..filled]);
        if filled < READ {
            return Ok(digester.finish());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::digest;

    #[test]
    fn all_files_are_told_in_order() {
        let folder = std::env::temp_dir().join(format!("rewarm-images-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        for (name, text) in [("pages-1.img", "p"), ("b.img", "2"), ("a.img", "1")] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let sealed = seal(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        let sealed = sealed.unwrap();
        let names: Vec<_> = sealed.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names, ["a.img", "b.img", "pages-1.img"]);
        assert_eq!(sealed[1].digest, Some(digest(b"2")));
        assert_eq!((sealed[2].digest, sealed[2].bytes), (None, 1));
        assert!(seal(&folder).is_err());
    }

    #[test]
    fn a_digest_does_not_depend_on_how_it_is_read() {
        let bytes = vec![7; 2 * READ + 5];
        let pieces = bytes[..READ + 3].chain(&bytes[READ + 3..]);
        assert_eq!(digest_of(pieces).unwrap(), digest(&bytes));
    }
}
