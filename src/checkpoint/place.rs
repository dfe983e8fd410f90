//! Where a checkpoint goes: made beside, and renamed when it is whole.

use super::images::sync_folder;
use super::{CheckpointError, GPU, IMAGES, NAME, Problem, partial};
use crate::config::effective_uid;
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The folder of a checkpoint to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The folder, absolute.
    pub folder: PathBuf,
    /// Whether a checkpoint that is there gives way.
    pub replaces: bool,
}

impl Place {
    /// What stands in the way of making it. `replace` allows that a checkpoint is
    /// there already.
    pub fn find(folder: &Path, replace: bool) -> (Place, Vec<Problem>) {
        let exists = fs::symlink_metadata(folder).is_ok();
        let place = Place {
            folder: folder.to_owned(),
            replaces: exists,
        };
        let mut problems = Vec::new();
        let name = folder.display();
        let is_checkpoint = folder.join(NAME).exists();
        if exists && !replace {
            let what = format!("{name} is there already");
            let advice = "Name another folder, or add --replace to put the new checkpoint in the place of that one.";
            problems.push(Problem::new(what, advice));
        } else if exists && !is_checkpoint {
            let what = format!("{name} is no checkpoint, so it is not replaced");
            problems.push(Problem::new(what, "Name another folder."));
        }
        let beside = place.partial();
        if fs::symlink_metadata(&beside).is_ok() {
            problems.push(Problem::new(
                format!("{} is there", beside.display()),
                "Another checkpoint is at work there, or was ended by force: see with `rewarm status` that no process is frozen into it, then remove it.",
            ));
        }
        let parent = place.parent();
        if !parent.is_dir() {
            let what = format!("{} is not there", parent.display());
            problems.push(Problem::new(what, "Make that folder first."));
        }
        if is_everybodys(parent) {
            let what = format!("everybody may exchange what is in {}", parent.display());
            let advice = "Choose another folder, or take that right away (chmod o-w).";
            problems.push(Problem::new(what, advice));
        }
        (place, problems)
    }

    /// The folder that it is made in.
    pub fn partial(&self) -> PathBuf {
        partial(&self.folder)
    }

    fn parent(&self) -> &Path {
        self.folder.parent().unwrap_or(Path::new("/"))
    }

    /// Who owns the folder around it, if that is neither this user nor root.
    pub fn foreign_owner(&self) -> Option<u32> {
        foreign_owner(self.parent())
    }

    /// Bytes that the file system has free.
    ///
    /// # Errors
    /// What the system says.
    pub fn free(&self) -> Result<u64, CheckpointError> {
        let parent = self.parent();
        let asked = || {
            let path = CString::new(parent.as_os_str().as_bytes())?;
            let mut found = MaybeUninit::<libc::statvfs>::zeroed();
            // SAFETY: a string, and a structure that the call fills.
            if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: filled by the successful call.
            let found = unsafe { found.assume_init() };
            Ok(found.f_bavail.saturating_mul(found.f_frsize))
        };
        asked().map_err(CheckpointError::io(parent, "ask for its free space"))
    }

    /// Makes the folder beside, and in it one for the images and one for each process
    /// that will write a snapshot: its pid, and its user if that is not this one.
    ///
    /// # Errors
    /// What the system says; then nothing is left.
    pub fn make(&self, snapshots: &[(u32, Option<u32>)]) -> Result<(), CheckpointError> {
        let beside = self.partial();
        let is_shared = snapshots.iter().any(|(_, user)| user.is_some());
        // Other users must reach what is theirs.
        let mode = if is_shared { 0o711 } else { 0o700 };
        make(&beside, mode)?;
        let filled = || {
            make(&beside.join(IMAGES), 0o700)?;
            let gpu = beside.join(GPU);
            make(&gpu, mode)?;
            for (pid, user) in snapshots {
                let own = gpu.join(pid.to_string());
                make(&own, 0o700)?;
                if user.is_some() {
                    chown(&own, *user, None).map_err(CheckpointError::io(&own, "hand it over"))?;
                }
            }
            Ok(())
        };
        filled().inspect_err(|_| drop(self.remove_partial()))
    }

    /// Removes the images of a dump that failed.
    ///
    /// # Errors
    /// What the system says.
    pub fn empty_images(&self) -> Result<(), CheckpointError> {
        let images = self.partial().join(IMAGES);
        fs::remove_dir_all(&images).map_err(CheckpointError::io(&images, "empty it"))?;
        make(&images, 0o700)
    }

    /// Gives the folder its name: from here on it is a checkpoint.
    ///
    /// # Errors
    /// What the system says; then it is none.
    pub fn commit(&self) -> Result<(), CheckpointError> {
        let beside = self.partial();
        sync_folder(&beside.join(GPU))?;
        sync_folder(&beside)?;
        let flags = match self.replaces {
            true => libc::RENAME_EXCHANGE,
            false => libc::RENAME_NOREPLACE,
        };
        rename(&beside, &self.folder, flags)?;
        sync_folder(self.parent())
    }

