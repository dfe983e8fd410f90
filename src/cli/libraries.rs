//! Where the libraries are that go into a process.

use rewarm::preload::FRONT;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const CORE: &str = "librewarm_core.so";
const SIM: &str = "sim/libcuda.so.1";

/// Variable that names the folder of the libraries.
const LIB_DIR: &str = "REWARM_LIB_DIR";

/// The folder that holds the libraries.
#[derive(Clone, Debug)]
pub(super) struct Libraries(PathBuf);

/// No folder has them.
#[derive(Debug, thiserror::Error)]
#[error("cannot find {FRONT} and {CORE}. {}", self.advice())]
pub(super) struct Missing(Vec<PathBuf>);

impl Missing {
    /// Where was looked, and what to do.
    pub(super) fn advice(&self) -> String {
        let folders: Vec<_> = self
            .0
            .iter()
            .map(|folder| folder.display().to_string())
            .collect();
        let looked = folders.join(" and ");
        format!(
            "Looked in {looked}: in rewarm's source, build them with scripts/build or install \
             them with scripts/install{}; or name their folder in {LIB_DIR}",
            self.prefix()
        )
    }

    /// The options of `scripts/install` that put them where they were looked for.
    fn prefix(&self) -> String {
        let installed = self.0.iter().find_map(|folder| {
            let prefix = folder.to_str()?.strip_suffix("/lib/rewarm")?;
            Some(format!(" --libraries --prefix {prefix}"))
        });
        installed.unwrap_or_default()
    }
}

impl Libraries {
    /// Looks in `REWARM_LIB_DIR` alone if it is set, else beside the executable
    /// and in `../lib/rewarm` from there.
    pub(super) fn find() -> Result<Libraries, Missing> {
        let executable = env::current_exe().unwrap_or_default();
        let folders = candidates(env::var_os(LIB_DIR), &executable);
        match folders.iter().find(|folder| has_libraries(folder)) {
            Some(folder) => Ok(Libraries(
                folder.canonicalize().unwrap_or_else(|_| folder.clone()),
            )),
            None => Err(Missing(folders)),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// What goes into `LD_PRELOAD`.
    pub(super) fn front(&self) -> PathBuf {
        self.0.join(FRONT)
    }

    /// The folder of the software driver, if it was built.
    pub(super) fn sim(&self) -> Option<PathBuf> {
        let library = self.0.join(SIM);
        library
            .exists()
            .then(|| library.parent().map(Path::to_owned))?
    }
}

fn candidates(named: Option<OsString>, executable: &Path) -> Vec<PathBuf> {
    if let Some(folder) = named.filter(|folder| !folder.is_empty()) {
        return vec![folder.into()];
    }
    let Some(folder) = executable.parent() else {
        return Vec::new();
    };
    let mut folders = vec![folder.to_owned()];
    folders.extend(folder.parent().map(|above| above.join("lib/rewarm")));
    folders
}

fn has_libraries(folder: &Path) -> bool {
    [FRONT, CORE].iter().all(|name| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_is_the_only_one() {
        let folders = candidates(Some("/libs".into()), Path::new("/usr/bin/rewarm"));
        assert_eq!(folders, [PathBuf::from("/libs")]);
    }

    #[test]
    fn an_installation_is_found_from_the_executable() {
        let folders = candidates(None, Path::new("/usr/bin/rewarm"));
        assert_eq!(folders, ["/usr/bin", "/usr/lib/rewarm"].map(PathBuf::from));
        assert_eq!(
            candidates(Some("".into()), Path::new("/usr/bin/rewarm")),
            folders
        );
    }
}
