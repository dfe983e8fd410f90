//! Which ranges are a file's.

use super::memory::{READ, READ_WRITE};
use super::*;
use crate::pages::mappings::{Registrable, registrable};

const BYTES: usize = 40 * PAGE;

#[test]
fn mappings_of_a_file_are_the_file() {
    for folder in [Folder::new(), Folder::in_memory()] {
        let file = folder.file("weights", BYTES);
        for map in [
            Map::shared(&file, BYTES),
            Map::private(&file, BYTES),
            Map::of(&file, 0, BYTES, READ, libc::MAP_PRIVATE),
            Map::of(&file, 3 * PAGE, 7 * PAGE, READ_WRITE, libc::MAP_SHARED),
        ] {
            is_file(map.range());
            is_file(map.part(PAGE + 5..6 * PAGE + 1));
            is_file(map.part(9..10));
            map.read();
            is_file(map.range());
        }
    }
}

#[test]
fn written_pages_of_a_private_mapping_are_memory() {
    for folder in [Folder::new(), Folder::in_memory()] {
        let file = folder.file("weights", BYTES);
        for page in [0, 17, 39] {
            let map = Map::private(&file, BYTES);
            map.write(page * PAGE + 100, 1);
            is_memory(map.range(), NotAFile::Modified);
            is_memory(map.part(page * PAGE..page * PAGE + 1), NotAFile::Modified);
            if page > 0 {
                is_file(map.part(0..page * PAGE));
            }
            if page < 39 {
                is_file(map.part((page + 1) * PAGE..BYTES));
            }
            map.read();
            is_memory(map.range(), NotAFile::Modified);
            map.drop_pages(page * PAGE..(page + 1) * PAGE);
            is_file(map.range());
        }
    }
}

#[test]
fn long_ranges_are_looked_at_to_their_end() {
    let folder = Folder::new();
    // More than the entries that are read at once.
    let bytes = 5001 * PAGE;
    let file = folder.file("weights", bytes);
    for page in [4095, 4096, 5000] {
        let map = Map::private(&file, bytes);
        is_file(map.range());
        map.write(page * PAGE, 1);
        is_memory(map.range(), NotAFile::Modified);
        is_file(map.part(0..page * PAGE));
    }
}

#[test]
fn the_same_bytes_written_again_are_no_longer_the_file_s() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::private(&file, BYTES);
    let first = memory::read(map.part(0..1)).unwrap()[0];
    map.write(0, first);
    file.write_all_at(&[first ^ 1], 1).unwrap();
    is_memory(map.range(), NotAFile::Modified);
}

#[test]
fn written_pages_of_a_shared_mapping_are_the_file_s() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::of(&file, 0, BYTES, READ_WRITE, libc::MAP_SHARED);
    map.write(5 * PAGE, 0xee);
    is_file(map.range());
}

#[test]
fn parts_are_looked_at_one_by_one() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::private(&file, BYTES);
    map.write(20 * PAGE, 1);
    for facilities in KERNELS {
        let mappings = Mappings::on(facilities);
        let backing = mappings.file_behind(map.part(PAGE..30 * PAGE)).unwrap();
        let first = backing.part(map.part(2 * PAGE..20 * PAGE)).unwrap();
        assert_eq!((first.offset, first.bytes), (2 << 12, 18 << 12));
        let modified = backing.part(map.part(20 * PAGE..21 * PAGE));
        assert_eq!(modified.err(), Some(NotAFile::Modified));
        let outside = backing.part(map.part(0..2 * PAGE));
        assert_eq!(outside.err(), Some(NotAFile::Unmapped));
        // What is in use may go on after a close.
        mappings.close();
        assert!(backing.part(map.part(21 * PAGE..30 * PAGE)).is_ok());
    }
}

#[test]
fn adjacent_mappings_of_a_file_are_one_range() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::private(&file, BYTES);
    map.protect(10 * PAGE..20 * PAGE, READ);
    map.over(20 * PAGE, &file, 20 * PAGE, 5 * PAGE, libc::MAP_SHARED);
    is_file(map.range());
    map.write(30 * PAGE, 1);
    is_memory(map.range(), NotAFile::Modified);
    is_file(map.part(0..30 * PAGE));
}

#[test]
fn mixed_ranges_are_memory() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let other = folder.file("other", BYTES);
    let map = Map::private(&file, BYTES);
    map.over(10 * PAGE, &file, 11 * PAGE, 5 * PAGE, libc::MAP_PRIVATE);
    is_memory(map.range(), NotAFile::Mixed);
    map.over(10 * PAGE, &other, 10 * PAGE, 5 * PAGE, libc::MAP_PRIVATE);
    is_memory(map.range(), NotAFile::Mixed);
    is_file(map.part(10 * PAGE..15 * PAGE));
    map.protect(5 * PAGE..6 * PAGE, libc::PROT_NONE);
    is_memory(map.part(0..10 * PAGE), NotAFile::Unmapped);
}

#[test]
fn buffers_are_memory() {
    let map = Map::anonymous(BYTES, READ_WRITE);
    is_memory(map.range(), NotAFile::Anonymous);
    let heap = vec![1u8; 1 << 20];
    let start = heap.as_ptr() as usize;
    is_memory(start..start + heap.len(), NotAFile::Anonymous);
    let local = [0u8; 100];
    let start = local.as_ptr() as usize;
    is_memory(start..start + 100, NotAFile::Anonymous);
    is_memory(0..PAGE, NotAFile::Unmapped);
    is_memory(start..start, NotAFile::Unmapped);
}

#[test]
fn twenty_thousand_mappings_change_nothing() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    // Neighbours that differ in their rights are not merged.
    let many: Vec<Map> = (0..20_000)
        .map(|number| Map::anonymous(PAGE, [READ, READ_WRITE][number % 2]))
        .collect();
    let map = Map::private(&file, BYTES);
    is_file(map.range());
    map.write(0, 1);
    is_memory(map.range(), NotAFile::Modified);
    drop(many);
}

#[test]
fn small_ranges_are_not_worth_reading_the_text_of_all_mappings() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let map = Map::shared(&file, BYTES);
    let mappings = Mappings::with(kernel(false, false));
    let found = mappings.file_behind(map.range());
    assert_eq!(found.err(), Some(NotAFile::TooCostly));
}

#[test]
fn what_may_be_registered_is_told_from_the_same_mappings() {
    let folder = Folder::new();
    let file = folder.file("weights", BYTES);
    let buffer = Map::anonymous(BYTES, READ_WRITE);
    assert_eq!(registrable(buffer.range()), Some(Registrable::Anonymous));
    let shared = Map::shared(&file, BYTES);
    assert_eq!(
        registrable(shared.range()),
        Some(Registrable::SharedReadOnly)
    );
    assert_eq!(registrable(Map::private(&file, BYTES).range()), None);
    buffer.over(PAGE, &file, 0, PAGE, libc::MAP_SHARED);
    assert_eq!(registrable(buffer.range()), None, "two kinds");
    buffer.protect(0..PAGE, libc::PROT_NONE);
    assert_eq!(registrable(buffer.part(0..PAGE)), None);
    assert_eq!(registrable(0..PAGE), None);
}
