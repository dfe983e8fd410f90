//! What a file of a checkpoint is for, by its path.

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `pages-N.img`.
    Pages(u32),
    /// `pagemap-PID.img`.
    Pagemap(Owner),
    /// `mm-PID.img`.
    Mm(u32),
    /// `core-TID.img`.
    Core(u32),
    /// `files.img`.
    Files,
    /// `reg-files.img` of CRIU before 3.0.
    OldFiles,
    /// `memfd.img`.
    Memfds,
    /// `stats-dump` and `stats-restore`.
    Stats,
    /// Another image, all of whose bytes are entries.
    Entries,
    /// Another image.
    Image,
    /// A deleted file that was still open.
    Ghost,
    /// Files of a file system in memory, or of a volume.
    Contents,
    /// What the container changed in its image.
    RootFs,
    /// What it deleted.
    Deleted,
    Log,
    /// Of a container, or a runtime.
    Config,
    /// rewarm's manifest of a checkpoint.
    Checkpoint,
    /// A manifest of a snapshot, if it is one.
    Snapshot,
    /// `data-GGGG-WW.bin` of a snapshot.
    DeviceData,
    /// Room for a snapshot.
    Spare,
    Other,
}

/// Whose pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    Process(u32),
    /// Shared memory, by its number.
    Shared(u64),
}

/// What a category is called.
pub(super) const CATEGORIES: [&str; 9] = [
    "gpu", "memory", "rootfs", "files", "images", "config", "logs", "spare", "other",
];

impl Role {
    /// Of a plain relative path.
    pub(super) fn of(path: &[u8]) -> Role {
        let name = name_of(path);
        let Ok(name) = std::str::from_utf8(name) else {
            return Role::Other;
        };
        match name {
            "files.img" => Role::Files,
            "reg-files.img" => Role::OldFiles,
            "memfd.img" => Role::Memfds,
            "stats-dump" | "stats-restore" => Role::Stats,
            "rootfs-diff.tar" => Role::RootFs,
            "deleted.files" => Role::Deleted,
            "checkpoint.json" => Role::Checkpoint,
            "manifest.json" => Role::Snapshot,
            "devshm-checkpoint.tar" => Role::Contents,
            "config.dump"
            | "spec.dump"
            | "network.status"
            | "bind.mounts"
            | "config.json"
            | "descriptors.json"
            | "hostname"
            | "hosts"
            | "resolv.conf"
            | "artifacts"
            | "io.kubernetes.cri-o.LogPath" => Role::Config,
            _ => Role::of_kind(path, name),
        }
    }

    fn of_kind(path: &[u8], name: &str) -> Role {
        if name.ends_with(".log") {
            return Role::Log;
        }
        if let Some(image) = name.strip_suffix(".img") {
            return Role::of_image(image);
        }
        let is_data = |stem: &str| name.starts_with(stem) && name.ends_with(".bin");
        let is_in_folder = |folder: &[u8]| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        if is_data("data-") {
            Role::DeviceData
        } else if is_data("spare-") {
            Role::Spare
        } else if is_in_folder(b"volumes") {
            Role::Contents
        } else if is_in_folder(b"artifacts") {
            Role::Config
        } else {
            Role::Other
        }
    }

    /// By the name without `.img`.
    fn of_image(name: &str) -> Role {
        /// Images of which all bytes are entries; others have contents behind them.
        const ENTRIES: [&str; 18] = [
            "inventory",
            "pstree",
            "fdinfo",
            "fs",
            "ids",
            "remap-fpath",
            "seccomp",
            "timens",
            "cgroup",
            "mountpoints",
            "utsns",
            "pidns",
            "userns",
            "filelocks",
            "rlimit",
            "tty-info",
            "sigacts",
            "creds",
        ];
        let (kind, rest) = name.rsplit_once('-').unwrap_or((name, ""));
        // `pages-01.img` is not what CRIU reads for `pages-1.img`.
        let is_plain = rest == "0" || !rest.starts_with(['0', '+']);
        let wide = rest.parse::<u64>().ok().filter(|_| is_plain);
        let number = wide.and_then(|number| u32::try_from(number).ok());
        match (kind, number) {
            ("pagemap-shmem", _) if wide.is_some() => {
                Role::Pagemap(Owner::Shared(wide.unwrap_or_default()))
            }
            ("pages", Some(id)) => Role::Pages(id),
            ("pagemap", Some(pid)) => Role::Pagemap(Owner::Process(pid)),
            ("mm", Some(pid)) => Role::Mm(pid),
            ("core", Some(thread)) => Role::Core(thread),
            _ if name.starts_with("ghost-file") => Role::Ghost,
            _ if name.starts_with("tmpfs-") => Role::Contents,
            (kind, Some(_)) if ENTRIES.contains(&kind) => Role::Entries,
            _ if ENTRIES.contains(&name) => Role::Entries,
            _ => Role::Image,
        }
    }

