//! Sleeping on a word of memory.

use std::ptr;
use std::sync::atomic::AtomicU32;

/// Sleeps while `word` is `value`; also returns early, after a signal for one.
pub(super) fn wait(word: &AtomicU32, value: u32) {
    // SAFETY: a word that is there; no time limit.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            ptr::null::<libc::timespec>(),
        )
    };
}

/// Wakes all that sleep on `word`.
pub(super) fn wake_all(word: &AtomicU32) {
    // SAFETY: a word that is there.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        )
    };
}

/// The calling thread's `errno`, put back when dropped.
pub(super) struct KeptErrno(i32);

impl KeptErrno {
    pub(super) fn new() -> KeptErrno {
        // SAFETY: the thread's own.
        KeptErrno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeptErrno {
    fn drop(&mut self) {
        // SAFETY: the thread's own.
        unsafe { *libc::__errno_location() = self.0 };
    }
}
