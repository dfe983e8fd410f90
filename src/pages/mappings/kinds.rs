//! File systems and files whose bytes may differ between memory and `read`.

use super::NotAFile;
use std::fs::{File, Metadata};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// File systems that are made up by the kernel, or of huge pages: the mapping
/// of such a file may be a device's memory.
const NOT_OF_FILES: [i64; 13] = [
    libc::HUGETLBFS_MAGIC,
    libc::PROC_SUPER_MAGIC,
    libc::SYSFS_MAGIC,
    libc::DEBUGFS_MAGIC,
    libc::TRACEFS_MAGIC,
    libc::SECURITYFS_MAGIC,
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
    libc::BPF_FS_MAGIC,
    libc::DEVPTS_SUPER_MAGIC,
    libc::BINDERFS_SUPER_MAGIC,
    libc::NSFS_MAGIC,
    libc::SELINUX_MAGIC,
];

/// Refuses file systems that hold no ordinary files.
pub(super) fn check_file_system(file: &File) -> Result<(), NotAFile> {
    match NOT_OF_FILES.contains(&file_system(file)?) {
        true => Err(NotAFile::Special),
        false => Ok(()),
    }
}

/// Refuses files whose mapping may hold other bytes than the file of its name.
///
/// tmpfs: what a sparse file lacks may come from a userfaultfd handler at the
/// first access, where `read` gives zeros.
///
/// overlayfs: a file of a lower layer is copied up when it is opened for
/// writing. Mappings keep the old one, and device, inode and name stay. So the
/// file must have been where it is before this process began.
pub(super) fn check_content(file: &File, status: &Metadata) -> Result<(), NotAFile> {
    let whole = match file_system(file)? {
        libc::TMPFS_MAGIC => status.blocks().saturating_mul(512) >= status.size(),
        libc::OVERLAYFS_SUPER_MAGIC => status
            .created()
            .ok()
            .zip(process_start())
            .is_some_and(|(born, start)| born + START_ERROR < start),
        _ => true,
    };
    match whole {
        true => Ok(()),
        false => Err(NotAFile::Special),
    }
}

fn file_system(file: &File) -> Result<i64, NotAFile> {
    let mut status = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: an open descriptor, and room for the answer.
    if unsafe { libc::fstatfs(file.as_raw_fd(), status.as_mut_ptr()) } != 0 {
        return Err(NotAFile::Unreadable);
    }
    // SAFETY: filled in.
    Ok(unsafe { status.assume_init() }.f_type)
}

/// Clocks of files and of processes tick 10 ms apart.
const START_ERROR: Duration = Duration::from_secs(1);

/// When this process began, by the clock of files.
fn process_start() -> Option<SystemTime> {
    let status = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the process, in brackets, may hold anything.
    let fields = status.rsplit_once(')')?.1;
    // Field 22, where `fields` begins with field 3: proc_pid_stat(5).
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    // SAFETY: no pointers.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    let start = Duration::from_millis(ticks * 1000 / per_second);
    let age = since_boot()?.checked_sub(start)?;
    SystemTime::now().checked_sub(age)
}

fn since_boot() -> Option<Duration> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: an out-pointer to a local.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) } != 0 {
        return None;
    }
    Some(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_begins_before_now_and_after_its_program_was_built() {
        let start = process_start().unwrap();
        let built = std::env::current_exe().unwrap().metadata().unwrap();
        assert!(start <= SystemTime::now());
        assert!(start + START_ERROR > built.modified().unwrap());
    }
}