    /// Takes a commit back.
    ///
    /// # Errors
    /// What the system says; then it is still a checkpoint.
    pub fn retract(&self) -> Result<(), CheckpointError> {
        let flags = match self.replaces {
            true => libc::RENAME_EXCHANGE,
            false => libc::RENAME_NOREPLACE,
        };
        rename(&self.folder, &self.partial(), flags)
    }

    /// Removes what is beside: an unfinished checkpoint, or the one that was replaced.
    ///
    /// # Errors
    /// What the system says. That there is nothing is none.
    pub fn remove_partial(&self) -> Result<(), CheckpointError> {
        let beside = self.partial();
        match fs::remove_dir_all(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CheckpointError::io(&beside, "remove it")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether nobody but this user and root could exchange a folder that this user makes
/// in a folder.
pub fn is_safe(folder: &Path) -> bool {
    foreign_owner(folder).is_none() && !is_everybodys(folder)
}

/// Who owns a folder, if that is neither this user nor root.
fn foreign_owner(folder: &Path) -> Option<u32> {
    let owner = fs::metadata(folder).ok()?.uid();
    Some(owner).filter(|owner| *owner != 0 && *owner != effective_uid())
}

/// Whether every user may rename and remove what others have in a folder.
fn is_everybodys(folder: &Path) -> bool {
    let mode = fs::metadata(folder).map_or(0, |found| found.mode());
    mode & libc::S_IWOTH != 0 && mode & libc::S_ISVTX == 0
}

fn make(folder: &Path, mode: u32) -> Result<(), CheckpointError> {
    let made = DirBuilder::new().mode(mode).create(folder);
    // Whatever the umask takes away.
    let made = made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(mode)));
    made.map_err(CheckpointError::io(folder, "make the folder"))
}

fn rename(from: &Path, to: &Path, flags: u32) -> Result<(), CheckpointError> {
    let renamed = || {
        let name = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let (from, to) = (name(from)?, name(to)?);
        let here = libc::AT_FDCWD;
        // SAFETY: two strings.
        match unsafe { libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    match renamed() {
        // Some network file systems know no flags.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !to.exists() => {
            fs::rename(from, to)
        }
        other => other,
    }
    .map_err(CheckpointError::io(from, "rename it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_folder(name: &str, test: impl FnOnce(&Path)) {
        let folder = format!("rewarm-place-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir(&folder).unwrap();
        test(&folder);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_checkpoint_appears_whole_and_can_be_taken_back() {
        in_folder("whole", |folder| {
            let (place, problems) = Place::find(&folder.join("c"), false);
            assert!(problems.is_empty());
            place.make(&[(7, None)]).unwrap();
            assert!(!place.folder.exists());
            place.commit().unwrap();
            assert!(place.folder.join("gpu/7").is_dir() && !place.partial().exists());
            let mode = fs::metadata(place.folder.join("images")).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700);
            place.retract().unwrap();
            assert!(!place.folder.exists());
            place.remove_partial().unwrap();
            place.remove_partial().unwrap();
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        });
    }

    #[test]
    fn one_checkpoint_takes_the_place_of_another_when_it_is_whole() {
        in_folder("replace", |folder| {
            let old = folder.join("c");
            fs::create_dir(&old).unwrap();
            let (_, problems) = Place::find(&old, true);
            assert!(problems[0].what.contains("no checkpoint"));
            fs::write(old.join(NAME), "old").unwrap();
            let (_, problems) = Place::find(&old, false);
            assert!(problems[0].advice.contains("--replace"));
            let (place, problems) = Place::find(&old, true);
            assert!(problems.is_empty() && place.replaces);
            place.make(&[]).unwrap();
            assert!(old.join(NAME).exists());
            place.commit().unwrap();
            assert!(!old.join(NAME).exists() && place.partial().join(NAME).exists());
            place.retract().unwrap();
            assert!(old.join(NAME).exists());
            place.remove_partial().unwrap();
        });
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        in_folder("way", |folder| {
            let (place, problems) = Place::find(&folder.join("no/such"), false);
            assert!(problems[0].what.contains("is not there"));
            assert!(place.make(&[]).is_err() && place.free().is_err());
            let (place, _) = Place::find(&folder.join("c"), false);
            assert!(place.free().unwrap() > 0);
            place.make(&[]).unwrap();
            let (_, problems) = Place::find(&folder.join("c"), false);
            assert!(problems[0].what.ends_with("c.partial is there"));
            assert_eq!(place.foreign_owner(), None);
            fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
            let (_, problems) = Place::find(&folder.join("d"), false);
            assert!(problems[0].what.contains("everybody may exchange"));
            fs::set_permissions(folder, Permissions::from_mode(0o1777)).unwrap();
            assert!(Place::find(&folder.join("d"), false).1.is_empty());
        });
    }
}
