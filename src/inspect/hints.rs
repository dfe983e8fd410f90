//! What would make a checkpoint smaller, or its restore faster.

use super::gpu::Found;
use super::report::{Hint, Memory, Shares};

/// What was found, in bytes.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) rootfs: u64,
    pub(super) logs: u64,
    pub(super) logs_of_rootfs: u64,
    pub(super) ghosts: u64,
    pub(super) spare: u64,
    /// Of file systems in memory, and volumes.
    pub(super) contents: u64,
    pub(super) rest: u64,
    /// How an archive is compressed.
    pub(super) compression: &'static str,
    /// Whether the path is on a file system in memory.
    pub(super) is_in_memory: bool,
    /// Large anonymous mappings of processes whose device memory the driver put there.
    pub(super) large_of_driver: u64,
    /// How much of those of other processes looks like weights.
    pub(super) anonymous_weights: u64,
    pub(super) shared: u64,
    pub(super) not_lazy: u64,
    /// Device memory in large allocations of which nothing was discarded.
    pub(super) stored_of_large: u64,
}

/// Less is not worth a word, in bytes.
const WORTH: u64 = 1 << 20;

/// Logs below this are what CRIU always writes, in bytes.
const LOGS: u64 = 16 << 10;

impl Facts {
    pub(super) fn add_gpu(&mut self, found: &Found) {
        if !found.has_discarded {
            self.stored_of_large += found.stored_of_large;
        }
    }
}

/// All that apply, the largest first.
pub(super) fn of(facts: &Facts, memory: &Memory) -> Vec<Hint> {
    let mut hints = Vec::new();
    let mut add = |hint, bytes, what: String, advice| {
        hints.push(Hint {
            hint,
            bytes,
            what,
            advice,
        });
    };
    files(facts, &mut add);
    memory_of_processes(facts, &mut add);
    pages(memory, &mut add);
    if facts.stored_of_large > 0 {
        add(
            "kv_cache",
            facts.stored_of_large,
            "device memory in large allocations is stored, and nothing of it was discarded".into(),
            "if a KV cache is among it, drop it before: the engine's own sleep call, or discard in a freeze",
        );
    }
    hints.sort_by_key(|hint| std::cmp::Reverse(hint.bytes));
    hints
}

fn files(facts: &Facts, add: &mut impl FnMut(&'static str, u64, String, &'static str)) {
    if facts.rootfs > 0 {
        add(
            "rootfs",
            facts.rootfs,
            "what the container changed in its file system is included".into(),
            "podman container checkpoint --ignore-rootfs, with what is needed in a volume",
        );
    }
    if !matches!(facts.compression, "none" | "") {
        let place = if facts.is_in_memory {
            ", on a RAM disk"
        } else {
            ""
        };
        add(
            "compression",
            0,
            format!(
                "the archive is compressed with {}{place}",
                facts.compression
            ),
            "podman container checkpoint --compress=none: a restore need not unpack it",
        );
    }
    if facts.ghosts > 0 {
        add(
            "ghost_files",
            facts.ghosts,
            "files that were deleted while they were open are in the images".into(),
            "have the program close them before, or keep them on a file system that stays",
        );
    }
    if facts.logs > LOGS {
        add(
            "logs",
            facts.logs,
            "log files lie beside the images".into(),
            "remove them; CRIU writes less without -v4 (org.criu.config: verbosity 0)",
        );
    }
    if facts.logs_of_rootfs > 0 {
        add(
            "logs_in_rootfs",
            facts.logs_of_rootfs,
            "log files are among what the container changed".into(),
            "log to standard output or to a volume, or --ignore-rootfs",
        );
    }
    if facts.contents >= WORTH {
        add(
            "files_in_memory",
            facts.contents,
            "files of /dev/shm, of other file systems in memory or of volumes are included".into(),
            "empty them before; volumes: podman container restore --ignore-volumes",
        );
    }
    if facts.spare > 0 {
        add(
            "spare_room",
            facts.spare,
            "room that was made ahead for the next snapshot".into(),
            "remove spare-*.bin before the folder is copied",
        );
    }
}

fn memory_of_processes(
    facts: &Facts,
    add: &mut impl FnMut(&'static str, u64, String, &'static str),
) {
    if facts.large_of_driver > 0 {
        add(
            "gpu_memory_in_images",
            facts.large_of_driver,
            "large anonymous mappings of a process that uses CUDA and has no snapshot: the driver puts device memory there".into(),
            "checkpoint with rewarm (preloaded, `rewarm checkpoint`): device memory goes to a snapshot of its own, without zeros",
        );
    }
    if facts.anonymous_weights >= WORTH {
        add(
            "anonymous_weights",
            facts.anonymous_weights,
            "large private mappings of no file look like weights: their bytes are nearly random"
                .into(),
            "load weights by mmap (safetensors): pages of files that did not change are not dumped",
        );
    }
    if facts.shared >= WORTH {
        add(
            "shared_memory",
            facts.shared,
            "shared memory and memfds are in the images".into(),
            "free what was only needed for the start: caches, queues between workers",
        );
    }
    // Shared memory is left out: it is told above.
    if facts.not_lazy >= WORTH {
        add(
            "not_lazy",
            0,
            format!(
                "{} MiB of pages have to be in place before the process runs",
                facts.not_lazy >> 20
            ),
            "a page server cannot bring locked or shared pages later: do without mlock, and MAP_SHARED",
        );
    }
}

fn pages(memory: &Memory, add: &mut impl FnMut(&'static str, u64, String, &'static str)) {
    let pages = &memory.pages;
    let about = match pages.shares {
        Shares::Sample => "about ",
        _ => "",
    };
    let bytes = |share: f64| (share * memory.bytes as f64) as u64;
    let mut worth = |hint, share, what: &str, advice| {
        if bytes(share) >= WORTH {
            let percent = share * 100.0;
            add(
                hint,
                bytes(share),
                format!("{about}{percent:.1} % of the pages are {what}"),
                advice,
            );
        }
    };
    worth(
        "zero_pages",
        pages.zero_share,
        "zeros",
        "give memory back that is not used (malloc_trim, MADV_DONTNEED), or compress what is copied over a network",
    );
    worth(
        "duplicate_pages",
        pages.duplicate_share,
        "the same as another",
        "share them: load before the workers are forked, or map the same file",
    );
}
