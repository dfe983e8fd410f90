//! What depends on the instruction set: entry stubs and the hook of `dlsym`.
//!
//! Another architecture adds one file here with the same items: `export_stub!`,
//! `spare_stub`, `unresolved` and `dlsym`.

#[cfg(target_arch = "x86_64")]
#[macro_use]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{spare_stub, unresolved};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("rewarm's preloaded library is written for x86-64; see shim/front/src/arch");
