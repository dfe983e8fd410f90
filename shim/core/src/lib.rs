//! `librewarm_core.so`: what the hooks do.
//!
//! The front opens this library when the process initialises CUDA, or in the
//! prewarming thread, and replaces the driver's functions by those of
//! [`hooks`]. They find the process's state in [`process`], decide in
//! [`decision`] whether a copy is fanned out over the lanes of the engine, and
//! otherwise call the driver ([`real`]) with the arguments as they came.

mod captures;
mod contexts;
mod counters;
mod decision;
mod devices;
mod fills;
mod freezing;
mod gate;
mod got;
mod hooks;
mod ledger;
mod log;
mod prewarm;
mod process;
mod real;
mod report;

use rewarm_abi::{ABI_VERSION, CoreTable, FrontTable, Hook};
use std::ffi::c_int;

/// Opens the core: fills `core` with the hooks. Called once in a process, and
/// once more in a forked child that starts afresh.
///
/// # Safety
/// `front` lives as long as the process; `core` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rewarm_core_open(front: *const FrontTable, core: *mut CoreTable) -> c_int {
    // SAFETY: the caller's promise.
    let (front, core) = unsafe { (&*front, &mut *core) };
    if front.abi != ABI_VERSION || front.hooks as usize != Hook::COUNT {
        return 1;
    }
    real::set(&front.real);
    if let Err(error) = process::open(front) {
        tracing::error!(%error, "the driver lacks what rewarm needs");
        return 2;
    }
    let freezable = process::current().is_some_and(|process| process.settings.freezable);
    *core = CoreTable {
        hooks: hooks::table(),
        gate: if front.freezable && freezable {
            gate::open(front)
        } else {
            std::ptr::null()
        },
        prewarm: Some(prewarm::run),
        initialised: Some(process::initialised),
        forked: Some(process::forked),
    };
    0
}
