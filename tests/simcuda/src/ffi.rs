//! Arguments as they come over the C boundary.

use crate::codes::{Answer, ERROR_INVALID_VALUE};
use std::ffi::{CStr, c_char, c_void};

/// An address that the API calls a device pointer.
pub type DevicePtr = u64;
/// Contexts, streams, events, graphs …: opaque, never dereferenced.
pub type Handle = u64;

/// A pointer through which a result leaves.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> std::fmt::Debug for Out<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T: Copy> Out<T> {
    /// A place that came in another way.
    pub fn from_raw(place: *mut T) -> Self {
        Self(place)
    }

    /// Whether the caller gave a place at all.
    pub fn given(self) -> bool {
        !self.0.is_null()
    }

    /// Writes the result; NULL is an invalid value.
    pub fn put(self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        self.put_if_given(value);
        Ok(())
    }

    /// Writes the result if the caller wants it.
    pub fn put_if_given(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: the C caller passes NULL or a place for a T; some callers do not align it.
            unsafe { self.0.write_unaligned(value) }
        }
    }

    /// Writes into the n-th of several places.
    pub fn put_at(self, index: usize, value: T) {
        // SAFETY: the C caller passes a place for as many values as it says, which bounds `index`.
        unsafe { self.0.add(index).write_unaligned(value) }
    }

    /// What is there now (in and out parameters).
    pub fn take(self) -> Answer<T> {
        In(self.0.cast_const()).get()
    }
}

/// A pointer to one or several values that the caller gives.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> std::fmt::Debug for In<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T: Copy> In<T> {
    /// Values at an address that came in another way.
    pub fn from_raw(address: *const T) -> Self {
        Self(address)
    }

    /// Whether the caller gave anything.
    pub fn given(self) -> bool {
        !self.0.is_null()
    }

    /// The value; NULL is an invalid value.
    pub fn get(self) -> Answer<T> {
        self.at(0)
    }

    /// The n-th of several values.
    pub fn at(self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the C caller passes as many values as it says, which bounds `index`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }
}

/// A C string that the caller gives.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.get().unwrap_or_default())
    }
}

impl Text {
    /// The string; NULL is an invalid value.
    pub fn get(self) -> Answer<String> {
        if self.0.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        // SAFETY: the C caller passes NULL or a NUL-terminated string.
        let text = unsafe { CStr::from_ptr(self.0) };
        Ok(text.to_string_lossy().into_owned())
    }
}

/// Writes `text` and a NUL into a buffer of `room` bytes, cut where it must be.
pub fn put_text(buffer: Out<u8>, room: i32, text: &str) -> Answer {
    if !buffer.given() || room <= 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    let length = text.len().min(room as usize - 1);
    for (index, byte) in text.as_bytes()[..length].iter().enumerate() {
        buffer.put_at(index, *byte);
    }
    buffer.put_at(length, 0);
    Ok(())
}

/// A raw pointer of the application that travels to a stream's thread.
#[derive(Clone, Copy, Debug)]
pub struct Foreign(pub *mut c_void);

// SAFETY: the pointer is only handed back to the application, whose API contract says
// that it may be used on another thread.
unsafe impl Send for Foreign {}
// SAFETY: as above.
unsafe impl Sync for Foreign {}
