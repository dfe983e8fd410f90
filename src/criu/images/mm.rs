//! `mm-PID.img`: the mappings of a process (`images/mm.proto`, `images/vma.proto`).

use super::{COMMON, Entries, ImageError, ImageReason, protobuf};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// `MM_MAGIC`.
const MAGIC: u32 = 0x5749_2820;

/// Numbers of the program's file and of the mappings in the message.
const PROGRAM: u32 = 12;
const MAPPINGS: u32 = 14;

/// `MADV_WIPEONFORK` in a mapping's set of advice.
const WIPE_ON_FORK: u64 = 1 << libc::MADV_WIPEONFORK;

/// Reads where the children of a process find zeros, as it advised so
/// (`MADV_WIPEONFORK`).
///
/// # Errors
/// If the image cannot be read, or is none.
pub fn read_wiped(path: &Path) -> Result<Vec<Range<u64>>, ImageError> {
    let mut entries = Entries::open(path, MAGIC)?;
    let Some(message) = entries.next()? else {
        return Err(ImageError::new(path, ImageReason::Cut));
    };
    let mut wiped = Vec::new();
    for mapping in protobuf::messages(&message, MAPPINGS) {
        let range = mapping.and_then(wiped_in);
        wiped.extend(range.map_err(|reason| entries.was_wrong(reason))?);
    }
    Ok(wiped)
}

fn wiped_in(mapping: &[u8]) -> Result<Option<Range<u64>>, ImageReason> {
    let entry = Entry::parse(mapping)?;
    Ok((entry.advice & WIPE_ON_FORK != 0).then_some(entry.range))
}

/// What a mapping is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MappingKind {
    /// Private memory of no file.
    Anonymous,
    /// The same, grown by brk(2).
    Heap,
    /// The same, the first thread's stack.
    Stack,
    /// A private mapping of a file: pages that were written to.
    FilePrivate,
    /// A shared mapping of a file.
    FileShared,
    /// Shared memory of no file, or of System V.
    Shared,
    /// A shared mapping of a memfd.
    Memfd,
    /// What the kernel maps itself, and everything else.
    Other,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: Range<u64>,
    /// What it is of.
    pub kind: MappingKind,
    /// The file's id in `files.img`, or the shared memory's.
    pub id: u64,
}

/// What an `mm` image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mappings {
    /// The program's id in `files.img`.
    pub program: u64,
    /// In ascending order of addresses, no two overlapping.
    pub list: Vec<Mapping>,
}

/// Reads the mappings of a process from an `mm` image that comes from anywhere, at
/// most so many; the path is for messages.
///
/// # Errors
/// If it cannot be read, is none, or has more.
pub fn mappings(path: &Path, from: impl Read, most: usize) -> Result<Mappings, ImageError> {
    /// What 300000 mappings take.
    const LONGEST: u32 = 24 << 20;
    let mut entries = Entries::begin(path, from, (COMMON, MAGIC), LONGEST)?;
    let message = entries.next().map_err(|error| match error.reason {
        ImageReason::TooLong(_) => ImageError {
            reason: ImageReason::Above("more mappings than are looked into"),
            ..error
        },
        _ => error,
    })?;
    let Some(message) = message else {
        return Err(ImageError::new(path, ImageReason::Cut));
    };
    let read = || {
        let mut found = Mappings::default();
        for field in protobuf::numbers(&message) {
            if let (PROGRAM, id) = field? {
                found.program = id;
            }
        }
        for mapping in protobuf::messages(&message, MAPPINGS) {
            let entry = Entry::parse(mapping?)?;
            let above = found.list.last().map_or(0, |last| last.range.end);
            if entry.range.start < above {
                let text = format!("a mapping at {:#x} overlaps another", entry.range.start);
                return Err(ImageReason::Impossible(text));
            }
            if found.list.len() == most {
                return Err(ImageReason::Above("more mappings than are looked into"));
            }
            found.list.push(Mapping {
                kind: entry.kind(),
                id: entry.id,
                range: entry.range,
            });
        }
        Ok(found)
    };
    read().map_err(|reason| entries.was_wrong(reason))
}

struct Entry {
    range: Range<u64>,
    id: u64,
    flags: u64,
    status: u64,
    advice: u64,
}

impl Entry {
    fn parse(mapping: &[u8]) -> Result<Entry, ImageReason> {
        let (mut start, mut end, mut id, mut advice) = (0, 0, 0, 0);
        let (mut flags, mut status) = (0, 0);
        for field in protobuf::numbers(mapping) {
            match field? {
                (1, value) => start = value,
                (2, value) => end = value,
                (4, value) => id = value,
                (6, value) => flags = value,
                (7, value) => status = value,
                (9, value) => advice = value,
                _ => {}
            }
        }
        let is_whole = start % super::PAGE == 0 && end % super::PAGE == 0 && start <= end;
        if !is_whole {
            let text = format!("a mapping from {start:#x} to {end:#x}");
            return Err(ImageReason::Impossible(text));
        }
        Ok(Entry {
            range: start..end,
            id,
            flags,
            status,
            advice,
        })
    }

    /// By its status (`VMA_*` in `criu/include/image.h`), and its flags as mmap(2)
    /// has them.
    fn kind(&self) -> MappingKind {
        const KINDS: [(u64, MappingKind); 8] = [
            (1 << 14, MappingKind::Memfd),
            (1 << 1, MappingKind::Stack),
            (1 << 5, MappingKind::Heap),
            (1 << 6, MappingKind::FilePrivate),
            (1 << 7, MappingKind::FileShared),
            (1 << 8, MappingKind::Shared),
            (1 << 10, MappingKind::Shared),
            (1 << 9, MappingKind::Anonymous),
        ];
        // What the kernel maps (vDSO, vsyscall, vvar) is private and of no file, too.
        const KERNEL: u64 = 1 << 2 | 1 << 3 | 1 << 12;
        let has = |bits: &&(u64, MappingKind)| self.status & bits.0 != 0;
        match self.status & KERNEL {
            0 if self.flags & libc::MAP_GROWSDOWN as u64 != 0 => MappingKind::Stack,
            0 => KINDS
                .iter()
                .find(has)
                .map_or(MappingKind::Other, |one| one.1),
            _ => MappingKind::Other,
        }
    }
}
