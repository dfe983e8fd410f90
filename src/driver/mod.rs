//! Binding to the CUDA driver: types, the functions that rewarm calls, and errors.
//!
//! rewarm calls the driver by addresses that it is handed, never by linking:
//! inside a preloaded process they are the driver's own addresses behind our
//! hooks, in the command line those of a library opened for the purpose.

mod api;
#[cfg(feature = "cli")]
mod checkpoint;
#[cfg(feature = "cli")]
mod devices;
mod error;
#[cfg(feature = "cli")]
mod library;
pub mod sys;

pub use api::{CheckpointFunctions, DrainDriver, Driver, LookupError, MemoryDriver};
#[cfg(feature = "cli")]
pub use checkpoint::{CheckpointDriver, CheckpointError, CudaState, OpenError, Uuid, may_use_cuda};
#[cfg(feature = "cli")]
pub use devices::{DeviceFacts, Devices, DevicesError};
pub use error::{CudaError, Result, check};
#[cfg(feature = "cli")]
pub use library::{Library, NoLibrary};
