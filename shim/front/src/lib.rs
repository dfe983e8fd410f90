//! `librewarm.so`: the preloaded library.
//!
//! It is in every process of a job, most of which never use CUDA, so it is tiny,
//! needs the C library alone, allocates nothing and does nothing until the
//! process initialises CUDA. Then it opens the core and hands it the hooks.
//!
//! Three routes lead to the driver, and each ends at the same exported stub,
//! which jumps through a slot ([`slots`]):
//!
//! - ELF symbols of a program linked with libcuda: our exports come first;
//! - `dlsym` on a handle: answered in [`symbols`];
//! - `cuGetProcAddress`: answered in [`lookup`].
//!
//! In a freezable process this is so for every function, and the slots lead to
//! the core's gate; elsewhere for those that have a hook, and what else is
//! exported jumps straight to the driver.
#![no_std]

#[macro_use]
mod arch;
mod driver;
mod fork;
mod lookup;
mod prewarm;
mod settings;
mod slots;
mod spares;
mod state;
mod symbols;

// The `libc` crate leaves this to `std` when another crate of the build uses it
// with `std`.
#[link(name = "c")]
unsafe extern "C" {}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    if settings::switched_off() {
        state::disable();
        return;
    }
    settings::freezable();
    prewarm::start_if_wanted();
}

/// Nothing here panics on purpose; if something does, the process must not go
/// on with half an answer.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}
