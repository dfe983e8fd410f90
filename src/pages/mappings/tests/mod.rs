//! Lookups in this very process, on files of its own.

mod files;
mod memory;
mod random;
mod ranges;

use super::text::Cost;
use super::{Facilities, FileRange, Mappings, NotAFile, PAGE};
use memory::{Folder, Map};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Newer and older kernels.
const KERNELS: [Facilities; 4] = [
    Facilities::ALL,
    kernel(true, false),
    kernel(false, true),
    kernel(false, false),
];

const fn kernel(query: bool, scan: bool) -> Facilities {
    Facilities { query, scan }
}

impl Mappings {
    /// On a kernel that offers no more, whatever a lookup costs.
    fn on(facilities: Facilities) -> Mappings {
        Mappings {
            text: Cost::unlimited(),
            ..Mappings::with(facilities)
        }
    }

    /// The file range behind all of `memory`.
    fn look_up(&self, memory: Range<usize>) -> Result<FileRange, NotAFile> {
        self.file_behind(memory.clone())?.part(memory)
    }
}

/// Looks the range up on every kernel: each must say `Ok` and name the bytes
/// that are in memory.
#[track_caller]
fn is_file(memory: Range<usize>) {
    for facilities in KERNELS {
        match Mappings::on(facilities).look_up(memory.clone()) {
            Ok(range) => assert!(holds_the_same(&range, memory.clone())),
            Err(reason) => panic!("{reason:?}"),
        }
    }
}

/// Every kernel must give this reason.
#[track_caller]
fn is_memory(memory: Range<usize>, reason: NotAFile) {
    for facilities in KERNELS {
        let found = Mappings::on(facilities).look_up(memory.clone());
        assert_eq!(found.map(|range| range.offset), Err(reason));
    }
}

/// Whether the file holds the bytes of memory that can be read.
fn holds_the_same(range: &FileRange, memory: Range<usize>) -> bool {
    let mut bytes = vec![0; range.bytes as usize];
    let read = range.file.file().read_exact_at(&mut bytes, range.offset);
    bytes.len() == memory.len() && read.is_ok() && memory::read(memory).is_some_and(|m| m == bytes)
}
