//! Buffers for staged bytes, kept for reuse: fresh pages would cost more than the copy.

use parking_lot::Mutex;
use std::ptr::null_mut;

/// Bytes of a kept buffer; larger pieces are not staged.
pub const PIECE: usize = 1 << 20;
/// Pieces below this are allocated as they come.
const SMALL: usize = 64 * 1024;
/// Buffers that are kept at most.
const KEPT: usize = 64;

/// The buffers that nobody uses.
#[derive(Default)]
pub struct Staging(Mutex<Vec<Buffer>>);

/// Room for a piece, beside the C library's heap, which would keep its pages.
struct Buffer(*mut u8);

// SAFETY: memory that one owner has.
unsafe impl Send for Buffer {}
// SAFETY: written only by who has it alone.
unsafe impl Sync for Buffer {}

impl Buffer {
    fn new() -> Buffer {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping, checked below.
        let base = unsafe { libc::mmap(null_mut(), PIECE, access, kind, -1, 0) };
        assert!(base != libc::MAP_FAILED, "there is no memory to stage in");
        Buffer(base.cast())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody uses any more.
        unsafe { libc::munmap(self.0.cast(), PIECE) };
    }
}

/// Bytes on their way to a device.
pub struct Staged {
    bytes: Bytes,
    home: &'static Staging,
}

enum Bytes {
    Small(Vec<u8>),
    /// So many in a buffer, which is there until the end.
    Large(Option<Buffer>, usize),
}

impl Staging {
    /// Copies the application's bytes, at most [`PIECE`].
    pub fn stage(&'static self, src: u64, bytes: usize) -> Staged {
        assert!(bytes <= PIECE, "a piece is too large");
        // SAFETY: the application vouches for its source, which is copied before this returns.
        let source = unsafe { std::slice::from_raw_parts(src as *const u8, bytes) };
        let staged = if bytes < SMALL {
            Bytes::Small(source.to_vec())
        } else {
            let kept = self.0.lock().pop();
            let buffer = kept.unwrap_or_else(Buffer::new);
            // SAFETY: the buffer has the room.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), buffer.0, bytes) };
            Bytes::Large(Some(buffer), bytes)
        };
        Staged {
            bytes: staged,
            home: self,
        }
    }

    /// Gives up what nobody uses.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Staged {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Small(bytes) => bytes,
            Bytes::Large(Some(buffer), bytes) => {
                // SAFETY: filled by `stage`.
                unsafe { std::slice::from_raw_parts(buffer.0, *bytes) }
            }
            Bytes::Large(None, _) => &[],
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Bytes::Large(buffer, _) = &mut self.bytes {
            let mut kept = self.home.0.lock();
            if kept.len() < KEPT {
                kept.extend(buffer.take());
            }
        }
    }
}
