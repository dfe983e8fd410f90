//! Forked children.
//!
//! The driver does not work in the child of a process that has initialised it.
//! That is the application's own affair once it has used CUDA. But where only
//! prewarming has, the child must be as if it had not: the driver library's
//! writable data are put back to what they were before `cuInit` (512 KiB on
//! driver 580), upon which it initialises afresh. The child's first question to
//! the driver pays for that; a child that never asks pays nothing.

use crate::{prewarm, state};
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// Writable segments of the driver library: most have one or two.
const MOST_SEGMENTS: usize = 8;

#[derive(Clone, Copy)]
struct Segment {
    start: *mut u8,
    bytes: usize,
    saved: *mut u8,
}

struct Saved {
    segments: core::cell::UnsafeCell<[Segment; MOST_SEGMENTS]>,
    count: AtomicUsize,
}
// SAFETY: written by the thread that starts prewarming before `count` says so;
// read in forked children alone.
unsafe impl Sync for Saved {}

static SAVED: Saved = Saved {
    segments: core::cell::UnsafeCell::new(
        [Segment {
            start: ptr::null_mut(),
            bytes: 0,
            saved: ptr::null_mut(),
        }; MOST_SEGMENTS],
    ),
    count: AtomicUsize::new(0),
};

static WATCHING: AtomicBool = AtomicBool::new(false);

/// What the driver library's data are in this process.
static DATA: AtomicU8 = AtomicU8::new(FRESH);
/// Its own.
const FRESH: u8 = 0;
/// Those of a parent that had initialised it.
const STALE: u8 = 1;
/// Being put back, by another thread.
const REFRESHING: u8 = 2;

/// Has forks noticed from now on.
pub(crate) fn watch() {
    if WATCHING.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: the handlers live as long as the process: this library is
    // preloaded and never unloaded.
    unsafe { libc::pthread_atfork(Some(before), None, Some(in_child)) };
}

/// A fork in the middle of `cuInit` would leave the child with locks that
/// nobody holds: prewarming is waited for.
unsafe extern "C" fn before() {
    prewarm::wait();
}

unsafe extern "C" fn in_child() {
    if prewarm::is_this_thread() {
        return; // the driver itself forks helpers; they exec
    }
    // Stale already: the parent was such a child itself and never asked.
    let initialised = prewarm::ran() || DATA.load(Ordering::Acquire) != FRESH;
    let put_back = initialised && !state::application_used_cuda();
    DATA.store(if put_back { STALE } else { FRESH }, Ordering::Release);
    prewarm::forget();
    state::after_fork(put_back);
}

/// Keeps the driver's writable data as they are now, before `cuInit`.
pub(crate) fn save_driver(address_in_driver: *const c_void) -> bool {
    let mut search = Search {
        address: address_in_driver as usize,
        count: 0,
        failed: false,
    };
    // SAFETY: the callback gets the pointer passed here, while it lives.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
    if search.failed || search.count == 0 {
        return false;
    }
    SAVED.count.store(search.count, Ordering::Release);
    true
}

/// In a child: undoes the parent's prewarming, once.
pub(crate) fn refresh_driver() {
    match DATA.compare_exchange(STALE, REFRESHING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(_) => return wait_until_fresh(),
    }
    // SAFETY: complete since `count` was set, and this is a forked child.
    let segments = unsafe { &*SAVED.segments.get() };
    for segment in &segments[..SAVED.count.load(Ordering::Acquire)] {
        // SAFETY: the library is still mapped where it was; the segment is
        // writable and as long as its copy.
        unsafe { ptr::copy_nonoverlapping(segment.saved, segment.start, segment.bytes) };
    }
    DATA.store(FRESH, Ordering::Release);
}

/// Another thread of the child may be at it, which takes some microseconds.
fn wait_until_fresh() {
    while DATA.load(Ordering::Acquire) == REFRESHING {
        // SAFETY: gives the processor away.
        unsafe { libc::sched_yield() };
    }
}

struct Search {
    address: usize,
    count: usize,
    failed: bool,
}

unsafe extern "C" fn visit(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    search: *mut c_void,
) -> c_int {
    // SAFETY: both come from `dl_iterate_phdr` as it was called above.
    let (info, search) = unsafe { (&*info, &mut *search.cast::<Search>()) };
    // SAFETY: the library's own program headers.
    let headers =
        unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let base = info.dlpi_addr as usize;
    let range = |header: &libc::Elf64_Phdr| {
        let start = base + header.p_vaddr as usize;
        start..start + header.p_memsz as usize
    };
    let loads = || {
        headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
    };
    if !loads().any(|header| range(header).contains(&search.address)) {
        return 0;
    }
    // What is read-only after relocation neither changes nor can be written.
    let read_only = headers
        .iter()
        .find(|header| header.p_type == libc::PT_GNU_RELRO)
        .map(range)
        .unwrap_or(0..0);
    for header in loads().filter(|header| header.p_flags & libc::PF_W != 0) {
        let mut writable = range(header);
        if read_only.contains(&writable.start) {
            writable.start = read_only.end & !0xfff;
        }
        if !writable.is_empty() && !keep(writable, search) {
            search.failed = true;
        }
    }
    1
}

fn keep(range: core::ops::Range<usize>, search: &mut Search) -> bool {
    if search.count == MOST_SEGMENTS {
        return false;
    }
    // SAFETY: a plain allocation, checked below.
    let saved = unsafe { libc::malloc(range.len()) }.cast::<u8>();
    if saved.is_null() {
        return false;
    }
    let start = range.start as *mut u8;
    // SAFETY: a mapped, writable segment; the slot of the table is this
    // thread's until `count` is published.
    unsafe {
        ptr::copy_nonoverlapping(start, saved, range.len());
        (*SAVED.segments.get())[search.count] = Segment {
            start,
            bytes: range.len(),
            saved,
        };
    }
    search.count += 1;
    true
}
