//! Where each stub jumps to, and the driver behind it.

use crate::arch::unresolved;
use crate::{driver, state};
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use rewarm_abi::{CoreTable, Hook, STUBS, Targets};

/// Target of one stub: [`unresolved`] until the driver is known, then the
/// driver's own function, and the core's hook or gate while the core is active.
#[repr(transparent)]
pub(crate) struct Slot(AtomicPtr<c_void>);

impl Slot {
    /// Gives the stub a target, if it has none yet.
    pub(crate) fn fill(&self, target: *mut c_void) {
        let _ = self.0.compare_exchange(
            unresolved as *mut c_void,
            target,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }

    fn set(&self, target: *const c_void) {
        self.0.store(target.cast_mut(), Ordering::SeqCst);
    }
}

/// One slot a stub.
pub(crate) static SLOTS: [Slot; STUBS] =
    [const { Slot(AtomicPtr::new(unresolved as *mut c_void)) }; STUBS];

/// What the gate leads to, should there be one.
pub(crate) static TARGETS: Targets = Targets::new();

macro_rules! export_stubs {
    ($($name:ident;)*) => {
        mod exports {
            #![allow(non_snake_case)]
            $(export_stub!($name);)*

            /// Address of each exported stub.
            pub(super) static STUBS: [extern "C" fn(); rewarm_abi::Hook::COUNT] = [$($name),*];
        }
    };
}
macro_rules! export_all {
    ($($policy:ident $name:ident ( $($argument:tt)* );)*) => {
        rewarm_abi::for_each_gated!(export_stubs $($name)*);
    };
}
rewarm_abi::for_each_hook!(export_all);

/// Address that programs are given for a symbol.
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
    SLOTS[index].0.load(Ordering::Acquire)
}

/// Points every slot that is still unresolved at the driver (or at the front's
/// own answer); a slot that the core has taken stays as it is.
pub(crate) fn fill(real: &[*const c_void; Hook::COUNT]) {
    for hook in Hook::ALL {
        let address = real[hook as usize].cast_mut();
        let target = match state::front_hook(hook) {
            _ if address.is_null() => no_symbol as *mut c_void,
            Some(ours) => ours,
            None => address,
        };
        SLOTS[hook as usize].fill(target);
    }
    for (slot, target) in SLOTS.iter().zip(&TARGETS.functions).skip(Hook::COUNT) {
        let address = target.load(Ordering::SeqCst);
        if !address.is_null() {
            slot.fill(address);
        }
    }
    FILLED.store(true, Ordering::Release);
}

/// Hands the slots that the core wants to the core: where there is a gate, all
/// of them; else those that have a hook. What the driver does not have and what
/// the front answers stays.
pub(crate) fn take(core: &CoreTable, real: &[*const c_void; Hook::COUNT]) {
    for hook in Hook::ALL {
        let index = hook as usize;
        let (own, driver) = (core.hooks[index], real[index]);
        if driver.is_null() || state::front_hook(hook).is_some() {
            continue;
        }
        let target = if own.is_null() { driver } else { own };
        TARGETS.functions[index].store(target.cast_mut(), Ordering::SeqCst);
        SLOTS[index].set(if core.gate.is_null() {
            target
        } else {
            core.gate
        });
    }
    if !core.gate.is_null() {
        for slot in &SLOTS[Hook::COUNT..] {
            slot.set(core.gate);
        }
    }
}

/// Back to the state before the driver was known.
pub(crate) fn clear() {
    FILLED.store(false, Ordering::Release);
    for slot in &SLOTS {
        slot.set(unresolved as *const c_void);
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
