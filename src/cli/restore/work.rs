//! The private folder that CRIU works in.

use anyhow::{Context, Result, bail};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{env, process};

/// Longest path of a socket in it, in bytes: `sun_path`, with its zero.
const LONGEST: usize = 108;

/// The longest name that a socket gets there.
const SOCKET: &str = "lazy-pages.socket";

/// Makes the folder, for this user only. The checkpoint's own may be read-only.
pub(super) fn make() -> Result<PathBuf> {
    let given = [env::var_os("XDG_RUNTIME_DIR"), env::var_os("TMPDIR")];
    let given = given.into_iter().flatten().map(PathBuf::from);
    let usual = ["/run", "/tmp", "/dev/shm"].map(PathBuf::from);
    let mut last = None;
    for parent in given.filter(|one| one.is_absolute()).chain(usual) {
        match make_in(&parent) {
            Ok(folder) => return Ok(folder),
            Err(error) => last = Some(error),
        }
    }
    last.map_or_else(|| bail!("no folder to work in"), Err)
}

fn make_in(parent: &Path) -> Result<PathBuf> {
    for number in 0..100 {
        let folder = parent.join(format!("rewarm-restore-{}-{number}", process::id()));
        if folder.join(SOCKET).as_os_str().as_bytes().len() >= LONGEST {
            bail!("{}: too long a path for a socket", folder.display());
        }
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return has_room(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                let cannot = || format!("cannot make {}: set TMPDIR to another", folder.display());
                return Err(error).with_context(cannot);
            }
        }
    }
    bail!("{} is full of abandoned folders", parent.display())
}

/// CRIU's log must fit, or its reasons are lost.
fn has_room(folder: PathBuf) -> Result<PathBuf> {
    const LOG: usize = 256 << 10;
    let file = folder.join("room");
    let tried = fs::write(&file, vec![1; LOG]).and_then(|()| fs::remove_file(&file));
    if let Err(error) = tried {
        remove(&folder);
        let full = || format!("{}: set TMPDIR to another folder", folder.display());
        return Err(error).with_context(full);
    }
    Ok(folder)
}

/// Removes it with what CRIU left in it.
pub(super) fn remove(folder: &Path) {
    // What cannot be removed hurts nobody.
    let _ = fs::remove_dir_all(folder);
}
