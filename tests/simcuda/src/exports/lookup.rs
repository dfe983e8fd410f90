//! `cuGetProcAddress`, over the one table of names.

use super::table::{Row, rows_of};
use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_NOT_FOUND, require};
use crate::entry::driver_calls;
use crate::ffi::{Out, Text};
use crate::settings;
use std::ffi::c_void;

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

/// `CUdriverProcAddressQueryResult`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Success = 0,
    NotFound = 1,
    VersionNotSufficient = 2,
}

/// The newest spelling that the asked version knows; the per-thread one if that is asked for and exists.
fn find(name: &str, version: i32, flags: u64) -> (Status, *mut c_void) {
    let driver = settings::version();
    let mut rows = rows_of(name)
        .iter()
        .filter(|row| row.version <= driver && !settings::is_missing(row.spelling))
        .peekable();
    if rows.peek().is_none() {
        return (Status::NotFound, std::ptr::null_mut());
    }
    let suitable: Vec<&Row> = rows.filter(|row| row.version <= version).collect();
    let newest = |per_thread: bool| {
        suitable
            .iter()
            .filter(|row| row.per_thread == per_thread)
            .max_by_key(|row| row.version)
    };
    let per_thread = if flags & PER_THREAD != 0 {
        newest(true)
    } else {
        None
    };
    match per_thread.or_else(|| newest(false)) {
        Some(row) => (Status::Success, row.address()),
        None => (Status::VersionNotSufficient, std::ptr::null_mut()),
    }
}

fn check(name: Text, place: Out<*mut c_void>, version: i32, flags: u64) -> Answer<String> {
    let name = name.get()?;
    require(place.given() && flags <= 3, ERROR_INVALID_VALUE)?;
    require(version <= settings::version(), ERROR_INVALID_VALUE)?;
    Ok(name)
}

/// The form with a status: success with NULL for what is not there. An empty name asks nothing.
fn with_status(
    name: Text,
    place: Out<*mut c_void>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> Answer {
    let name = check(name, place, version, flags)?;
    let (found, address) = find(&name, version, flags);
    status.put_if_given(found as u32);
    place.put(address)
}

/// The older form, which has only its result to say that something is not there.
fn without_status(name: Text, place: Out<*mut c_void>, version: i32, flags: u64) -> Answer {
    let name = check(name, place, version, flags)?;
    let (found, address) = find(&name, version, flags);
    place.put(address)?;
    require(found == Status::Success || name.is_empty(), ERROR_NOT_FOUND)
}

driver_calls! {
    /// An address by name, without a status.
    free fn cuGetProcAddress(name: Text, place: Out<*mut c_void>, version: i32, flags: u64) = |_world| without_status(name, place, version, flags);
    /// An address by name.
    free fn cuGetProcAddress_v2(name: Text, place: Out<*mut c_void>, version: i32, flags: u64, status: Out<u32>) = |_world| with_status(name, place, version, flags, status);
}
