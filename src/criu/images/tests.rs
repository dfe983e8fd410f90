//! Images that are whole, and images that are anything.

use super::*;
use std::fs;

/// A file in a folder of the tests, removed in the end.
struct Image(PathBuf);

impl Image {
    fn new(bytes: &[u8]) -> Image {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rewarm-image-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Image(path)
    }

    fn read(bytes: &[u8]) -> Result<Pagemap, ImageError> {
        read_pagemap(&Image::new(bytes).0)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Numbers and values.
type Fields = [(u32, u64)];

fn message(fields: &Fields) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in fields {
        varint(u64::from(*number) << 3, &mut bytes);
        varint(*value, &mut bytes);
    }
    bytes
}

fn image(entries: &[&Fields]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(COMMON.to_le_bytes());
    bytes.extend(0x5608_4025u32.to_le_bytes());
    for fields in entries {
        let entry = message(fields);
        bytes.extend((entry.len() as u32).to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

#[test]
fn entries_of_every_version_are_read() {
    let bytes = image(&[
        &[(1, 7)],
        &[(1, 0x1000), (2, 2), (4, 6)],
        &[(1, 0x4000), (2, 0), (4, 6), (5, 1 << 33)],
        &[(1, 1 << 50), (2, 3), (3, 1)],
        &[(1, 2 << 50), (2, 5)],
        &[(1, 3 << 50), (2, 1), (4, 1)],
        &[(1, 4 << 50), (2, 1), (4, 6), (99, 4)],
    ]);
    let pagemap = Image::read(&bytes).unwrap();
    let lazy = |address, pages, offset| Extent {
        address,
        bytes: pages * PAGE,
        offset: offset * PAGE,
    };
    assert_eq!(pagemap.pages_id, 7);
    assert_eq!(
        pagemap.lazy,
        [
            lazy(0x1000, 2, 0),
            lazy(0x4000, 1 << 33, 2),
            lazy(4 << 50, 1, (1 << 33) + 7),
        ]
    );
    assert_eq!(pagemap.file_bytes, ((1u64 << 33) + 8) * PAGE);
}

#[test]
fn what_cannot_be_is_an_error_that_names_the_file_and_the_entry() {
    let head: &[_] = &[(1, 1)];
    let good: &[_] = &[(1, 0x2000), (5, 2), (4, 6)];
    let cases: [(&[&Fields], &str); 12] = [
        (&[&[(2, 1)]], "entry 0: it has no number of the file"),
        (&[&[(1, 1 << 40)]], "entry 0: a file of pages"),
        (&[head, &[(5, 2), (4, 6)]], "entry 1: it has no address"),
        (
            &[head, &[(1, 0x2000)]],
            "entry 1: it has no number of pages",
        ),
        (
            &[head, &[(1, 0x2001), (5, 2)]],
            "entry 1: address 0x2001 is",
        ),
        (&[head, &[(1, 0x2000), (5, 0)]], "entry 1: 0 pages from"),
        (&[head, &[(1, 0x2000), (5, u64::MAX)]], "pages from 0x2000"),
        (&[head, &[(1, u64::MAX << 12), (5, 1)]], "entry 1: 1 pages"),
        (&[head, good, good], "entry 2: address 0x2000 overlaps"),
        (&[head, good, &[(1, 0x3000), (5, 1)]], "entry 2: address"),
        (&[head, &[(1, 0x2000), (5, 1), (4, 8)]], "newer than rewarm"),
        (&[head, &[(1, 0x2000), (5, 1), (4, 2)]], "never written"),
    ];
    for (entries, words) in cases {
        let error = Image::read(&image(entries)).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(error.contains("rewarm-image-"), "{error}");
    }
}

#[test]
fn sizes_that_lie_are_errors() {
    let mut long = image(&[&[(1, 1)]]);
    long.extend(u32::MAX.to_le_bytes());
    let error = Image::read(&long).unwrap_err().to_string();
    assert!(error.contains("entry 1: 4294967295 bytes"), "{error}");
    let foreign = b"\x19\x43\x56\x54\x00\x00\x00\x00";
    assert!(matches!(
        Image::read(foreign).unwrap_err().reason,
        ImageReason::Magic(_, 0)
    ));
    let whole = image(&[&[(1, 1)], &[(1, 0x2000), (5, 2), (4, 6)]]);
    let ends = [
        whole.len(),
        whole.len() - 4 - message(&[(1, 0x2000), (5, 2), (4, 6)]).len(),
    ];
    for length in 0..whole.len() {
        let is_whole = ends.contains(&length);
        assert_eq!(Image::read(&whole[..length]).is_ok(), is_whole, "{length}");
    }
}

/// Whatever is in the file: an error, or extents that hold what is promised.
#[test]
fn any_bytes_give_an_error_or_sound_extents() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..3000 {
        let mut entries = vec![vec![(1, random.u64(0..4))]];
        let mut address = 0u64;
        for _ in 0..random.usize(0..6) {
            let pages = random.u64(1..40);
            entries.push(vec![(1, address), (5, pages), (4, random.u64(0..8))]);
            address += (pages + random.u64(0..9)) * PAGE;
        }
        let entries: Vec<_> = entries.iter().map(Vec::as_slice).collect();
        let mut bytes = image(&entries);
        for _ in 0..random.usize(0..4) {
            let at = random.usize(8.min(bytes.len() - 1)..bytes.len());
            match random.u8(0..3) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        let Ok(pagemap) = Image::read(&bytes) else {
            continue;
        };
        let (mut address, mut offset) = (0, 0);
        for extent in &pagemap.lazy {
            assert!(
                extent.bytes > 0 && extent.bytes.is_multiple_of(PAGE),
                "{extent:?}"
            );
            assert!(extent.address >= address && extent.address.is_multiple_of(PAGE));
            assert!(extent.offset >= offset && extent.offset.is_multiple_of(PAGE));
            address = extent.address.checked_add(extent.bytes).unwrap();
            offset = extent.offset + extent.bytes;
            assert!(address <= 1 << 56);
        }
        assert!(offset <= pagemap.file_bytes);
    }
}

/// `mm-PID.img` with mappings of (start, end, advice).
fn mappings(all: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut entry = message(&[(1, 0x1000), (12, 3)]);
    for (start, end, advice) in all {
        let mapping = message(&[(1, *start), (2, *end), (9, *advice)]);
        varint(14 << 3 | 2, &mut entry);
        varint(mapping.len() as u64, &mut entry);
        entry.extend(mapping);
    }
    let mut bytes = COMMON.to_le_bytes().to_vec();
    bytes.extend(0x5749_2820u32.to_le_bytes());
    bytes.extend((entry.len() as u32).to_le_bytes());
    bytes.extend(entry);
    bytes
}

#[test]
fn where_children_find_zeros_is_read_and_any_bytes_are_survived() {
    let bytes = mappings(&[
        (0, PAGE, 0),
        (PAGE, 3 * PAGE, 1 << 18),
        (4 * PAGE, 5 * PAGE, 2),
    ]);
    let wiped = read_wiped(&Image::new(&bytes).0).unwrap();
    assert_eq!((wiped.len(), &wiped[0]), (1, &(PAGE..3 * PAGE)));
    for bad in [(1, PAGE), (2 * PAGE, PAGE)] {
        let bytes = mappings(&[(bad.0, bad.1, 0)]);
        let error = read_wiped(&Image::new(&bytes).0).unwrap_err().to_string();
        assert!(error.contains("entry 0: a mapping from"), "{error}");
    }
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..1000 {
        let mut any = bytes.clone();
        let at = random.usize(8..any.len());
        any[at] = random.u8(..);
        for range in read_wiped(&Image::new(&any).0).unwrap_or_default() {
            assert!(range.start <= range.end && range.start.is_multiple_of(PAGE));
        }
    }
}

#[test]
fn a_pipe_in_place_of_an_image_is_refused_at_once() {
    let image = Image::new(b"");
    fs::remove_file(&image.0).unwrap();
    let path = std::ffi::CString::new(image.0.to_str().unwrap()).unwrap();
    // SAFETY: a string and a number.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let error = read_pagemap(&image.0).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}
