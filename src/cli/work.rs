//! The private folder that CRIU works in: its log, and sockets for it.

use anyhow::{Context, Result, bail};
use rewarm::checkpoint::is_safe;
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

/// What is to be done there, which gives the folder its name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doing {
    /// The log of a failure stays there.
    Checkpoint,
    /// The checkpoint's own folder may be read-only.
    Restore,
}

impl Doing {
    fn name(self) -> &'static str {
        match self {
            Doing::Checkpoint => "checkpoint",
            Doing::Restore => "restore",
        }
    }

    /// Where it may be, the best first.
    fn parents(self) -> impl Iterator<Item = PathBuf> {
        let (given, usual): (&[&str], _) = match self {
            Doing::Checkpoint => (&["TMPDIR"], ["/tmp", "/var/tmp", "/run"]),
            Doing::Restore => (&["XDG_RUNTIME_DIR", "TMPDIR"], ["/run", "/tmp", "/dev/shm"]),
        };
        let given = given.iter().filter_map(env::var_os).map(PathBuf::from);
        let given = given.filter(|one| one.is_absolute());
        given.chain(usual.map(PathBuf::from))
    }
}

/// Makes the folder, for this user only, and where nobody else can put another in its
/// place: whoever did could have CRIU ask him for pages.
pub(super) fn make(doing: Doing) -> Result<PathBuf> {
    let mut last = None;
    for parent in doing.parents().filter(|parent| is_safe(parent)) {
        match make_in(&parent, doing) {
            Ok(folder) => return Ok(folder),
            Err(error) => last = Some(error),
        }
    }
    last.map_or_else(|| bail!("no folder to work in"), Err)
}

fn make_in(parent: &Path, doing: Doing) -> Result<PathBuf> {
    for number in 0..100 {
        let folder = parent.join(format!(
            "rewarm-{}-{}-{number}",
            doing.name(),
            process::id()
        ));
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
