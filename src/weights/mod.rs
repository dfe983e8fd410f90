//! Files of weights: which bytes of them belong on a device, and which tensors
//! lie there.
//!
//! Headers and indexes come from anywhere, so each is bounded before it is read
//! and checked before it is used: a [`WeightsFile`] that exists has tensors that
//! fill its data to the last byte.

mod error;
mod index;
mod json;
mod open;
mod safetensors;

pub use self::safetensors::{MOST_HEADER_BYTES, Tensor, TensorData, header_bytes};
pub use ::safetensors::Dtype;
pub use error::{HeaderError, IndexError, WeightsError};
pub use index::{Index, MOST_INDEX_BYTES};
pub use json::JsonError;
pub use open::{Weights, WeightsFile, open};
