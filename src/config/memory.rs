//! How much memory this process may fill with pages of files.

use super::cgroups;
use std::fs;
use std::path::Path;

/// Bytes that the system can give without swapping.
pub fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// Bytes that the control groups of the process whose files lie under `root`
/// may hold, pages of files included: the least along the hierarchy, in both
/// versions. `None` without a limit.
pub fn in_cgroup_limit(root: &Path) -> Option<u64> {
    /// Version 1 writes "no limit" as the largest number of whole pages.
    const NO_LIMIT: u64 = 1 << 62;
    let folders = cgroups::folders(root, "memory");
    let limits = folders.iter().filter_map(|folder| limit_of(folder));
    limits.filter(|limit| *limit < NO_LIMIT).min()
}

fn limit_of(folder: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let text = read("memory.max").or_else(|| read("memory.limit_in_bytes"))?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit under a root with these files.
    fn limit(name: &str, files: &[(&str, &str)]) -> Option<u64> {
        let root = std::env::temp_dir().join(format!("rewarm-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let limit = in_cgroup_limit(&root);
        fs::remove_dir_all(&root).unwrap();
        limit
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn version_2_takes_the_least_along_the_hierarchy() {
        let files = [
            ("proc/self/cgroup", "0::/pods/one\n"),
            (
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            ),
            ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "4096000\n"),
        ];
        assert_eq!(limit("memory-v2", &files), Some(4_096_000));
        assert_eq!(limit("memory-v2-none", &files[..3]), None);
    }

    #[test]
    fn version_1_has_a_number_for_no_limit() {
        let mut files = [
            ("proc/self/cgroup", "4:memory:/a\n3:cpu:/b\n"),
            (
                "proc/self/mountinfo",
                "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            (
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ];
        assert_eq!(limit("memory-v1-none", &files), None);
        files[2].1 = "1048576\n";
        assert_eq!(limit("memory-v1", &files), Some(1 << 20));
    }
}
