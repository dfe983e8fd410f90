//! Which pages of a private mapping are the process's own.
//!
//! A page that was written, or swapped out since, is no page of the file. A page
//! that the page table does not hold is the file's.

use super::{Facilities, NotAFile, PAGE};
use crate::descriptors::out_of_the_way;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// `/proc/self/pagemap`.
pub(super) struct Pagemap {
    file: File,
    /// Whether the kernel knows `PAGEMAP_SCAN`.
    scans: bool,
}

impl Pagemap {
    pub(super) fn open(facilities: Facilities) -> std::io::Result<Pagemap> {
        let file = File::open("/proc/self/pagemap")?;
        let mut pagemap = Pagemap {
            file: File::from(out_of_the_way(file.into())),
            scans: facilities.scan,
        };
        let here = &raw const pagemap as usize & !(PAGE - 1);
        pagemap.scans = facilities.scan && pagemap.scan(&(here..here + PAGE)).is_some();
        Ok(pagemap)
    }

    /// Insists that all pages of the range, which is mapped from a file, are
    /// the file's.
    pub(super) fn none_modified(&self, memory: &Range<usize>) -> Result<(), NotAFile> {
        let pages = memory.start & !(PAGE - 1)..memory.end.next_multiple_of(PAGE);
        let modified = if self.scans {
            self.scan(&pages)
        } else {
            self.read(&pages)
        };
        match modified {
            Some(false) => Ok(()),
            Some(true) => Err(NotAFile::Modified),
            None => Err(NotAFile::Unreadable),
        }
    }

    /// Asks for the first page that is in memory or swapped out, and not a
    /// file's.
    fn scan(&self, pages: &Range<usize>) -> Option<bool> {
        let mut found = PageRegion::default();
        let mut scan = PmScan {
            size: size_of::<PmScan>() as u64,
            start: pages.start as u64,
            end: pages.end as u64,
            vec: &raw mut found as u64,
            vec_len: 1,
            max_pages: 1,
            category_inverted: PAGE_IS_FILE,
            category_mask: PAGE_IS_FILE,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..PmScan::default()
        };
        // SAFETY: the kernel writes to the request, and one region to `found`.
        let regions = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &mut scan) };
        match regions {
            // An early end would leave pages unseen.
            0 if scan.walk_end == scan.end => Some(false),
            1.. => Some(true),
            _ => None,
        }
    }

    /// Reads an entry for each page.
    fn read(&self, pages: &Range<usize>) -> Option<bool> {
        let mut entries = [0u8; 8 * PAGE];
        let mut at = pages.start;
        while at < pages.end {
            let count = ((pages.end - at) / PAGE).min(entries.len() / 8);
            let block = &mut entries[..count * 8];
            let offset = (at / PAGE * 8) as u64;
            self.file.read_exact_at(block, offset).ok()?;
            let (entries, _) = block.as_chunks::<8>();
            if entries
                .iter()
                .any(|&entry| is_modified(u64::from_ne_bytes(entry)))
            {
                return Some(true);
            }
            at += count * PAGE;
        }
        Some(false)
    }
}

/// An entry of `/proc/self/pagemap`: bit 63 says in memory, 62 swapped out, 61
/// a page of a file (or shared anonymous memory).
fn is_modified(entry: u64) -> bool {
    let (present, swapped, file) = (1 << 63, 1 << 62, 1 << 61);
    entry & (present | swapped) != 0 && entry & file == 0
}

/// `struct pm_scan_arg` of `include/uapi/linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct PmScan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`, the answer.
#[repr(C)]
#[derive(Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = libc::_IOWR::<PmScan>(b'f' as u32, 16);
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_told_apart() {
        for (entry, modified) in [
            (0, false),
            (1 << 55, false),
            (1 << 63 | 1 << 61, false),
            (1 << 63, true),
            (1 << 62 | 5, true),
            (1 << 62 | 1 << 61, false),
        ] {
            assert_eq!(is_modified(entry), modified, "{entry:x}");
        }
    }
}
