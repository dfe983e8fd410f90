//! Limits of this process.

use std::mem::MaybeUninit;

/// The limit of a resource that holds, see getrlimit(2).
pub(super) fn limit_of(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: filled by the call.
    let failed = unsafe { libc::getrlimit(resource, limit.as_mut_ptr()) } != 0;
    // SAFETY: valid when zeroed.
    let limit = unsafe { limit.assume_init() };
    (!failed).then_some(limit.rlim_cur)
}
