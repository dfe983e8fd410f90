//! Functions that the table does not know, because the driver is younger.
//!
//! In a freezable process they have to go through the gate as well, so each one
//! that a program is given is given as a spare stub. There is no telling what the
//! program would do with one too many: it gets the driver's own address, and from
//! then on the process cannot be frozen.

use crate::arch::spare_stub;
use crate::slots::{SLOTS, TARGETS};
use crate::{driver, settings, state};
use core::ffi::{CStr, c_void};
use core::ptr;
use core::sync::atomic::Ordering;
use rewarm_abi::{Hook, SPARES};

/// Whether a function of that name, which the table does not have, is to be
/// gated in this process.
pub(crate) fn are_for(name: &CStr) -> bool {
    settings::freezable() && rewarm_abi::is_driver_name(name) && !rewarm_abi::is_open(name)
}

/// The driver's function of that name, if [`are_for`] it.
pub(crate) fn function(name: &CStr) -> Option<*mut c_void> {
    if !are_for(name) || state::is_disabled() || driver::link().is_none() {
        return None;
    }
    let address = driver::own_address(name);
    (!address.is_null()).then_some(address)
}

/// The stub that stands for the driver's function at `address`.
pub(crate) fn stub_of(address: *mut c_void) -> *mut c_void {
    for number in 0..SPARES {
        let index = Hook::COUNT + number;
        let taken = TARGETS.functions[index].compare_exchange(
            ptr::null_mut(),
            address,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        match taken {
            // Unless the gate is there already, the stub leads straight on.
            Ok(_) => SLOTS[index].fill(address),
            Err(other) if other == address => {}
            Err(_) => continue,
        }
        return spare_stub(number);
    }
    TARGETS.ungated.fetch_add(1, Ordering::SeqCst);
    address
}
