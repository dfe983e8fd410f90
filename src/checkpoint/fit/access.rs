//! Who could have changed the checkpoint.

use super::Misfit;
use crate::checkpoint::{GPU, IMAGES};
use crate::config::effective_uid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bits of a mode that let others write.
const WRITABLE: u32 = 0o022;

/// The folder, and those in it that hold what is run.
pub(super) fn check(folder: &Path) -> Vec<Misfit> {
    let gpu = Some(folder.join(GPU)).filter(|gpu| gpu.exists());
    let folders = [Some(folder.to_owned()), Some(folder.join(IMAGES)), gpu];
    let check = |path: std::path::PathBuf| {
        let why = why_not(&path)?;
        Some(Misfit::Open { path, why })
    };
    folders.into_iter().flatten().filter_map(check).collect()
}

fn why_not(path: &Path) -> Option<String> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return Some(format!("cannot be looked at ({error})")),
    };
    let (owner, mode) = (found.uid(), found.mode());
    if owner != 0 && owner != effective_uid() {
        Some(format!("belongs to user {owner}"))
    } else if mode & WRITABLE != 0 {
        Some(format!("others may write to it (mode {:o})", mode & 0o7777))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_can_write_is_refused() {
        let folder = std::env::temp_dir().join(format!("rewarm-access-{}", std::process::id()));
        fs::create_dir_all(folder.join(IMAGES)).unwrap();
        let mode = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        assert_eq!(check(&folder), []);
        mode(0o720);
        let found = check(&folder);
        assert!(
            found[0]
                .to_string()
                .contains("others may write to it (mode 720)")
        );
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            check(&folder)[0]
                .to_string()
                .contains("cannot be looked at")
        );
    }
}
