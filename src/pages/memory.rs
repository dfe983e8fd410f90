//! Memory that chunks are read into.

use std::io;
use std::ptr;

const HUGE_PAGE: usize = 2 << 20;

/// Address space in huge pages, taken from the system as it is touched.
///
/// Forked children do not inherit it: where it is pinned, the kernel would have
/// to copy it at the fork. What is given up is the system's again, which memory of
/// the C library's heap need not be.
#[derive(Debug)]
pub struct Region {
    mapping: *mut u8,
    mapped: usize,
    base: *mut u8,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Region {}
// SAFETY: as above; whoever hands parts of it out sees that they are apart.
unsafe impl Sync for Region {}

impl Region {
    /// Reserves `bytes` bytes without touching them.
    ///
    /// # Errors
    /// If there is no room in the address space.
    pub fn reserve(bytes: usize) -> io::Result<Region> {
        let mapped = bytes + HUGE_PAGE;
        // SAFETY: a fresh private mapping wherever there is room.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = mapping.cast::<u8>();
        for advice in [
            libc::MADV_HUGEPAGE,
            libc::MADV_DONTFORK,
            libc::MADV_DONTDUMP,
        ] {
            // SAFETY: our own mapping. Advice that the kernel does not know is
            // a matter of speed or size only.
            unsafe { libc::madvise(mapping.cast(), mapped, advice) };
        }
        let base = mapping.map_addr(|address| address.next_multiple_of(HUGE_PAGE));
        Ok(Region {
            mapping,
            mapped,
            base,
        })
    }

    /// Its first byte, at the beginning of a huge page.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Leaves it mapped for good: for memory that somebody else may still touch.
    pub(crate) fn leak(&mut self) {
        self.mapped = 0;
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.mapped > 0 {
            // SAFETY: our own mapping, which nobody uses any more.
            unsafe { libc::munmap(self.mapping.cast(), self.mapped) };
        }
    }
}

/// Makes pages of a region present, so that a lack of memory is an error here and
/// not a signal later.
///
/// # Errors
/// The system's.
pub(crate) fn populate(memory: *mut u8, bytes: usize) -> io::Result<()> {
    // SAFETY: no page changes its content.
    if unsafe { libc::madvise(memory.cast(), bytes, libc::MADV_POPULATE_WRITE) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Before Linux 5.14 there is no such advice; whoever writes there populates.
    if error.raw_os_error() == Some(libc::EINVAL) {
        Ok(())
    } else {
        Err(error)
    }
}
