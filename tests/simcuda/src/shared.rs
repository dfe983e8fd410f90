//! Files that hold physical memory which may be shared: one each, named after its device.

use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_OUT_OF_MEMORY, require};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};

/// What the names of such files begin with.
const NAME: &str = "simcuda-physical-";

/// A file of zeroes.
pub fn create(device: usize, size: u64) -> Answer<RawFd> {
    let name = CString::new(format!("{NAME}{device}")).map_err(|_| ERROR_INVALID_VALUE)?;
    // SAFETY: a name that ends; the descriptor is checked.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    require(file >= 0, ERROR_OUT_OF_MEMORY)?;
    // SAFETY: a fresh descriptor that nobody else has.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(size).map_err(|_| ERROR_OUT_OF_MEMORY)?;
    Ok(file.into_raw_fd())
}

/// Another descriptor for it.
pub fn duplicate(file: RawFd) -> Answer<RawFd> {
    // SAFETY: whatever the number is, the kernel checks it.
    let copy = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 3) };
    require(copy >= 0, ERROR_INVALID_VALUE)?;
    Ok(copy)
}

/// The device and the bytes of such a file; others are invalid values.
pub fn identify(file: RawFd) -> Answer<(usize, u64)> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let link = link.map_err(|_| ERROR_INVALID_VALUE)?;
    let device = link
        .to_str()
        .and_then(|text| text.strip_prefix("/memfd:")?.strip_prefix(NAME))
        .and_then(|text| text.split(' ').next()?.parse().ok());
    // SAFETY: a place for the answer, which is all zero before.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel checks the descriptor.
    let known = unsafe { libc::fstat(file, &raw mut status) } == 0;
    require(known, ERROR_INVALID_VALUE)?;
    Ok((device.ok_or(ERROR_INVALID_VALUE)?, status.st_size as u64))
}

/// Gives a descriptor up.
pub fn close(file: RawFd) {
    // SAFETY: a descriptor that the caller owns and forgets.
    unsafe { libc::close(file) };
}
