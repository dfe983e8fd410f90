//! Binding to the CUDA driver: types, the functions that rewarm calls, and errors.
//!
//! rewarm calls the driver by addresses that it is handed, never by linking:
//! inside a preloaded process they are the driver's own addresses behind our
//! hooks, in the command line those of a library opened for the purpose.

mod api;
mod devices;
mod error;
pub mod sys;

pub use api::{DrainDriver, Driver, LookupError, MemoryDriver};
pub use devices::{DeviceFacts, Devices, DevicesError};
pub use error::{CudaError, Result, check};
