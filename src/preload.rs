//! `LD_PRELOAD`: a list of libraries between colons or spaces, see ld.so(8).

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// File name of the library that is preloaded.
pub const FRONT: &str = "librewarm.so";

/// Puts a library in front of a list, in place of any rewarm that is in it.
pub fn joined(library: &Path, list: Option<&OsStr>) -> OsString {
    let mut joined = library.as_os_str().as_bytes().to_vec();
    for other in others(list) {
        joined.push(b':');
        joined.extend(other);
    }
    OsString::from_vec(joined)
}

/// The list without rewarm, `None` if nothing is left.
fn without_rewarm(list: Option<&OsStr>) -> Option<OsString> {
    let left = others(list).collect::<Vec<_>>().join(&b':');
    (!left.is_empty()).then(|| OsString::from_vec(left))
}

/// Whether a list has rewarm in it.
pub fn has_rewarm(list: Option<&OsStr>) -> bool {
    entries(list).any(is_rewarm)
}

/// A command that uses the driver itself wants the plain one. If rewarm is
/// preloaded, this starts the same command without it, with more arguments, and
/// returns only on failure.
///
/// # Errors
/// If it cannot be started.
pub fn start_again_without_rewarm(arguments: &[&str]) -> io::Result<()> {
    let list = env::var_os("LD_PRELOAD");
    if !has_rewarm(list.as_deref()) {
        return Ok(());
    }
    let mut command = Command::new(env::current_exe()?);
    command.args(env::args_os().skip(1)).args(arguments);
    match without_rewarm(list.as_deref()) {
        Some(list) => command.env("LD_PRELOAD", list),
        None => command.env_remove("LD_PRELOAD"),
    };
    Err(command.exec())
}

/// Whether a path can be in such a list at all.
pub fn can_hold(library: &Path) -> bool {
    !library.as_os_str().as_bytes().iter().any(is_separator)
}

fn others(list: Option<&OsStr>) -> impl Iterator<Item = &[u8]> {
    entries(list).filter(|entry| !is_rewarm(entry))
}

fn entries(list: Option<&OsStr>) -> impl Iterator<Item = &[u8]> {
    let list = list.map_or(&b""[..], OsStr::as_bytes);
    list.split(is_separator).filter(|entry| !entry.is_empty())
}

fn is_separator(byte: &u8) -> bool {
    matches!(byte, b':' | b' ')
}

fn is_rewarm(entry: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(entry)).file_name() == Some(OsStr::new(FRONT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(list: &str) -> OsString {
        joined(Path::new("/new/librewarm.so"), Some(list.as_ref()))
    }

    #[test]
    fn the_library_comes_first_and_once() {
        assert_eq!(
            joined(Path::new("/new/librewarm.so"), None),
            "/new/librewarm.so"
        );
        assert_eq!(join(""), "/new/librewarm.so");
        assert_eq!(join("/a.so b.so"), "/new/librewarm.so:/a.so:b.so");
        assert_eq!(join(" /a.so::b.so:"), "/new/librewarm.so:/a.so:b.so");
        assert_eq!(
            join("/a.so:/old/librewarm.so:/b.so"),
            "/new/librewarm.so:/a.so:/b.so"
        );
        assert_eq!(join("/new/librewarm.so"), "/new/librewarm.so");
    }

    #[test]
    fn rewarm_can_be_found_and_taken_out() {
        let list = Some(OsStr::new("/a.so:/old/librewarm.so"));
        assert!(has_rewarm(list) && !has_rewarm(Some("/librewarm.so.d/x".as_ref())));
        assert_eq!(without_rewarm(list), Some("/a.so".into()));
        assert_eq!(without_rewarm(Some("/old/librewarm.so".as_ref())), None);
    }

    #[test]
    fn a_path_with_a_separator_cannot_be_in_it() {
        assert!(can_hold(Path::new("/opt/rewarm/librewarm.so")));
        assert!(!can_hold(Path::new("/opt/my libs/librewarm.so")));
    }
}
