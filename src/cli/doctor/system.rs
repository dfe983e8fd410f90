//! What the machine grants this process, apart from GPUs.

use super::text;
use rewarm::config::cpus;
use serde::Serialize;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::path::Path;
use std::{env, fs};

/// Oldest C library that the preloaded library runs under.
pub(super) const GLIBC_FLOOR: (u32, u32) = (2, 34);

/// The machine as this process sees it.
#[derive(Serialize)]
pub(super) struct System {
    pub(super) glibc: String,
    pub(super) cpus_allowed: usize,
    cpus_in_affinity_mask: Option<usize>,
    cpus_in_cgroup_quota: Option<usize>,
    /// `None`: no limit.
    memlock_bytes: Option<u64>,
    transparent_huge_pages: Option<String>,
    rewarm_preloaded: bool,
    pub(super) rewarm_disabled: bool,
    pub(super) copies_disabled: bool,
}

impl System {
    pub(super) fn look(rewarm_preloaded: bool) -> System {
        System {
            glibc: glibc(),
            cpus_allowed: cpus::allowed(),
            cpus_in_affinity_mask: cpus::in_affinity_mask(),
            cpus_in_cgroup_quota: cpus::in_cgroup_quota(Path::new("/")),
            memlock_bytes: memlock(),
            transparent_huge_pages: huge_pages(),
            rewarm_preloaded,
            rewarm_disabled: env::var_os("REWARM_DISABLE").is_some_and(|value| value == "1"),
            copies_disabled: env::var_os("CRIU_CUDA_PARALLEL_RESTORE")
                .is_some_and(|value| value == "0"),
        }
    }

    pub(super) fn rows(&self, row: &mut impl FnMut(&str, String)) {
        row("C library", format!("glibc {}", self.glibc));
        row("CPUs", self.describe_cpus());
        row(
            "memlock",
            self.memlock_bytes.map_or("no limit".into(), text::bytes),
        );
        let huge = self.transparent_huge_pages.as_deref().unwrap_or("none");
        row("huge pages", format!("transparent: {huge}"));
        row(
            "LD_PRELOAD",
            if self.rewarm_preloaded {
                "has rewarm"
            } else {
                "without rewarm"
            }
            .into(),
        );
    }

    fn describe_cpus(&self) -> String {
        let or_none = |count: Option<usize>| count.map_or("none".into(), |count| count.to_string());
        format!(
            "{} allowed (affinity mask {}, control group quota {})",
            self.cpus_allowed,
            or_none(self.cpus_in_affinity_mask),
            or_none(self.cpus_in_cgroup_quota),
        )
    }
}

fn glibc() -> String {
    // SAFETY: returns a static string.
    unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }
        .to_string_lossy()
        .into_owned()
}

/// Whether a version such as "2.36" is at least the floor.
pub(super) fn is_new_enough(glibc: &str) -> bool {
    let mut parts = glibc
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    version >= GLIBC_FLOOR
}

fn memlock() -> Option<u64> {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: filled by the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, limit.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: filled by the successful call.
    let limit = unsafe { limit.assume_init() }.rlim_cur;
    (limit != libc::RLIM_INFINITY).then_some(limit)
}

/// The bracketed word of the kernel's setting.
fn huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_of_the_c_library() {
        assert!(is_new_enough("2.34") && is_new_enough("2.39") && is_new_enough("3.0"));
        assert!(!is_new_enough("2.33") && !is_new_enough("2.9") && !is_new_enough("?"));
    }
}
