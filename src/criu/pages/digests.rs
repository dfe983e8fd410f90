//! Digests of CRIU's files of pages.

use super::PagesError;
use crate::config::{Settings, cpus};
use crate::pages::{FileRange, PageFile, ReadOptions, read};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of a file of pages that are read, verified and filled together.
pub(super) const BLOCK: u64 = 1 << 20;

/// Length of one digest in text.
const DIGITS: usize = 32;

/// Threads that read and compute digests: those that wait for storage take no CPU.
const THREADS: usize = 16;

/// XXH3-128 of every MiB of every `pages-*.img` of a folder. They find damage, not
/// forgery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageDigests {
    files: BTreeMap<String, FileDigests>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDigests {
    /// Length of the file.
    bytes: u64,
    /// 32 hexadecimal digits for each block; the last may be shorter.
    blocks: String,
}

impl PageDigests {
    /// Names and lengths in bytes of the files.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.files
            .iter()
            .map(|(name, file)| (name.as_str(), file.bytes))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|(_, bytes)| bytes).sum()
    }

    /// What a file must be.
    ///
    /// # Errors
    /// If there is nothing about it, or it has another length.
    pub(super) fn of(&self, file: &PageFile) -> Result<Vec<u128>, PagesError> {
        let damaged = |what: String| PagesError::Damaged {
            path: file.path().to_owned(),
            what,
        };
        let name = file.path().file_name().and_then(|name| name.to_str());
        let Some(known) = name.and_then(|name| self.files.get(name)) else {
            return Err(damaged("the manifest does not know this file".into()));
        };
        if known.bytes != file.bytes() {
            return Err(damaged(format!(
                "it has {} bytes, and had {} at the checkpoint",
                file.bytes(),
                known.bytes
            )));
        }
        let digests = parse(&known.blocks);
        digests
            .filter(|digests| digests.len() as u64 == known.bytes.div_ceil(BLOCK))
            .ok_or_else(|| damaged("the manifest has no digest for each of its blocks".into()))
    }
}

fn parse(text: &str) -> Option<Vec<u128>> {
    if !text.bytes().all(|letter| letter.is_ascii_hexdigit()) || !text.len().is_multiple_of(DIGITS)
    {
        return None;
    }
    let digits = (0..text.len()).step_by(DIGITS);
    digits
        .map(|at| u128::from_str_radix(&text[at..at + DIGITS], 16).ok())
        .collect()
}

/// Digests of all `pages-*.img` of a folder, read in parallel, which leaves them in
/// the page cache.
///
/// # Errors
/// If one cannot be read.
pub fn digest_pages(images: &Path) -> Result<PageDigests, PagesError> {
    let files = page_files(images)?;
    let found: Vec<_> = files
        .iter()
        .map(|file| Mutex::new(vec![0; file.bytes().div_ceil(BLOCK) as usize]))
        .collect();
    let ranges: Vec<_> = files.iter().cloned().map(FileRange::whole).collect();
    let options = ReadOptions {
        threads: THREADS,
        slots: THREADS,
        chunk_bytes: BLOCK as usize,
        keep_cached: true,
        ..ReadOptions::new(&Settings::default().plan(cpus()))
    };
    // Pieces are blocks: they end where a multiple of a piece's length is.
    read(&ranges, &options, &|piece| {
        let digest = xxh3_128(piece.bytes);
        found[piece.range].lock()[(piece.offset / BLOCK) as usize] = digest;
    })?;
    let files = files.iter().zip(found).map(|(file, blocks)| {
        let blocks = blocks.into_inner();
        let digests = FileDigests {
            bytes: file.bytes(),
            blocks: blocks.iter().map(|block| format!("{block:032x}")).collect(),
        };
        (name_of(file.path()), digests)
    });
    Ok(PageDigests {
        files: files.collect(),
    })
}

/// All files of pages of a folder.
///
/// # Errors
/// If the folder or a file cannot be opened.
pub fn page_files(images: &Path) -> Result<Vec<Arc<PageFile>>, PagesError> {
    let failed = |error| PagesError::system(images.display().to_string(), error);
    let mut paths = Vec::new();
    for entry in fs::read_dir(images).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_page_file(&name_of(&path)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.iter().map(PageFile::open).collect::<Result<_, _>>()?)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn is_page_file(name: &str) -> bool {
    let number = name
        .strip_prefix("pages-")
        .and_then(|rest| rest.strip_suffix(".img"));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}
