//! The driver's own functions behind the hooks.

#![allow(non_snake_case, clippy::too_many_arguments, clippy::missing_safety_doc)]

use rewarm::driver::sys::*;
use rewarm_abi::{Hook, for_each_hook};
use std::sync::atomic::{AtomicPtr, Ordering};

static REAL: [AtomicPtr<c_void>; Hook::COUNT] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; Hook::COUNT];

/// Takes the addresses that the front found.
pub(crate) fn set(addresses: &[*const c_void; Hook::COUNT]) {
    for (real, address) in REAL.iter().zip(addresses) {
        real.store(address.cast_mut(), Ordering::Relaxed);
    }
}

macro_rules! declare_real {
    ($($policy:ident $name:ident ( $($arg:ident : $ty:ty),* $(,)? );)*) => {$(
        #[inline(always)]
        #[allow(dead_code)]
        pub(crate) unsafe fn $name($($arg: $ty),*) -> CUresult {
            let address = REAL[Hook::$name as usize].load(Ordering::Relaxed);
            // SAFETY: the table gives this symbol this signature, and a hook
            // only runs where the driver has the symbol.
            let function = unsafe {
                std::mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn($($ty),*) -> CUresult,
                >(address)
            };
            // SAFETY: the application's own call.
            unsafe { function($($arg),*) }
        }
    )*};
}
for_each_hook!(declare_real);
