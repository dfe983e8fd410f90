//! Images made by hand.

use std::fs;
use std::path::Path;

/// A number as protobuf has it.
pub fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A message of numbers.
pub fn message(fields: &[(u32, u64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in fields {
        varint(u64::from(*number) << 3, &mut bytes);
        varint(*value, &mut bytes);
    }
    bytes
}

/// Adds a message to another.
pub fn nest(number: u32, inner: &[u8], to: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | 2, to);
    varint(inner.len() as u64, to);
    to.extend(inner);
}

/// An image of a kind, by its second magic number.
pub fn image(magic: u32, entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = 0x5456_4319u32.to_le_bytes().to_vec();
    bytes.extend(magic.to_le_bytes());
    for entry in entries {
        bytes.extend((entry.len() as u32).to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

/// Magic numbers of `pagemap-PID.img`, `mm-PID.img` and `files.img`.
pub const PAGEMAP: u32 = 0x5608_4025;
pub const MM: u32 = 0x5749_2820;
pub const FILES: u32 = 0x5630_3138;

/// Images of one process with an anonymous mapping of so many pages, every second of
/// zeros.
pub fn process(folder: &Path, pages: u64) {
    fs::create_dir_all(folder).unwrap();
    let end = 0x10000 + pages * 4096;
    let mut mm = message(&[(12, 1)]);
    nest(
        14,
        &message(&[(1, 0x10000), (2, end), (7, 1 << 9 | 1)]),
        &mut mm,
    );
    fs::write(folder.join("mm-7.img"), image(MM, &[mm])).unwrap();
    let run = message(&[(1, 0x10000), (4, 6), (5, pages)]);
    let pagemap = image(PAGEMAP, &[message(&[(1, 1)]), run]);
    fs::write(folder.join("pagemap-7.img"), pagemap).unwrap();
    let mut bytes = vec![0; pages as usize * 4096];
    for (number, page) in bytes.chunks_mut(8192).enumerate() {
        page[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    }
    fs::write(folder.join("pages-1.img"), bytes).unwrap();
}
