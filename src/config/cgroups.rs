//! Where the control groups of this process have their files.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders, under `root`, of the groups that a controller has this process
/// in: the group's own and those above it, in both versions.
pub(super) fn folders(root: &Path, controller: &str) -> Vec<PathBuf> {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut folders = Vec::new();
    for group in groups.lines().filter_map(Group::parse) {
        if !group.has(controller) {
            continue;
        }
        let mounts = mounts.lines().filter_map(Mount::parse);
        for mount in mounts.filter(|mount| mount.carries(&group, controller)) {
            folders.extend(mount.folders(root, &group));
        }
    }
    folders
}

/// A line of `/proc/PID/cgroup`, see cgroups(7).
struct Group<'a> {
    controllers: &'a str,
    path: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Group<'a>> {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(Group {
            controllers: fields.next()?,
            path: fields.next()?,
        })
    }

    fn has(&self, controller: &str) -> bool {
        self.is_v2() || self.controllers.split(',').any(|name| name == controller)
    }

    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// A line of `/proc/PID/mountinfo`, see proc_pid_mountinfo(5).
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Mount<'a>> {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut source = source.split(' ');
        Some(Mount {
            root: place.next()?,
            point: place.next()?,
            kind: source.next()?,
            options: source.nth(1)?,
        })
    }

    fn carries(&self, group: &Group, controller: &str) -> bool {
        match self.kind {
            "cgroup2" => group.is_v2(),
            "cgroup" => !group.is_v2() && self.options.split(',').any(|name| name == controller),
            _ => false,
        }
    }

    /// The group's folder and its parents up to the mount point. In a container
    /// the mount may show the group itself at its top, or another path than the
    /// process knows.
    fn folders(&self, root: &Path, group: &Group) -> Vec<PathBuf> {
        let top = root.join(self.point.trim_start_matches('/'));
        let below = Path::new(group.path)
            .strip_prefix(self.root)
            .or_else(|_| Path::new(group.path).strip_prefix("/"))
            .unwrap_or(Path::new(""));
        below.ancestors().map(|part| top.join(part)).collect()
    }
}
