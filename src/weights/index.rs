//! The index of a model in several files.

use super::IndexError;
use super::json::{self, Entries, JsonError};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// Largest index that is read, in bytes. Real ones have some hundred KiB.
pub const MOST_INDEX_BYTES: u64 = 64 << 20;

/// Which file has which tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(pub BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
struct Json {
    weight_map: Entries<String>,
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// What is wrong with it: tensors that are there twice, none at all, and
    /// files that are not plain names.
    pub fn parse(text: &[u8]) -> Result<Index, IndexError> {
        let Json { weight_map } = serde_json::from_slice(text).map_err(JsonError::from)?;
        let mut files = BTreeMap::<String, Vec<String>>::new();
        for (tensor, file) in weight_map.0 {
            if !is_plain(&file) {
                return Err(IndexError::NotPlain {
                    tensor: json::shown(&tensor),
                    file: json::shown(&file),
                });
            }
            files.entry(file).or_default().push(tensor);
        }
        if files.is_empty() {
            return Err(IndexError::Empty);
        }
        Ok(Index(files))
    }
}

/// Whether a name is that of an entry of a folder, and of nothing else.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(part)) if part == name)
        && components.next().is_none()
        && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_the_folder_are_plain() {
        for name in ["model-00001-of-00002.safetensors", "a", "..a", "a..", " "] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", ".", "..", "/", "/a", "a/", "a/b", "./a", "../a", "a\0"] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}
