//! The files that a tree has open or mapped: they are not in the images, and must be
//! the same at the restore.

use super::FileEntry;
use super::tree::{Access, Kind, Tree};
use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Notes of a program are at most so long, in bytes, to be looked at.
const MOST_NOTES: u64 = 64 << 10;
/// Segments of a program are at most so many.
const MOST_SEGMENTS: u16 = 256;
/// Build ids are at most so long, in bytes.
const MOST_ID: usize = 64;

/// The regular files of a tree, as they are now, by path.
pub fn of_tree(tree: &Tree) -> Vec<FileEntry> {
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    for member in &tree.members {
        if member.facts.executable.is_absolute() {
            paths.insert(member.facts.executable.clone());
        }
    }
    let open = tree.descriptors().filter(|(_, one)| one.kind == Kind::File);
    paths.extend(open.map(|(_, one)| one.link.clone()));
    let mapped = tree
        .mappings()
        .filter(|(_, one)| matches!(one.kind, Some(Kind::File) | None));
    paths.extend(mapped.map(|(_, one)| one.name.clone()));
    // What the kernel makes up is made up again.
    let is_real = |path: &&PathBuf| !path.starts_with("/proc") && !path.starts_with("/sys");
    let opened_for = |wanted: &[Access]| -> BTreeSet<_> {
        tree.descriptors()
            .filter(|(_, one)| wanted.contains(&one.access))
            .map(|(_, one)| one.link.as_path())
            .collect()
    };
    let written = opened_for(&[Access::Write, Access::Append]);
    let appended = opened_for(&[Access::Append]);
    let used = opened_for(&[Access::Read, Access::Write]);
    let mapped: BTreeSet<_> = tree.mappings().map(|(_, one)| one.name.as_path()).collect();
    let real = paths.iter().filter(is_real).map(PathBuf::as_path);
    let found = real.filter_map(|path| {
        let mut found = entry(path)?;
        if written.contains(path) {
            found.modified = None;
        }
        found.is_log = appended.contains(path) && !used.contains(path) && !mapped.contains(path);
        Some(found)
    });
    found.collect()
}

/// A file as it is now; `None` if it is not a regular one.
pub fn entry(path: &Path) -> Option<FileEntry> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let (found, build_id): (Metadata, _) = match &opened {
        Ok(file) => (file.metadata().ok()?, build_id(file)),
        Err(_) => (path.metadata().ok()?, None),
    };
    (path.is_absolute() && found.is_file()).then(|| FileEntry {
        path: path.to_owned(),
        bytes: found.len(),
        mode: found.mode(),
        modified: Some(found.mtime()),
        build_id,
        is_log: false,
    })
}

/// The build id of an ELF file of 64 bits, see elf(5).
fn build_id(file: &File) -> Option<String> {
    const NOTE: u32 = 4;
    const ENTRY: usize = 56;
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (offset, size, count) = (
        number(&head, 32, 8),
        number(&head, 54, 2),
        number(&head, 56, 2),
    );
    for index in 0..count.min(MOST_SEGMENTS.into()) {
        let mut segment = [0; ENTRY];
        let at = offset.checked_add(index * size)?;
        file.read_exact_at(&mut segment, at).ok()?;
        let bytes = number(&segment, 32, 8);
        if number(&segment, 0, 4) != u64::from(NOTE) || bytes > MOST_NOTES {
            continue;
        }
        let mut notes = vec![0; bytes as usize];
        file.read_exact_at(&mut notes, number(&segment, 8, 8))
            .ok()?;
        if let Some(id) = id_in(&notes) {
            return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    None
}

/// The build id among notes: kind 3 of "GNU".
fn id_in(mut notes: &[u8]) -> Option<&[u8]> {
    const HEAD: usize = 12;
    const BUILD_ID: u64 = 3;
    while notes.len() >= HEAD {
        let (name, bytes) = (number(notes, 0, 4) as usize, number(notes, 4, 4) as usize);
        let begin = HEAD.checked_add(name.checked_next_multiple_of(4)?)?;
        let end = begin.checked_add(bytes)?;
        let value = notes.get(begin..end)?;
        let is_gnu = notes.get(HEAD..HEAD + name) == Some(b"GNU\0");
        if is_gnu && number(notes, 8, 4) == BUILD_ID && bytes <= MOST_ID {
            return Some(value);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// A number of so many bytes, in little endian.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let digits = bytes[at..at + length].iter().rev();
    digits.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_their_build_ids() {
        // The C library has one in every distribution.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.lines().find(|line| line.contains("/libc.so.6"));
        let path = &libc.unwrap()[libc.unwrap().find('/').unwrap()..];
        let found = entry(Path::new(path)).unwrap();
        assert_eq!(found.build_id.unwrap().len(), 40);
        assert_eq!(found.bytes, std::fs::metadata(path).unwrap().len());
    }

    #[test]
    fn what_is_no_program_has_none() {
        assert_eq!(entry(Path::new("/etc/passwd")).unwrap().build_id, None);
        assert_eq!(entry(Path::new("/dev/null")), None);
        assert_eq!(entry(Path::new("/no/such/file")), None);
        assert_eq!(id_in(&[0xff; 64]), None);
        assert_eq!(id_in(&[0; 24]), None);
    }

    #[test]
    fn a_note_is_found_behind_another() {
        let mut notes = Vec::new();
        for (kind, value) in [(1u32, &b"abc"[..]), (3, b"\x12\x34")] {
            notes.extend(4u32.to_le_bytes());
            notes.extend((value.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(b"GNU\0");
            notes.extend(value);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(id_in(&notes), Some(&b"\x12\x34"[..]));
    }
}
