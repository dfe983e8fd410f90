//! What a process has mapped from files and devices: `/proc/PID/maps`.

use super::descriptors::{self, Kind};
use std::fs;
use std::path::{Path, PathBuf};

/// A mapping of something that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// As `/proc/PID/maps` has it.
    pub name: PathBuf,
    /// What it is of, if that can be looked at.
    pub kind: Option<Kind>,
}

/// Every mapping that has a name, each name once.
pub(super) fn of(pid: u32) -> Vec<Mapping> {
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let maps = String::from_utf8_lossy(&maps);
    let mut found: Vec<Mapping> = Vec::new();
    for (range, name) in maps.lines().filter_map(named) {
        if found.iter().any(|mapping| mapping.name == Path::new(name)) {
            continue;
        }
        let path = PathBuf::from(format!("/proc/{pid}/map_files/{range}"));
        let kind = descriptors::kind(&path, Path::new(name)).map(|(kind, _)| kind);
        let name = name.into();
        found.push(Mapping { name, kind });
    }
    found
}

/// Range and name of a line. What the kernel itself names is in brackets.
fn named(line: &str) -> Option<(&str, &str)> {
    let range = line.split(' ').next()?;
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.split_once(' ')?.1.trim_start();
    }
    let is_named = !rest.is_empty() && !rest.starts_with('[');
    is_named.then_some((range, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_files_has_a_name() {
        let line = "7f00-7f10 r-xp 00001000 fe:00 1234      /usr/lib/a b.so (deleted)";
        assert_eq!(
            named(line),
            Some(("7f00-7f10", "/usr/lib/a b.so (deleted)"))
        );
        assert_eq!(named("7f00-7f10 rw-p 00000000 00:00 0 "), None);
        let line = "7f00-7f10 rw-p 00000000 00:00 0      [heap]";
        assert_eq!(named(line), None);
    }

    #[test]
    fn the_own_program_is_mapped() {
        let executable = std::env::current_exe().unwrap();
        let mappings = of(std::process::id());
        let is_it = |mapping: &Mapping| mapping.name == executable;
        let found = mappings.into_iter().find(is_it).unwrap();
        // Only root may look at what is mapped.
        assert!(matches!(found.kind, Some(Kind::File) | None));
    }
}
