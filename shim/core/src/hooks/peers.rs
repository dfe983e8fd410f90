//! Peer access.

use super::ledger;
use crate::real;
use rewarm::driver::sys::*;

pub(super) unsafe extern "C" fn cuCtxEnablePeerAccess(peer: CUcontext, flags: c_uint) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuCtxEnablePeerAccess(peer, flags) };
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        ledger.peer_enabled(peer);
    }
    result
}

pub(super) unsafe extern "C" fn cuCtxDisablePeerAccess(peer: CUcontext) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuCtxDisablePeerAccess(peer) };
    if result.is_ok()
        && let Some(ledger) = ledger()
    {
        ledger.peer_disabled(peer);
    }
    result
}
