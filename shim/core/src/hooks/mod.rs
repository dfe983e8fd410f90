//! The functions that stand in for the driver's, one module a policy of the
//! hook table.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

mod attributes;
mod capture;
mod context;
mod copy;
mod mapping;
mod memory;
mod noted;
mod peers;
mod shaped;

use crate::ledger::Ledger;
use crate::process;
use rewarm::driver::sys::c_void;
use rewarm_abi::{Hook, for_each_hook};

macro_rules! hook_addresses {
    ($freezable:ident: $($policy:ident $name:ident ( $($argument:tt)* );)*) => {
        [$((Hook::$name, hook_addresses!(@address $freezable $policy $name))),*]
    };
    (@address $freezable:ident front $name:ident) => { std::ptr::null() };
    (@address $freezable:ident mapping $name:ident) => { hook_addresses!(@ledger $freezable mapping $name) };
    (@address $freezable:ident noted $name:ident) => { hook_addresses!(@ledger $freezable noted $name) };
    (@address $freezable:ident peers $name:ident) => { hook_addresses!(@ledger $freezable peers $name) };
    (@address $freezable:ident attributes $name:ident) => { hook_addresses!(@ledger $freezable attributes $name) };
    (@address $freezable:ident capture $name:ident) => { hook_addresses!(@ledger $freezable capture $name) };
    (@address $freezable:ident $policy:ident $name:ident) => { $policy::$name as *const c_void };
    (@ledger $freezable:ident $policy:ident $name:ident) => {
        match $freezable {
            true => $policy::$name as *const c_void,
            false => std::ptr::null(),
        }
    };
}

/// Address of each hook; null for what has none, for those that the front answers
/// itself, and for those of the ledger where there is none.
pub(crate) fn table() -> [*const c_void; Hook::COUNT] {
    let freezable = ledger().is_some();
    macro_rules! addresses {
        ($($rows:tt)*) => { hook_addresses!(freezable: $($rows)*) };
    }
    let mut table = [std::ptr::null(); Hook::COUNT];
    for (hook, address) in for_each_hook!(addresses) {
        table[hook as usize] = address;
    }
    table
}

/// The ledger of this process; `None` where nothing is to be frozen.
#[inline(always)]
fn ledger() -> Option<&'static Ledger> {
    process::current()?.ledger.as_ref()
}
