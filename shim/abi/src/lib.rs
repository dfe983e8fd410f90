//! What the preloaded front and the lazily opened core must agree on: the table
//! of driver symbols and the C tables that they hand each other.
//!
//! The front is tiny and `no_std`; it takes only the names. The core takes the
//! signatures too. Everything else (exports, real-address slots, the map for
//! swapping by address, the golden list of exports) is derived from
//! [`for_each_hook!`] and [`for_each_gated!`].
#![no_std]

mod gated;
mod hooks;
mod names;
mod stack;

pub use gated::{is_driver_name, is_open};
pub use names::Hook;

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize};

/// Version of the interface between front and core. Both are installed
/// together; a mismatch means mixed installations, and the front stays inert.
pub const ABI_VERSION: u32 = 2;

/// Functions that the table does not know and that can go through the gate all
/// the same.
pub const SPARES: usize = 256;

/// Stubs in all: one a symbol of the table, then the spare ones.
pub const STUBS: usize = Hook::COUNT + SPARES;

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
    /// The driver's own address of each symbol, null where it has none.
    pub real: [*const c_void; Hook::COUNT],
    /// Whether the process was started to be freezable: only then does the
    /// front lead every function to the gate.
    pub freezable: bool,
    /// What lies behind the gate.
    pub targets: &'static Targets,
}

/// Where the gate leads to: the front fills it, the core reads it at each call.
#[repr(C)]
pub struct Targets {
    /// The core's hook or the driver's function behind each stub, null behind
    /// a spare one that is not in use.
    pub functions: [AtomicPtr<c_void>; STUBS],
    /// Times that a function was handed out past the gate, for want of a spare
    /// stub.
    pub ungated: AtomicUsize,
}

impl Targets {
    /// Nothing is behind any stub.
    #[allow(clippy::new_without_default)] // only for statics
    pub const fn new() -> Targets {
        Targets {
            functions: [const { AtomicPtr::new(ptr::null_mut()) }; STUBS],
            ungated: AtomicUsize::new(0),
        }
    }
}

/// What the core gives back to the front.
#[repr(C)]
pub struct CoreTable {
    /// Replacement of each symbol; null leaves the driver's own.
    pub hooks: [*const c_void; Hook::COUNT],
    /// Where every stub leads in a freezable process, except those that the
    /// front answers: it expects the stub's index in `r11`, and goes on to that
    /// of [`Targets`]. Null elsewhere.
    pub gate: *const c_void,
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
        hooks: [ptr::null(); Hook::COUNT],
        gate: ptr::null(),
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
