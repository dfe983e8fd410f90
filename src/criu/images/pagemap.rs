//! `pagemap-PID.img`: which pages of a process are where in `pages-N.img`.

use super::{COMMON, Entries, ImageError, ImageReason, PAGE, protobuf};
use std::io::Read;
use std::path::Path;

/// `PAGEMAP_MAGIC`.
const MAGIC: u32 = 0x5608_4025;

/// Flags of an entry (`criu/include/pagemap.h`).
const PARENT: u64 = 1;
const LAZY: u64 = 2;
const PRESENT: u64 = 4;

/// Addresses of processes are below this, also with five levels of page tables.
const END_OF_ADDRESSES: u64 = 1 << 56;

/// Pages that lie one behind another in memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Address of the first.
    pub address: u64,
    /// Their length in bytes, a multiple of [`PAGE`] and not 0.
    pub bytes: u64,
    /// Where in the file of pages the first is, in bytes.
    pub offset: u64,
}

/// Pages that lie one behind another in memory, as an entry has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first, or its place in the shared memory, in bytes.
    pub address: u64,
    /// Their length in bytes, a multiple of [`PAGE`] and not 0.
    pub bytes: u64,
    /// Whether the file of pages has them.
    pub is_present: bool,
    /// Whether a page server may bring them after the restore.
    pub is_lazy: bool,
    /// Whether they are in the images of an earlier dump.
    pub in_parent: bool,
}

/// What a `pagemap` image says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// The `N` of the `pages-N.img` that has the pages.
    pub pages_id: u32,
    /// What a restore with lazy pages leaves to the page server, in ascending
    /// order of addresses and of offsets, no two overlapping.
    pub lazy: Vec<Extent>,
    /// How many bytes of the file of pages are spoken of.
    pub file_bytes: u64,
}

impl Pagemap {
    /// Bytes that a page server has to bring.
    pub fn lazy_bytes(&self) -> u64 {
        self.lazy.iter().map(|extent| extent.bytes).sum()
    }
}

/// Reads a `pagemap` image.
///
/// # Errors
/// If it cannot be read, or says what cannot be; the file of pages is not looked
/// at.
pub fn read_pagemap(path: &Path) -> Result<Pagemap, ImageError> {
    let mut entries = Entries::open(path, MAGIC)?;
    let pages_id = head(&mut entries)?;
    let mut pagemap = Pagemap {
        pages_id,
        ..Pagemap::default()
    };
    each_run(&mut entries, |run| add(&mut pagemap, run))?;
    Ok(pagemap)
}

/// Reads a `pagemap` image of a process or of shared memory from anywhere, whatever
/// is to become of its pages; the path is for messages. Returns the `N` of its
/// `pages-N.img`, after `each` was given its runs in ascending order of addresses.
///
/// # Errors
/// If it cannot be read, or says what cannot be, or `each` fails.
pub fn runs(
    path: &Path,
    from: impl Read,
    each: impl FnMut(Run) -> Result<(), ImageReason>,
) -> Result<u32, ImageError> {
    /// The longest has seven numbers.
    const LONGEST: u32 = 4096;
    let mut entries = Entries::begin(path, from, (COMMON, MAGIC), LONGEST)?;
    let pages_id = head(&mut entries)?;
    each_run(&mut entries, each)?;
    Ok(pages_id)
}

fn head<R: Read>(entries: &mut Entries<R>) -> Result<u32, ImageError> {
    let Some(head) = entries.next()? else {
        return Err(ImageError::new(&entries.path, ImageReason::Cut));
    };
    pages_id(&head).map_err(|reason| entries.was_wrong(reason))
}

fn each_run<R: Read>(
    entries: &mut Entries<R>,
    mut each: impl FnMut(Run) -> Result<(), ImageReason>,
) -> Result<(), ImageError> {
    let mut free_from = 0;
    while let Some(message) = entries.next()? {
        let run = run(&mut free_from, &message).and_then(&mut each);
        run.map_err(|reason| entries.was_wrong(reason))?;
    }
    Ok(())
}

fn pages_id(head: &[u8]) -> Result<u32, ImageReason> {
    let mut id = None;
    for field in protobuf::numbers(head) {
        if let (1, value) = field? {
            id = Some(value);
        }
    }
    let id = id.ok_or(ImageReason::Missing("number of the file of pages"))?;
    u32::try_from(id).map_err(|_| ImageReason::Impossible(format!("a file of pages {id}")))
}

/// Reads an entry, of which all bytes lie at `free_from` or above.
fn run(free_from: &mut u64, message: &[u8]) -> Result<Run, ImageReason> {
    let entry = Entry::parse(message)?;
    let impossible = |what: String| Err(ImageReason::Impossible(what));
    let address = entry.address;
    if !address.is_multiple_of(PAGE) {
        return impossible(format!("address {address:#x} is not a page's"));
    }
    if address < *free_from {
        return impossible(format!("address {address:#x} overlaps the entry before"));
    }
    let bytes = entry.pages.checked_mul(PAGE).filter(|bytes| *bytes > 0);
    let end = bytes.and_then(|bytes| address.checked_add(bytes));
    let (Some(bytes), Some(end @ ..=END_OF_ADDRESSES)) = (bytes, end) else {
        return impossible(format!("{} pages from {address:#x} on", entry.pages));
    };
    *free_from = end;
    if entry.flags & !(PARENT | LAZY | PRESENT) != 0 {
        let flags = entry.flags;
        return impossible(format!("flags {flags:#x}: this CRIU is newer than rewarm"));
    }
    Ok(Run {
        address,
        bytes,
        is_present: entry.flags & PRESENT != 0,
        is_lazy: entry.flags & LAZY != 0,
        in_parent: entry.flags & PARENT != 0,
    })
}

fn add(pagemap: &mut Pagemap, run: Run) -> Result<(), ImageReason> {
    if !run.is_present {
        return match run.is_lazy {
            false => Ok(()),
            true => Err(ImageReason::Impossible(
                "its pages were never written: a dump with --lazy-pages".into(),
            )),
        };
    }
    if run.is_lazy {
        pagemap.lazy.push(Extent {
            address: run.address,
            bytes: run.bytes,
            offset: pagemap.file_bytes,
        });
    }
    // All entries together are within the address space.
    pagemap.file_bytes += run.bytes;
    Ok(())
}

struct Entry {
    address: u64,
    pages: u64,
    flags: u64,
}

impl Entry {
    /// Reads the forms of CRIU 1 to 4.1 (pages in 32 bits, `in_parent` without
    /// flags) and of 4.2 (pages in 64 bits).
    fn parse(message: &[u8]) -> Result<Entry, ImageReason> {
        let (mut address, mut narrow, mut wide) = (None, None, None);
        let (mut in_parent, mut flags) = (false, None);
        for field in protobuf::numbers(message) {
            match field? {
                (1, value) => address = Some(value),
                (2, value) => narrow = Some(value),
                (3, value) => in_parent = value != 0,
                (4, value) => flags = Some(value),
                (5, value) => wide = Some(value),
                _ => {}
            }
        }
        let plain = if in_parent { PARENT } else { PRESENT };
        Ok(Entry {
            address: address.ok_or(ImageReason::Missing("address"))?,
            pages: wide
                .or(narrow)
                .ok_or(ImageReason::Missing("number of pages"))?,
            flags: flags.unwrap_or(plain),
        })
    }
}
