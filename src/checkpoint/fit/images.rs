//! Whether the checkpoint's own files are as they were written. Pages are verified
//! when they are read.

use super::{Misfit, at_once};
use crate::checkpoint::images::digest_of;
use crate::checkpoint::{IMAGES, ImageEntry, Manifest, ProcessEntry};
use crate::snapshot::Snapshot;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) fn check(manifest: &Manifest, folder: &Path) -> Vec<Misfit> {
    let images = folder.join(IMAGES);
    let image = |entry: &ImageEntry| {
        let path = images.join(&entry.name);
        let how = image_misfit(&path, entry);
        how.map(|how| Misfit::Image { path, how })
            .into_iter()
            .collect()
    };
    let snapshot = |process: &ProcessEntry| {
        let how = snapshot_misfit(folder, process);
        let pid = process.pid;
        how.map(|how| Misfit::Snapshot { pid, how })
            .into_iter()
            .collect()
    };
    let mut misfits = at_once(&manifest.images, image);
    misfits.extend(at_once(&manifest.processes, snapshot));
    misfits
}

fn image_misfit(path: &Path, entry: &ImageEntry) -> Option<String> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let looked = opened.and_then(|file| Ok((file.metadata()?, file)));
    let (found, file) = match looked {
        Ok(looked) => looked,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("is missing".into()),
        Err(error) => return Some(format!("cannot be read ({error})")),
    };
    if !found.is_file() {
        return Some("is no file".into());
    }
    if found.len() != entry.bytes {
        return Some(format!(
            "is damaged: it has {} bytes in place of {}",
            found.len(),
            entry.bytes
        ));
    }
    let digest = entry.digest?;
    match digest_of(file) {
        Ok(found) if found == digest => None,
        Ok(_) => Some("is damaged: its digest is not the one that was written".into()),
        Err(error) => Some(format!("cannot be read ({error})")),
    }
}

fn snapshot_misfit(folder: &Path, process: &ProcessEntry) -> Option<String> {
    let gpu = process.gpu.as_ref()?;
    let path = folder.join(gpu.snapshot.as_ref()?);
    match Snapshot::open_of(&path, process.uid) {
        Err(error) => Some(error.to_string()),
        Ok(found) if found.manifest().id != gpu.snapshot_id => Some(format!(
            "{}: is another one than the checkpoint was made with",
            path.display()
        )),
        Ok(_) => None,
    }
}
