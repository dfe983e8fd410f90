//! Starting the page server.

use crate::criu;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::{fs, mem};

/// In CRIU's work folder.
const LOG: &str = "rewarm-pages.log";

/// What the server says that CRIU can connect to.
const LISTENS: &str = "listening on ";

/// What became of it.
pub(crate) struct Started {
    /// Whether CRIU may leave pages to it.
    pub(crate) listens: bool,
    /// Its own words.
    pub(crate) said: String,
}

/// Starts it for this process and its images, and returns when it listens in CRIU's
/// work folder, which is the current one, or reads the images ahead of CRIU.
///
/// # Errors
/// Why not, and what to do.
pub(crate) fn start() -> Result<Started, String> {
    let images = criu::images().map_err(|error| format!("CRIU's folder of images: {error}"))?;
    let rewarm = find();
    let mut command = Command::new(&rewarm);
    command
        .args(["page-server", "--detach", "--or-read-ahead", "--log", LOG])
        .args(["--for-pid", &process::id().to_string()])
        .args(["--work", ".", "--images"])
        .arg(&images)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // CRIU's descriptors, and those of who started it, who may wait for their end.
    // SAFETY: one system call, after the fork, that takes numbers only.
    unsafe { command.pre_exec(close_at_exec) };
    let output = command.output().map_err(|error| {
        format!(
            "cannot start {}: {error}: the program rewarm belongs beside rewarm_pages.so or on PATH",
            rewarm.display()
        )
    })?;
    if output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        return Ok(Started {
            listens: said.starts_with(LISTENS),
            said: format!("{}: {}", rewarm.display(), said.trim()),
        });
    }
    Err(format!(
        "no page server: {}\nto restore without one, take rewarm_pages.so out of CRIU's libdir",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

fn close_at_exec() -> io::Result<()> {
    // SAFETY: numbers only.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The program that belongs to this library: beside it, or where packages put it;
/// otherwise the one on `PATH`.
fn find() -> PathBuf {
    let own = own_path().into_iter();
    let folders = own.flat_map(|path| [path.clone(), fs::canonicalize(&path).unwrap_or(path)]);
    let folders: Vec<_> = folders
        .filter_map(|path| Some(path.parent()?.to_owned()))
        .collect();
    let beside = folders.iter().map(|folder| folder.join("rewarm"));
    let packaged = folders.iter().map(|folder| folder.join("../../bin/rewarm"));
    let mut places = beside.chain(packaged);
    let found = places.find(|path| path.is_file());
    found.unwrap_or_else(|| PathBuf::from("rewarm"))
}

/// Where this library was opened.
fn own_path() -> Option<PathBuf> {
    // SAFETY: a structure of pointers and numbers.
    let mut found: libc::Dl_info = unsafe { mem::zeroed() };
    let here = &raw const crate::CR_PLUGIN_DESC;
    // SAFETY: an address of this library, and a place for the answer.
    if unsafe { libc::dladdr(here.cast(), &raw mut found) } == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name of a library that is open.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())).to_owned())
}
