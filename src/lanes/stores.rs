//! Getting bytes into a slot so that the link can read them fast.
//!
//! A GPU that reads memory through PCIe asks the caches first. What a CPU has just
//! written lies changed in that CPU's own cache, and comes out of there at half of
//! the link's rate: a transfer of 4 MiB that eight CPUs had just written by
//! ordinary stores ran at 29 GB/s instead of 50 (H200, Intel Xeon; `BENCHMARKS.md`).
//! Later in a large copy this does not matter, as bytes have left that cache by the
//! time the link gets to them; there, stores past the caches only cost memory
//! bandwidth. (Moving out of the cache what `pread` wrote, by `cldemote` or `clwb`,
//! was tried and gained nothing: it takes the CPU as long as it saves the link.)

use std::ptr;

/// Bytes of a copy that are stored past the caches.
const SOON_READ: usize = 64 << 20;

const LINE: usize = 64;

/// Copies a part of a source, `at` bytes from its beginning, into a slot.
///
/// # Safety
/// As [`ptr::copy_nonoverlapping`].
pub(super) unsafe fn stage(from: *const u8, slot: *mut u8, bytes: usize, at: usize) {
    // SAFETY: passed on.
    unsafe {
        if at < SOON_READ {
            copy_past_caches(from, slot, bytes);
        } else {
            ptr::copy_nonoverlapping(from, slot, bytes);
        }
    }
}

/// Copies with stores that go past the caches.
///
/// # Safety
/// As [`ptr::copy_nonoverlapping`].
unsafe fn copy_past_caches(from: *const u8, to: *mut u8, bytes: usize) {
    let head = to.align_offset(LINE).min(bytes);
    let lines = (bytes - head) / LINE * LINE;
    // SAFETY: the three parts are the whole; the middle one begins at a line.
    unsafe {
        ptr::copy_nonoverlapping(from, to, head);
        copy_lines(from.add(head), to.add(head), lines);
        let done = head + lines;
        ptr::copy_nonoverlapping(from.add(done), to.add(done), bytes - done);
    }
}

/// Copies whole lines; `to` is aligned to a line, `bytes` a multiple of one.
unsafe fn copy_lines(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    if is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has it; as the caller says.
        return unsafe { copy_lines_avx(from, to, bytes) };
    }
    for at in (0..bytes).step_by(16) {
        // SAFETY: within the caller's memory, aligned.
        unsafe { _mm_stream_si128(to.add(at).cast(), _mm_loadu_si128(from.add(at).cast())) };
    }
    // Others see these stores only behind a fence.
    // SAFETY: has no requirements.
    unsafe { _mm_sfence() };
}

/// [`copy_lines`] with wider registers.
#[target_feature(enable = "avx")]
unsafe fn copy_lines_avx(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{_mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
    for at in (0..bytes).step_by(LINE) {
        // SAFETY: within the caller's memory, aligned.
        unsafe {
            let low = _mm256_loadu_si256(from.add(at).cast());
            let high = _mm256_loadu_si256(from.add(at + 32).cast());
            _mm256_stream_si256(to.add(at).cast(), low);
            _mm256_stream_si256(to.add(at + 32).cast(), high);
        }
    }
    _mm_sfence();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_no_other_changes() {
        let source: Vec<u8> = (0..10_000u32)
            .map(|number| ((number * 31) >> 3) as u8)
            .collect();
        for from in [0, 1, 8, 63] {
            for to in [0, 1, 17, 64] {
                for bytes in [0, 1, 15, 63, 64, 65, 128, 1000, 4096, 9000] {
                    let mut target = vec![0xee; 10_000];
                    // SAFETY: both are long enough.
                    unsafe {
                        copy_past_caches(source[from..].as_ptr(), target[to..].as_mut_ptr(), bytes);
                    }
                    assert_eq!(target[to..to + bytes], source[from..from + bytes]);
                    assert!(target[..to].iter().all(|byte| *byte == 0xee));
                    assert!(target[to + bytes..].iter().all(|byte| *byte == 0xee));
                }
            }
        }
    }
}