    /// The name of its category.
    pub(super) fn category(self) -> &'static str {
        match self {
            Role::Snapshot | Role::DeviceData => "gpu",
            Role::Pages(_) => "memory",
            Role::RootFs | Role::Deleted => "rootfs",
            Role::Ghost | Role::Contents => "files",
            Role::Pagemap(_)
            | Role::Mm(_)
            | Role::Core(_)
            | Role::Files
            | Role::OldFiles
            | Role::Memfds
            | Role::Entries
            | Role::Image => "images",
            Role::Stats | Role::Config | Role::Checkpoint => "config",
            Role::Log => "logs",
            Role::Spare => "spare",
            Role::Other => "other",
        }
    }

    /// Whether it shows that a folder holds a checkpoint.
    pub(super) fn is_telling(self) -> bool {
        !matches!(
            self,
            Role::Log
                | Role::Config
                | Role::Other
                | Role::Spare
                | Role::Snapshot
                | Role::Checkpoint
                | Role::DeviceData
                | Role::Contents
        )
    }
}

/// The folder of a path; empty at the top.
pub(super) fn folder_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..end]
}

/// The last part of a path.
pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// A path in a folder, without parts that say nothing.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    plain(&[folder, name].join(&b'/'))
}

/// Why a path of an archive may not be used: it leads out, or nowhere.
pub(super) fn why_refused(path: &[u8]) -> Option<&'static str> {
    let mut parts = path.split(|byte| *byte == b'/');
    match path {
        [] => Some("an empty name"),
        [b'/', ..] => Some("an absolute path"),
        _ if path.contains(&0) => Some("a name with a zero in it"),
        _ if path.len() > super::limits::PATH => Some("a path of more than 4096 bytes"),
        _ if parts.any(|part| part == b"..") => Some("a path with .. in it"),
        _ => None,
    }
}

/// A path without parts that say nothing: `./a//b/` is `a/b`.
pub(super) fn plain(path: &[u8]) -> Vec<u8> {
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

/// Whether a link in a folder leads out of the archive.
pub(super) fn leads_out(folder: &[u8], target: &[u8]) -> bool {
    if target.first() == Some(&b'/') {
        return true;
    }
    let mut depth = folder
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .count();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        for (path, role) in [
            ("images/pages-3.img", Role::Pages(3)),
            ("pagemap-12.img", Role::Pagemap(Owner::Process(12))),
            (
                "checkpoint/pagemap-shmem-5000000000.img",
                Role::Pagemap(Owner::Shared(5_000_000_000)),
            ),
            ("core-1.img", Role::Core(1)),
            ("fdinfo-2.img", Role::Entries),
            ("inventory.img", Role::Entries),
            ("ghost-file-1.img", Role::Ghost),
            ("tmpfs-dev-73.tar.gz.img", Role::Contents),
            ("pages-x.img", Role::Image),
            ("pages-01.img", Role::Image),
            ("pages-+1.img", Role::Image),
            ("reg-files.img", Role::OldFiles),
            ("volumes/data.tar", Role::Contents),
            ("gpu/7/data-0001-00.bin", Role::DeviceData),
            ("dump.log", Role::Log),
            ("README", Role::Other),
        ] {
            assert_eq!(Role::of(path.as_bytes()), role, "{path}");
            assert!(CATEGORIES.contains(&role.category()));
        }
    }

    #[test]
    fn paths_and_links_that_lead_out_are_refused() {
        for bad in ["", "/etc/passwd", "a/../../b", "..", "a\0b"] {
            assert!(why_refused(bad.as_bytes()).is_some(), "{bad}");
        }
        assert!(why_refused(&[b'a'; 5000]).is_some());
        assert_eq!(why_refused(b"./a/..b/c..img"), None);
        assert_eq!(plain(b"./a//b/."), b"a/b");
        assert!(
            leads_out(b"", b"../x") && leads_out(b"a", b"b/../../../x") && leads_out(b"a", b"/x")
        );
        assert!(!leads_out(b"a/b", b"../../x") && !leads_out(b"", b"a/../b"));
    }
}
