//! What the preloaded front and the lazily opened core must agree on: the table
//! of hooked driver symbols and the two C tables that they hand each other.
//!
//! The front is tiny and `no_std`; it takes only the names. The core takes the
//! signatures too. Everything else (exports, real-address slots, the map for
//! swapping by address, the golden list of exports) is derived from
//! [`for_each_hook!`].
#![no_std]

mod hooks;

use core::ffi::{CStr, c_char, c_int, c_void};

/// Version of the interface between front and core. Both are installed
/// together; a mismatch means mixed installations, and the front stays inert.
pub const ABI_VERSION: u32 = 1;

/// Name of the symbol that the core exports and the front looks up.
pub const CORE_ENTRY: &CStr = c"rewarm_core_open";

/// Signature of [`CORE_ENTRY`]. Returns 0 when `core` has been filled in.
pub type CoreEntry = unsafe extern "C" fn(front: *const FrontTable, core: *mut CoreTable) -> c_int;

/// `dlsym` as the C library has it.
pub type DlsymFn = unsafe extern "C" fn(handle: *mut c_void, name: *const c_char) -> *mut c_void;

/// What the front tells the core. Lives as long as the process.
#[repr(C)]
pub struct FrontTable {
    /// [`ABI_VERSION`] of the front.
    pub abi: u32,
    /// Number of hooks the front was built with, [`Hook::COUNT`].
    pub hooks: u32,
    /// The real `dlsym`, which does not come back to the front.
    pub dlsym: DlsymFn,
    /// Handle of the loaded driver library.
    pub driver: *mut c_void,
    /// The driver's own address of each hooked symbol, null where it has none.
    pub real: [*const c_void; Hook::COUNT],
}

/// What the core gives back to the front.
#[repr(C)]
pub struct CoreTable {
    /// Replacement of each hooked symbol; null leaves the driver's own.
    pub hooks: [*const c_void; Hook::COUNT],
    /// Initialises the driver, retains the primary context and makes the lanes,
    /// on the calling thread.
    pub prewarm: Option<unsafe extern "C" fn()>,
    /// Told once the application's own `cuInit` has returned, with the
    /// nanoseconds that it took.
    pub initialised: Option<unsafe extern "C" fn(nanoseconds: u64)>,
    /// Runs in a forked child, where only the calling thread exists: the
    /// core's threads are gone and its locks may be held for ever. It passes
    /// everything through until it is opened again.
    pub forked: Option<unsafe extern "C" fn()>,
}

impl CoreTable {
    /// A table that replaces nothing.
    pub const EMPTY: CoreTable = CoreTable {
        hooks: [core::ptr::null(); Hook::COUNT],
        prewarm: None,
        initialised: None,
        forked: None,
    };
}

// SAFETY: the pointers are addresses of code and an opaque handle; nothing is
// reached through them without the driver's own rules for threads.
unsafe impl Sync for FrontTable {}
// SAFETY: as above, addresses of code.
unsafe impl Sync for CoreTable {}

macro_rules! declare_hooks {
    ($($policy:ident $name:ident ( $($arg:ident : $ty:ty),* $(,)? );)*) => {
        /// Index of a hooked symbol in every table that has one entry a hook.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum Hook { $($name),* }

        impl Hook {
            /// Number of hooked symbols.
            pub const COUNT: usize = [$(Hook::$name),*].len();

            /// Every hook, in the order of the table.
            pub const ALL: [Hook; Hook::COUNT] = [$(Hook::$name),*];

            /// The symbol's exact name, as the driver exports it.
            pub const fn name(self) -> &'static CStr {
                Hook::NAMES[self as usize]
            }

            const NAMES: [&'static CStr; Hook::COUNT] = [$(
                match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => unreachable!(),
                }
            ),*];
        }
    };
}
for_each_hook!(declare_hooks);
