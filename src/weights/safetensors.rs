//! The header of a safetensors file.
//!
//! Eight bytes of length, so many bytes of JSON, then the tensors' data back to
//! back. The `safetensors` crate checks each tensor's shape, type and place; what
//! it leaves out is checked here: names that are there twice, and the real end
//! of the file, of which the crate would want all bytes.

use super::HeaderError;
use super::json::{self, Entries, JsonError, Keys};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;

/// Longest header that the format allows, in bytes.
pub const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the header's length, in front of it.
pub(super) const LENGTH_BYTES: u64 = 8;

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its shape, in elements.
    pub shape: Vec<usize>,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where the tensors of a file lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorData {
    /// Where in the file the first begins, in bytes.
    pub offset: u64,
    /// Length of all, in bytes.
    pub bytes: u64,
    /// The tensors, in the order of their data, without gap or overlap.
    pub tensors: Vec<Tensor>,
}

/// Bytes of the header that follows its length.
///
/// # Errors
/// If the format or the file has no room for it.
pub fn header_bytes(length: [u8; 8], file_bytes: u64) -> Result<usize, HeaderError> {
    let claimed = u64::from_le_bytes(length);
    if claimed > MOST_HEADER_BYTES {
        Err(HeaderError::TooLong(claimed))
    } else if claimed > file_bytes.saturating_sub(LENGTH_BYTES) {
        Err(HeaderError::BeyondEnd {
            claimed,
            file_bytes,
        })
    } else {
        Ok(claimed as usize)
    }
}

impl TensorData {
    /// Reads the header of a file of so many bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(header: &[u8], file_bytes: u64) -> Result<TensorData, HeaderError> {
        let text = std::str::from_utf8(header)?;
        let Header(mut tensors) = serde_json::from_str(text).map_err(JsonError::from)?;
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let bytes = checked_bytes(&tensors)?;
        let offset = LENGTH_BYTES + header.len() as u64;
        let end = offset.saturating_add(bytes);
        if end > file_bytes {
            return Err(HeaderError::Truncated { end, file_bytes });
        }
        if end < file_bytes {
            return Err(HeaderError::Trailing(file_bytes - end));
        }
        let tensors = tensors.into_iter().map(|(name, info)| {
            let (begin, end) = info.data_offsets;
            Tensor {
                name,
                dtype: info.dtype,
                shape: info.shape,
                offset: offset + begin as u64,
                bytes: (end - begin) as u64,
            }
        });
        Ok(TensorData {
            offset,
            bytes,
            tensors: tensors.collect(),
        })
    }

    /// The tensor that has a byte of the file.
    pub fn tensor_at(&self, offset: u64) -> Option<&Tensor> {
        let after = self
            .tensors
            .partition_point(|tensor| tensor.offset + tensor.bytes <= offset);
        self.tensors
            .get(after)
            .filter(|tensor| tensor.offset <= offset)
    }
}

/// Bytes that the tensors take, in the order of their data.
fn checked_bytes(tensors: &[(String, TensorInfo)]) -> Result<u64, HeaderError> {
    let mut end = 0;
    for (name, info) in tensors {
        let (begin, next) = info.data_offsets;
        if begin != end || next < begin {
            return Err(HeaderError::Misplaced(json::shown(name)));
        }
        let alone = TensorInfo {
            data_offsets: (0, next - begin),
            ..info.clone()
        };
        // Alone, so that the error has a tensor's name.
        Metadata::new(None, vec![(String::new(), alone)])
            .map_err(|error| wrong_tensor(name, &error))?;
        end = next;
    }
    Ok(end as u64)
}

fn wrong_tensor(name: &str, error: &SafeTensorError) -> HeaderError {
    let name = json::shown(name);
    match error {
        SafeTensorError::ValidationOverflow => HeaderError::TooLarge(name),
        _ => HeaderError::WrongLength(name),
    }
}

/// The tensors that the JSON names.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Header;

            fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
                to.write_str("an object with a tensor for each key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut keys = Keys::default();
                while let Some(name) = keys.next(&mut map)? {
                    if name == "__metadata__" {
                        map.next_value::<Option<Entries<String>>>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header(tensors))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
