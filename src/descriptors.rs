//! Descriptors in a process that is not ours.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Descriptors below this are left to the application: scripts and daemons give
/// them numbers of their own, and some write to 1 and 2 after closing them.
const OUT_OF_THE_WAY: libc::c_int = 200;

/// Moves a descriptor out of the application's way. Where so many are not
/// allowed, the low one serves.
pub fn out_of_the_way(low: OwnedFd) -> OwnedFd {
    // SAFETY: an open descriptor.
    let high = unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) };
    if high < 0 {
        return low;
    }
    // SAFETY: the duplicate is fresh and nobody else's.
    unsafe { OwnedFd::from_raw_fd(high) }
}
