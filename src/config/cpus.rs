//! How many CPUs this process may use.

use super::cgroups;
use std::fs;
use std::path::Path;

/// CPUs that this process may use: its affinity mask, and no more than the CPU
/// time that its control groups grant. At least 1.
pub fn allowed() -> usize {
    let affinity = in_affinity_mask().unwrap_or(usize::MAX);
    let quota = in_cgroup_quota(Path::new("/")).unwrap_or(usize::MAX);
    match affinity.min(quota) {
        usize::MAX => std::thread::available_parallelism().map_or(1, usize::from),
        cpus => cpus.max(1),
    }
}

/// CPUs in the calling thread's affinity mask.
pub fn in_affinity_mask() -> Option<usize> {
    const MOST_WORDS: usize = 1 << 14;
    let mut mask = vec![0u64; 16];
    while mask.len() <= MOST_WORDS {
        let bytes = mask.len() * size_of::<u64>();
        // SAFETY: the kernel writes at most `bytes` bytes.
        let written =
            unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, bytes, mask.as_mut_ptr()) };
        if written > 0 {
            return Some(mask.iter().map(|word| word.count_ones() as usize).sum());
        }
        // The machine has more CPUs than the mask has bits.
        mask.resize(mask.len() * 2, 0);
    }
    None
}

/// CPUs' worth of time granted by the control groups of the process whose files
/// lie under `root`, rounded up: the least along the hierarchy, in both
/// versions. `None` without a limit.
pub fn in_cgroup_quota(root: &Path) -> Option<usize> {
    let folders = cgroups::folders(root, "cpu");
    folders.iter().filter_map(|folder| quota_of(folder)).min()
}

fn quota_of(folder: &Path) -> Option<usize> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
        }
        None => (
            read("cpu.cfs_quota_us")?.trim().parse().ok()?,
            read("cpu.cfs_period_us")?.trim().parse().ok()?,
        ),
    };
    (quota > 0 && period > 0).then(|| quota.div_ceil(period) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
";

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, groups: &str, mounts: &str) -> Root {
            let path =
                std::env::temp_dir().join(format!("rewarm-cpus-{name}-{}", std::process::id()));
            let root = Root(path);
            root.write("proc/self/cgroup", groups)
                .write("proc/self/mountinfo", mounts);
            root
        }

        fn write(&self, path: &str, text: &str) -> &Root {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn quota(&self) -> Option<usize> {
            in_cgroup_quota(&self.0)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn this_process_may_use_a_cpu() {
        assert!(allowed() >= 1);
        assert!(in_affinity_mask().is_some_and(|cpus| cpus >= allowed()));
    }

    #[test]
    fn version_2_takes_the_least_along_the_hierarchy() {
        let root = Root::new("v2", "0::/pods/one\n", V2);
        assert_eq!(root.quota(), None);
        root.write("sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
        assert_eq!(root.quota(), None);
        root.write("sys/fs/cgroup/pods/cpu.max", "250000 100000\n");
        assert_eq!(root.quota(), Some(3), "rounded up");
        root.write("sys/fs/cgroup/pods/one/cpu.max", "150000 100000\n");
        assert_eq!(root.quota(), Some(2));
    }

    #[test]
    fn version_1_reads_the_cpu_controller_only() {
        let root = Root::new("v1", "3:cpuset:/a\n2:cpu,cpuacct:/a\n0::/\n", V1);
        root.write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
        root.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
        assert_eq!(root.quota(), None);
        root.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000\n");
        assert_eq!(root.quota(), Some(1));
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_top() {
        let mounts = "32 31 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
        let root = Root::new("container", "1:cpu:/docker/abc\n", mounts);
        root.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        root.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n");
        assert_eq!(root.quota(), Some(4));
    }

    #[test]
    fn garbage_is_no_limit() {
        let root = Root::new(
            "garbage",
            "nonsense\n0::/\n::\n",
            "x\n - - -\n30 23 0:26 / /sys/fs/cgroup rw - cgroup2 c rw\n",
        );
        assert_eq!(root.quota(), None);
        root.write("sys/fs/cgroup/cpu.max", "0 0");
        assert_eq!(root.quota(), None);
        root.write("sys/fs/cgroup/cpu.max", "12");
        assert_eq!(root.quota(), None);
    }
}
