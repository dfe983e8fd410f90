//! Where the control sockets of a user's processes lie.

use std::ffi::OsStr;
use std::path::PathBuf;

/// Folders that may hold the sockets of a user's processes, the preferred one
/// first. A process takes the first that it can use, so whoever looks for it
/// looks in all of them.
pub fn run_dirs_of(uid: u32, xdg_runtime_dir: Option<&OsStr>) -> Vec<PathBuf> {
    let mut folders = Vec::with_capacity(4);
    if uid == 0 {
        folders.push(PathBuf::from("/run/rewarm"));
    }
    let runtime = xdg_runtime_dir
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    folders.extend(runtime.map(|folder| folder.join("rewarm")));
    folders.push(PathBuf::from(format!("/run/user/{uid}/rewarm")));
    folders.push(PathBuf::from(format!("/tmp/rewarm-{uid}")));
    let mut seen = Vec::with_capacity(folders.len());
    for folder in folders {
        if !seen.contains(&folder) {
            seen.push(folder);
        }
    }
    seen
}

pub(crate) fn effective_uid() -> u32 {
    // SAFETY: has no requirements and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_is_named_once_and_the_preferred_comes_first() {
        let root = run_dirs_of(0, None);
        assert_eq!(root[0], PathBuf::from("/run/rewarm"));
        let user = run_dirs_of(1000, Some("/run/user/1000".as_ref()));
        assert_eq!(
            user,
            ["/run/user/1000/rewarm", "/tmp/rewarm-1000"].map(PathBuf::from)
        );
        let relative = run_dirs_of(1000, Some("here".as_ref()));
        assert_eq!(relative, user);
    }
}
