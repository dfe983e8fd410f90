//! From what a user names to open files and where their tensors lie.

use super::index::{Index, MOST_INDEX_BYTES};
use super::safetensors::LENGTH_BYTES;
use super::{HeaderError, IndexError, Tensor, TensorData, WeightsError, header_bytes, json};
use crate::pages::{FileRange, PageFile};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// The index of a model in several files, as the Hugging Face libraries name it.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// How the name of any index ends.
const INDEX_ENDS: &str = ".safetensors.index.json";

/// Files to load.
#[derive(Debug, Default)]
pub struct Weights {
    /// The files, in the order of loading.
    pub files: Vec<WeightsFile>,
    /// What is odd but no error, a sentence each.
    pub warnings: Vec<String>,
}

/// A file of weights, open.
#[derive(Debug)]
pub struct WeightsFile {
    /// The file.
    pub file: Arc<PageFile>,
    /// What of it belongs on a device. A raw file's data is all of it, without tensors.
    pub data: TensorData,
}

impl WeightsFile {
    /// What of the file belongs on a device.
    pub fn range(&self) -> FileRange {
        FileRange {
            file: self.file.clone(),
            offset: self.data.offset,
            bytes: self.data.bytes,
        }
    }

    /// Where a byte of the file lies, for messages.
    pub fn place(&self, offset: u64) -> String {
        let tensor = self.data.tensor_at(offset).map_or(String::new(), |tensor| {
            format!(", tensor {}", json::shown(&tensor.name))
        });
        format!("{}{tensor}, offset {offset}", self.path().display())
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

impl Weights {
    /// Bytes that belong on a device.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.data.bytes).sum()
    }

    /// Tensors in all files.
    pub fn tensors(&self) -> usize {
        self.files.iter().map(|file| file.data.tensors.len()).sum()
    }
}

/// Opens files and folders. A folder's index says which files belong to the
/// model; without one all its `*.safetensors` do. Every other regular file
/// counts as raw data.
///
/// # Errors
/// The first file that cannot be read, or that is not what its name says.
pub fn open(paths: &[PathBuf]) -> Result<Weights, WeightsError> {
    let mut weights = Weights::default();
    for path in paths {
        if path.is_dir() {
            open_folder(path, &mut weights)?;
        } else if ends_with(path, INDEX_ENDS) {
            open_indexed(path, &mut weights)?;
        } else if ends_with(path, ".safetensors") {
            weights.files.push(open_safetensors(path)?);
        } else {
            weights.files.push(open_raw(path)?);
        }
    }
    Ok(weights)
}

fn ends_with(path: &Path, end: &str) -> bool {
    let name = path.file_name().map(OsStr::as_encoded_bytes);
    name.is_some_and(|name| name.ends_with(end.as_bytes()))
}

fn open_folder(folder: &Path, weights: &mut Weights) -> Result<(), WeightsError> {
    let index = folder.join(INDEX);
    // A link that leads nowhere is an error, not a folder without an index.
    if index.symlink_metadata().is_ok() {
        return open_indexed(&index, weights);
    }
    let files = safetensors_in(folder).map_err(|reason| WeightsError::List {
        path: folder.to_owned(),
        reason,
    })?;
    if files.is_empty() {
        return Err(WeightsError::Nothing {
            path: folder.to_owned(),
        });
    }
    for file in files {
        weights.files.push(open_safetensors(&file)?);
    }
    Ok(())
}

fn safetensors_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if ends_with(&path, ".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn open_indexed(path: &Path, weights: &mut Weights) -> Result<(), WeightsError> {
    let wrong = |problem| WeightsError::Index {
        path: path.to_owned(),
        problem,
    };
    let file = PageFile::open(path)?;
    if file.bytes() > MOST_INDEX_BYTES {
        return Err(wrong(IndexError::TooLong(file.bytes())));
    }
    let mut text = vec![0; file.bytes() as usize];
    file.read_exact_at(&mut text, 0)?;
    let Index(shards) = Index::parse(&text).map_err(wrong)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, named) in shards {
        let shard = open_safetensors(&folder.join(&name))?;
        let there: HashSet<_> = shard
            .data
            .tensors
            .iter()
            .map(|tensor| &tensor.name)
            .collect();
        if let Some(missing) = named.iter().find(|tensor| !there.contains(tensor)) {
            return Err(wrong(IndexError::NotThere {
                tensor: json::shown(missing),
                file: json::shown(&name),
            }));
        }
        if named.len() < there.len() {
            weights.warnings.push(unnamed(&shard, named));
        }
        weights.files.push(shard);
    }
    Ok(())
}

/// Tensors that the index does not know are loaded with the rest of the file.
fn unnamed(shard: &WeightsFile, named: Vec<String>) -> String {
    let named: HashSet<_> = named.into_iter().collect();
    let unnamed: Vec<&Tensor> = shard
        .data
        .tensors
        .iter()
        .filter(|tensor| !named.contains(&tensor.name))
        .collect();
    format!(
        "{}: the index does not name {} of its {} tensors, first {}; they are loaded too",
        shard.path().display(),
        unnamed.len(),
        shard.data.tensors.len(),
        unnamed
            .first()
            .map_or(String::new(), |tensor| json::shown(&tensor.name)),
    )
}

fn open_safetensors(path: &Path) -> Result<WeightsFile, WeightsError> {
    let wrong = |problem| WeightsError::Header {
        path: path.to_owned(),
        problem,
    };
    let file = PageFile::open(path)?;
    let file_bytes = file.bytes();
    if file_bytes < LENGTH_BYTES {
        return Err(wrong(HeaderError::NoLength(file_bytes)));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact_at(&mut length, 0)?;
    let mut header = vec![0; header_bytes(length, file_bytes).map_err(wrong)?];
    file.read_exact_at(&mut header, LENGTH_BYTES)?;
    let data = TensorData::parse(&header, file_bytes).map_err(wrong)?;
    Ok(WeightsFile { file, data })
}

fn open_raw(path: &Path) -> Result<WeightsFile, WeightsError> {
    let file = PageFile::open(path)?;
    let data = TensorData {
        offset: 0,
        bytes: file.bytes(),
        tensors: Vec::new(),
    };
    Ok(WeightsFile { file, data })
}
