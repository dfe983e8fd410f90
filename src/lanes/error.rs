//! What can go wrong in a lane. None of it is final for the copy: the caller
//! repeats it by the driver's own path, or returns the driver's own error.

use crate::driver::CudaError;
use crate::pages::PageError;

/// A fan-out that did not complete.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// A driver call failed.
    #[error(transparent)]
    Driver(#[from] CudaError),
    /// Staging memory could not be reserved or populated.
    #[error("no staging memory: {0}")]
    Staging(#[from] std::io::Error),
    /// Who was to take the bytes did not.
    #[error(transparent)]
    NotTaken(Box<dyn std::error::Error + Send + Sync>),
    /// A file could not be read.
    #[error(transparent)]
    Pages(#[from] PageError),
}
