//! The functions that stand in for the driver's, one module a policy of the
//! hook table.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

mod context;
mod copy;
mod memory;
mod shaped;

use rewarm::driver::sys::c_void;
use rewarm_abi::{Hook, for_each_hook};

macro_rules! hook_addresses {
    ($($policy:ident $name:ident ( $($argument:tt)* );)*) => {
        [$((Hook::$name, hook_addresses!(@address $policy $name))),*]
    };
    (@address front $name:ident) => { std::ptr::null() };
    (@address $policy:ident $name:ident) => { $policy::$name as *const c_void };
}

/// Address of each hook; null for what has none, and for those that the front
/// answers itself.
pub(crate) fn table() -> [*const c_void; Hook::COUNT] {
    let mut table = [std::ptr::null(); Hook::COUNT];
    for (hook, address) in for_each_hook!(hook_addresses) {
        table[hook as usize] = address;
    }
    table
}
