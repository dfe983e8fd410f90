//! Where each exported stub jumps to, and the driver behind it.

use crate::arch::unresolved;
use crate::{driver, state};
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use rewarm_abi::Hook;

/// Target of each stub: [`unresolved`] until the driver is known, then the
/// driver's own function, and the core's hook while the core is active.
pub(crate) static SLOTS: [AtomicPtr<c_void>; Hook::COUNT] =
    [const { AtomicPtr::new(unresolved as *mut c_void) }; Hook::COUNT];

macro_rules! export_stubs {
    ($($policy:ident $name:ident ( $($argument:tt)* );)*) => {
        mod exports {
            #![allow(non_snake_case)]
            $(export_stub!($name);)*

            /// Address of each exported stub.
            pub(super) static STUBS: [extern "C" fn(); rewarm_abi::Hook::COUNT] = [$($name),*];
        }
    };
}
rewarm_abi::for_each_hook!(export_stubs);

/// Address that programs are given for a hooked symbol.
pub(crate) fn stub(hook: Hook) -> *mut c_void {
    exports::STUBS[hook as usize] as *mut c_void
}

static FILLED: AtomicBool = AtomicBool::new(false);

/// Whether [`fill`] has run since the last [`clear`].
pub(crate) fn are_filled() -> bool {
    FILLED.load(Ordering::Acquire)
}

/// The target of a stub that was called before its slot was filled.
pub(crate) extern "C" fn resolve(index: usize) -> *mut c_void {
    if driver::link().is_none() {
        return no_driver as *mut c_void;
    }
    SLOTS[index].load(Ordering::Acquire)
}

/// Points every slot that is still unresolved at the driver (or at the front's
/// own answer); a slot that the core has taken stays as it is.
pub(crate) fn fill(real: &[*const c_void; Hook::COUNT]) {
    for hook in Hook::ALL {
        let target = match (state::front_hook(hook), real[hook as usize]) {
            (_, address) if address.is_null() => no_symbol as *mut c_void,
            (Some(ours), _) => ours,
            (None, address) => address.cast_mut(),
        };
        let _ = SLOTS[hook as usize].compare_exchange(
            unresolved as *mut c_void,
            target,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }
    FILLED.store(true, Ordering::Release);
}

/// Hands the slots that the core wants to the core.
pub(crate) fn take(hooks: &[*const c_void; Hook::COUNT]) {
    for (slot, hook) in SLOTS.iter().zip(hooks) {
        if !hook.is_null() {
            slot.store(hook.cast_mut(), Ordering::Release);
        }
    }
}

/// Back to the state before the driver was known.
pub(crate) fn clear() {
    FILLED.store(false, Ordering::Release);
    for slot in &SLOTS {
        slot.store(unresolved as *mut c_void, Ordering::Release);
    }
}

/// Every function, where no driver is loaded.
extern "C" fn no_driver() -> c_int {
    driver::STUB_LIBRARY
}

/// A function that the driver does not have.
extern "C" fn no_symbol() -> c_int {
    driver::NOT_FOUND
}
