//! Buffers for staged bytes, kept for reuse: fresh pages would cost more than the copy.

use parking_lot::Mutex;

/// Bytes of a kept buffer; larger pieces are not staged.
pub const PIECE: usize = 1 << 20;
/// Pieces below this are allocated as they come.
const SMALL: usize = 64 * 1024;
/// Buffers that are kept at most.
const KEPT: usize = 64;

/// The buffers that nobody uses.
#[derive(Default)]
pub struct Staging(Mutex<Vec<Vec<u8>>>);

/// Bytes on their way to a device.
pub struct Staged {
    bytes: Vec<u8>,
    home: &'static Staging,
}

impl Staging {
    /// Copies the application's bytes.
    pub fn stage(&'static self, src: u64, bytes: usize) -> Staged {
        let kept = if bytes < SMALL {
            None
        } else {
            self.0.lock().pop()
        };
        let room = if bytes < SMALL { bytes } else { PIECE };
        let mut buffer = kept.unwrap_or_else(|| Vec::with_capacity(room));
        // SAFETY: the application vouches for its source, which is copied before this returns.
        buffer.extend_from_slice(unsafe { std::slice::from_raw_parts(src as *const u8, bytes) });
        Staged {
            bytes: buffer,
            home: self,
        }
    }
}

impl Staged {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.bytes.capacity() < SMALL {
            return;
        }
        let mut kept = self.home.0.lock();
        if kept.len() < KEPT {
            self.bytes.clear();
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}
