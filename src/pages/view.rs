//! A file as a mapping that can be copied from safely.
//!
//! `pread` moves each page that it reads for the second time to the list of those in
//! use, under one lock for all CPUs: what was just written to tmpfs comes back at
//! 28 GB/s, however many threads read. A mapping that is said to be read at random
//! leaves the lists alone (53 GB/s with 12 threads; H200, 16 CPUs).
//!
//! Who touches a page of a file that has become shorter is sent SIGBUS. So the kernel
//! copies (process_vm_writev(2), to this very process), which stops there instead.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// What is unmapped at once, in bytes: who wants to map something waits so long.
const STEP: usize = 64 << 20;

/// A mapping of all of a file.
#[derive(Debug)]
pub(super) struct View {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: only read from, by the kernel, which checks each page.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps the first `bytes` bytes of a file.
    pub(super) fn of(file: &File, bytes: u64) -> Option<View> {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
        // SAFETY: a fresh mapping of an open file, wherever there is room.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        for advice in [libc::MADV_RANDOM, libc::MADV_DONTFORK, libc::MADV_DONTDUMP] {
            // SAFETY: our own mapping.
            unsafe { libc::madvise(start, bytes, advice) };
        }
        Some(View {
            start: start.cast(),
            bytes,
        })
    }

    /// Copies from `offset` on. Returns how many bytes came.
    ///
    /// # Errors
    /// The system's: the file has become shorter, or the call is forbidden here.
    ///
    /// # Safety
    /// `to` may be written, `bytes` bytes.
    pub(super) unsafe fn copy(&self, offset: u64, to: *mut u8, bytes: usize) -> io::Result<usize> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = bytes.min(self.bytes.saturating_sub(offset));
        let from = self.start.wrapping_add(offset);
        let [source, target] = [from, to].map(|base| libc::iovec {
            iov_base: base.cast(),
            iov_len: bytes,
        });
        // SAFETY: both are this process's; what cannot be reached is an error.
        let came = unsafe { libc::process_vm_writev(libc::getpid(), &source, 1, &target, 1, 0) };
        usize::try_from(came).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        for at in (0..self.bytes).step_by(STEP) {
            let bytes = STEP.min(self.bytes - at);
            // SAFETY: a part of our own mapping, which nobody reads any more.
            unsafe { libc::munmap(self.start.wrapping_add(at).cast(), bytes) };
        }
    }
}
