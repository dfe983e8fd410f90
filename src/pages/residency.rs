//! Which bytes of a file the page cache holds.

use super::{FileRange, PageError, PageFile};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

const PAGE: u64 = 4096;

/// How much of a range is in the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// Bytes in the page cache.
    pub resident: u64,
    /// All bytes.
    pub bytes: u64,
}

impl Residency {
    /// Bytes that would have to be read.
    pub fn missing(&self) -> u64 {
        self.bytes - self.resident
    }
}

/// Asks how much of a range is in the page cache.
///
/// cachestat(2) (Linux 6.5) counts pages of the file. Before it, or where it is
/// forbidden, mincore(2) does; for a file that the caller neither owns nor may
/// write, that says "all" whatever is true.
///
/// # Errors
/// If the system can tell neither way.
pub fn residency(range: &FileRange) -> Result<Residency, PageError> {
    let count = cachestat(range).or_else(|_| mincore(range));
    match count {
        Ok(pages) => Ok(Residency {
            resident: (pages * PAGE).min(range.bytes),
            bytes: range.bytes,
        }),
        Err(error) => Err(range.file.failed(range.offset, error)),
    }
}

/// Drops a file's pages from the page cache: writes back what is dirty, then asks
/// the system to forget the rest. Pages that are mapped or locked stay; ask
/// [`residency`].
///
/// # Errors
/// The system's.
pub fn evict(file: &PageFile) -> Result<(), PageError> {
    let descriptor = file.file().as_raw_fd();
    file.file()
        .sync_data()
        .or_else(|error| match error.raw_os_error() {
            // Nothing can be dirty that cannot be written back.
            Some(libc::EROFS | libc::EINVAL) => Ok(()),
            _ => Err(error),
        })
        .map_err(|error| PageError::new(file.path(), error))?;
    // SAFETY: an open descriptor.
    match unsafe { libc::posix_fadvise(descriptor, 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        code => Err(PageError::new(
            file.path(),
            io::Error::from_raw_os_error(code),
        )),
    }
}

/// Spots that are looked at, and how many bytes of each.
const SPOTS: u64 = 3;
const SPOT: u64 = 16 * PAGE;

/// Whether a part of a file seems to be in the page cache, from a few spots of
/// it: to ask for every page of it would take up to a tenth of the time of
/// reading it. `None` where the system does not tell cheaply.
pub(super) fn cached_spots(file: &PageFile, offset: u64, bytes: u64) -> Option<bool> {
    let spot = SPOT.min(bytes);
    for number in 0..SPOTS {
        let at = offset + (bytes - spot) * number / (SPOTS - 1);
        if cachestat_of(file, at, spot).ok()? * PAGE < spot {
            return Some(false);
        }
    }
    Some(true)
}

fn cachestat(range: &FileRange) -> io::Result<u64> {
    cachestat_of(&range.file, range.offset, range.bytes)
}

fn mincore(range: &FileRange) -> io::Result<u64> {
    mincore_of(&range.file, range.offset, range.bytes)
}

/// Pages of a part of a file by cachestat(2), see `linux/mman.h`.
fn cachestat_of(file: &PageFile, offset: u64, bytes: u64) -> io::Result<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        offset: u64,
        bytes: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Found {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    if bytes == 0 {
        // A length of 0 would mean "to the end".
        return Ok(0);
    }
    let range = Range { offset, bytes };
    let mut found = Found::default();
    // SAFETY: two structures as the system call has them.
    let asked = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.file().as_raw_fd(),
            &raw const range,
            &raw mut found,
            0,
        )
    };
    if asked == 0 {
        Ok(found.cached)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Pages of a part of a file by mincore(2), in windows.
fn mincore_of(file: &PageFile, offset: u64, bytes: u64) -> io::Result<u64> {
    const WINDOW: u64 = 1 << 30;
    let end = offset + bytes;
    let mut at = offset & !(PAGE - 1);
    let mut pages = 0;
    while at < end {
        let next = end.min(at + WINDOW);
        pages += mincore_window(file, at, (next - at) as usize)?;
        at = next;
    }
    Ok(pages)
}

fn mincore_window(file: &PageFile, offset: u64, bytes: usize) -> io::Result<u64> {
    // SAFETY: a fresh mapping, which is not touched.
    let mapping = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.file().as_raw_fd(),
            offset as libc::off_t,
        )
    };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mut pages = vec![0u8; bytes.div_ceil(PAGE as usize)];
    // SAFETY: our mapping, and a byte for each of its pages.
    let asked = unsafe { libc::mincore(mapping, bytes, pages.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    // SAFETY: our mapping.
    unsafe { libc::munmap(mapping, bytes) };
    if asked != 0 {
        return Err(error);
    }
    Ok(pages.iter().map(|page| u64::from(page & 1)).sum())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Store;
    use super::*;
    use std::io::Write;

    /// Not in /tmp, which is often in memory and cannot be evicted.
    pub(in super::super) fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::current_exe().unwrap();
        folder.with_file_name(format!("{name}-{}", std::process::id()))
    }

    /// Tries again where what is seen depends on the whole system: it may take
    /// any clean page back at any moment, but does not do so again and again.
    fn in_some_try<T: PartialEq + std::fmt::Debug>(wanted: T, mut attempt: impl FnMut() -> T) {
        let mut seen = attempt();
        for _ in 0..20 {
            if seen == wanted {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            seen = attempt();
        }
        assert_eq!(seen, wanted);
    }

    /// Both ways agree on a file that was just written, and on one that was
    /// evicted.
    #[test]
    fn both_ways_see_what_is_cached_and_what_was_evicted() {
        const BYTES: u64 = (8 << 20) + 5;
        let path = scratch("residency");
        let content = vec![7; BYTES as usize];
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&content).unwrap();
        let file = PageFile::open(&path).unwrap();
        let range = FileRange::whole(file.clone());
        let pages = BYTES.div_ceil(PAGE);
        let all_three = || {
            (
                mincore(&range).unwrap(),
                residency(&range).unwrap().resident,
                cached_spots(&file, 0, BYTES).unwrap_or(true),
            )
        };
        in_some_try((pages, BYTES, true), || {
            file.read_exact_at(&mut content.clone(), 0).unwrap();
            all_three()
        });
        if file.store() == Store::Memory {
            println!("files in {} cannot be evicted", path.display());
        } else {
            in_some_try((0, 0, cached_spots(&file, 0, BYTES).is_none()), || {
                evict(&file).unwrap();
                all_three()
            });
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_part_is_counted_alone() {
        let path = scratch("residency-part");
        let content = vec![1; 3 << 20];
        std::fs::write(&path, &content).unwrap();
        let range = FileRange {
            offset: 1 << 20,
            bytes: 1 << 20,
            file: PageFile::open(&path).unwrap(),
        };
        in_some_try(1 << 20, || {
            let file = &range.file;
            file.read_exact_at(&mut content.clone(), 0).unwrap();
            residency(&range).unwrap().resident
        });
        let nothing = FileRange { bytes: 0, ..range };
        assert_eq!(residency(&nothing).unwrap(), Residency::default());
        std::fs::remove_file(path).unwrap();
    }
}
