//! Filling memory of this process, without CRIU.

use super::digests::{BLOCK, PageDigests, digest_pages};
use super::fill::Filling;
use super::task::{Pages, Task};
use super::uffd::{self, Uffd};
use super::{PagesError, can_serve, why_not_beside_criu};
use crate::criu::images::{Extent, PAGE};
use crate::pages::{PageFile, Region};
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const BYTES: usize = 3 * BLOCK as usize + 6 * PAGE as usize;

/// A folder with one file of pages.
struct Images(PathBuf);

impl Images {
    fn new(name: &str) -> Images {
        let folder = std::env::temp_dir().join(format!("rewarm-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let bytes: Vec<_> = (0..BYTES).map(|at| (at * 31 / 7) as u8 | 1).collect();
        fs::write(folder.join("pages-1.img"), bytes).unwrap();
        Images(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.join("pages-1.img")
    }

    fn flip(&self, at: usize) {
        let mut bytes = fs::read(self.path()).unwrap();
        bytes[at] ^= 1;
        fs::write(self.path(), bytes).unwrap();
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Fills fresh memory, the second half of the file first.
fn fill(path: &Path, digests: &PageDigests) -> (Region, Result<(), PagesError>) {
    let memory = Region::reserve(BYTES).unwrap();
    let base = memory.base() as u64;
    let descriptor = uffd::open().unwrap();
    uffd::ask(descriptor.as_raw_fd(), uffd::API, &mut [0xaau64, 0, 0]).unwrap();
    // `UFFDIO_REGISTER`, of pages that are missing.
    let mut range = [base, BYTES as u64, 1, 0];
    uffd::ask(descriptor.as_raw_fd(), 0xc020_aa00, &mut range).unwrap();
    let file = PageFile::open(path).unwrap();
    let digests = Some(digests.of(&file).unwrap());
    let half = BYTES as u64 / 2 / PAGE * PAGE;
    let lazy = [
        Extent {
            address: base,
            bytes: half,
            offset: BYTES as u64 - half,
        },
        Extent {
            address: base + half,
            bytes: BYTES as u64 - half,
            offset: 0,
        },
    ];
    let pages = Some(Arc::new(Pages { file, digests }));
    let task = Task::new(1, Uffd::new(descriptor).unwrap(), &lazy, pages, Vec::new());
    let filling = Arc::new(Filling::new().unwrap());
    filling.start().unwrap();
    filling.queue.add(Arc::new(task));
    filling.queue.restored();
    let end = filling.queue.end(Duration::from_secs(60)).unwrap();
    (memory, end)
}

/// Which pages of memory are there.
fn present(memory: &Region) -> Vec<bool> {
    let mut found = vec![0u8; BYTES / PAGE as usize];
    // SAFETY: a byte for each page of our own mapping.
    let asked = unsafe { libc::mincore(memory.base().cast(), BYTES, found.as_mut_ptr()) };
    assert_eq!(asked, 0);
    found.iter().map(|found| found & 1 == 1).collect()
}

fn skip() -> bool {
    let why = can_serve().err();
    if let Some(why) = &why {
        eprintln!("SKIPPED: {why}");
    }
    why.is_some()
}

#[test]
fn whole_files_are_filled_in() {
    if skip() {
        return;
    }
    let images = Images::new("whole");
    let digests = digest_pages(&images.0).unwrap();
    let (memory, end) = fill(&images.path(), &digests);
    end.unwrap();
    // SAFETY: filled, or else this waits for ever.
    let found = unsafe { std::slice::from_raw_parts(memory.base(), BYTES) };
    let half = BYTES / 2 / PAGE as usize * PAGE as usize;
    let file = fs::read(images.path()).unwrap();
    assert!(found[..half] == file[BYTES - half..]);
    assert!(found[half..] == file[..BYTES - half]);
}

#[test]
fn nothing_of_a_damaged_block_is_filled_in() {
    if skip() {
        return;
    }
    let images = Images::new("damaged");
    let digests = digest_pages(&images.0).unwrap();
    let block = BLOCK as usize;
    images.flip(block + 4711);
    let (memory, end) = fill(&images.path(), &digests);
    let error = end.unwrap_err().to_string();
    let words = "pages-1.img: 1048576 bytes from offset 1048576 on are not what was written";
    assert!(error.contains(words), "{error}");
    let pages = BYTES / PAGE as usize;
    let present = present(&memory);
    for at in block / PAGE as usize..2 * block / PAGE as usize {
        // The halves are swapped.
        let page = (at + pages / 2) % pages;
        assert!(!present[page], "page {at} of the file");
    }
}

#[test]
fn what_is_in_memory_is_not_read_beside_criu() {
    let images = Images::new("ahead");
    let reason = why_not_beside_criu(&images.0).unwrap();
    assert!(reason.is_some());
}

#[test]
fn files_that_are_not_the_ones_that_were_dumped_are_refused() {
    let images = Images::new("other");
    let digests = digest_pages(&images.0).unwrap();
    let text = serde_json::to_string(&digests).unwrap();
    assert_eq!(serde_json::from_str::<PageDigests>(&text).unwrap(), digests);
    assert_eq!(digests.bytes(), BYTES as u64);
    let refused = |digests: &PageDigests, words: &str| {
        let file = PageFile::open(images.path()).unwrap();
        let error = digests.of(&file).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&PageDigests::default(), "does not know this file");
    let fewer = text.replacen("\"blocks\":\"", "\"blocks\":\"x", 1);
    refused(&serde_json::from_str(&fewer).unwrap(), "no digest for each");
    fs::write(images.path(), b"short").unwrap();
    refused(&digests, "it has 5 bytes, and had");
}
