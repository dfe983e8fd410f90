//! The driver library of this process: found by the front, and loaded by it only
//! to prewarm.

use crate::{fork, slots, symbols};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use rewarm_abi::Hook;

/// `CUDA_ERROR_STUB_LIBRARY`: what NVIDIA's own link-time stub answers where no
/// driver is installed.
pub(crate) const STUB_LIBRARY: c_int = 34;
/// `CUDA_ERROR_NOT_FOUND`: the driver has no such function.
pub(crate) const NOT_FOUND: c_int = 500;

const LIBRARY: &CStr = c"libcuda.so.1";

type Addresses = [*const c_void; Hook::COUNT];

static HANDLE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static LINKED: AtomicBool = AtomicBool::new(false);

/// At most a third of the buckets are in use.
const BUCKETS: usize = (Hook::COUNT * 3).next_power_of_two();

/// The driver's symbols by index and by address.
struct Symbols {
    addresses: Addresses,
    /// A hash table of addresses: index of the symbol and 1, or 0.
    by_address: [u16; BUCKETS],
}

struct Real(UnsafeCell<Symbols>);
// SAFETY: written by the one thread that published HANDLE, before LINKED.
unsafe impl Sync for Real {}
static REAL: Real = Real(UnsafeCell::new(Symbols {
    addresses: [ptr::null(); Hook::COUNT],
    by_address: [0; BUCKETS],
}));

impl Symbols {
    /// Looks all of them up in the driver.
    fn find(&mut self, driver: *mut c_void) {
        let dlsym = symbols::real_dlsym();
        for hook in Hook::ALL {
            // SAFETY: a valid handle and a string.
            let address = unsafe { dlsym(driver, hook.name().as_ptr()) };
            self.addresses[hook as usize] = address;
            // Two names of one function: the first, which may have a hook.
            if !address.is_null() && self.at(address).is_none() {
                let bucket = self.bucket(address);
                self.by_address[bucket] = hook as u16 + 1;
            }
        }
    }

    fn at(&self, address: *const c_void) -> Option<Hook> {
        let found = self.by_address[self.bucket(address)];
        (found != 0).then(|| Hook::ALL[found as usize - 1])
    }

    /// The bucket that has `address`, or the free one where it would be.
    fn bucket(&self, address: *const c_void) -> usize {
        let hash = (address.addr() >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let mut bucket = hash % BUCKETS;
        loop {
            match self.by_address[bucket] {
                0 => return bucket,
                index if self.addresses[index as usize - 1] == address => return bucket,
                _ => bucket = (bucket + 1) % BUCKETS,
            }
        }
    }
}

/// Handle of the driver library; null before [`link`] found it.
pub(crate) fn handle() -> *mut c_void {
    HANDLE.load(Ordering::Acquire)
}

/// The driver's own address of each symbol, if a driver is loaded.
///
/// The first success keeps the library loaded for good: from then on addresses
/// into it are being handed out.
pub(crate) fn link() -> Option<&'static Addresses> {
    if !LINKED.load(Ordering::Acquire) && !find() {
        return None;
    }
    // SAFETY: no more writes once LINKED is set.
    let real = unsafe { &(*REAL.0.get()).addresses };
    if !slots::are_filled() {
        fork::refresh_driver();
        slots::fill(real);
    }
    Some(real)
}

/// The symbol whose function lies at `address` in the driver, which is linked.
pub(crate) fn symbol_at(address: *const c_void) -> Option<Hook> {
    // SAFETY: no more writes once LINKED is set.
    unsafe { (*REAL.0.get()).at(address) }
}

/// The address of the driver's own symbol of that name, which the table may not
/// have; null if there is none. The driver is linked.
pub(crate) fn own_address(name: &CStr) -> *mut c_void {
    // SAFETY: a valid handle and a string.
    let address = unsafe { symbols::real_dlsym()(handle(), name.as_ptr()) };
    if address.is_null() {
        // SAFETY: clears the message, which is not the application's.
        unsafe { libc::dlerror() };
    }
    address
}

/// Looks for a loaded driver. Two threads may come here at once; the one that
/// publishes the handle fills the table, and the other waits for it.
fn find() -> bool {
    // SAFETY: RTLD_NOLOAD only asks whether the library is there.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        // Leave no message for the program's next dlerror.
        // SAFETY: reads and clears the calling thread's message.
        unsafe { libc::dlerror() };
        return false;
    }
    if let Err(_other) =
        HANDLE.compare_exchange(ptr::null_mut(), handle, Ordering::AcqRel, Ordering::Acquire)
    {
        // SAFETY: gives back the reference taken above.
        unsafe { libc::dlclose(handle) };
        return wait_for_table();
    }
    // SAFETY: this thread alone won the exchange; nobody reads before LINKED.
    unsafe { (*REAL.0.get()).find(handle) };
    // SAFETY: clears what a missing symbol left behind.
    unsafe { libc::dlerror() };
    LINKED.store(true, Ordering::Release);
    true
}

/// The winner needs some microseconds and no lock that we could be holding,
/// except the loader's: give up after a while rather than wait for ever.
fn wait_for_table() -> bool {
    for _ in 0..10_000 {
        if LINKED.load(Ordering::Acquire) {
            return true;
        }
        // SAFETY: gives the processor away.
        unsafe { libc::sched_yield() };
    }
    false
}

/// Loads the driver, for prewarming only.
pub(crate) fn load() -> bool {
    // SAFETY: what the application would do itself a little later.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
    !handle.is_null() && link().is_some()
}
