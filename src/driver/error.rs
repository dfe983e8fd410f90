//! The driver's error codes as a Rust error.

use super::sys::CUresult;

/// A driver call that did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{call} returned CUDA error {}", code.0)]
pub struct CudaError {
    /// Exported name of the function that failed.
    pub call: &'static str,
    /// What it returned, never [`CUresult::SUCCESS`].
    pub code: CUresult,
}

/// Result of a driver call.
pub type Result<T, E = CudaError> = std::result::Result<T, E>;

/// Turns a returned code into a [`Result`].
pub fn check(call: &'static str, code: CUresult) -> Result<()> {
    if code.is_ok() {
        Ok(())
    } else {
        Err(CudaError { call, code })
    }
}
