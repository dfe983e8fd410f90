//! Which file lies behind a range of this process's memory.
//!
//! A copy whose source is a mapping of a file may read the file instead, if
//! that must give the same bytes. Three things have to hold:
//!
//! 1. the range is mapped from one file, without gaps, and lies within it;
//! 2. the file opened by the mapping's name is the file that is mapped
//!    (`files.rs`: names are reused, replaced and deleted);
//! 3. a private mapping has no page of its own in the range (`modified.rs`).
//!
//! Whatever cannot be told is memory, which is always right.
//!
//! Memory and file then share the page cache, so what is written to the file
//! shows in both. What this cannot see: pages of tmpfs that a userfaultfd
//! handler changes before the first access (minor faults), and network file
//! systems that give other bytes to `read` than to a mapping.
//!
//! Source: `Documentation/filesystems/proc.rst`,
//! `Documentation/admin-guide/mm/pagemap.rst`, `include/uapi/linux/fs.h`.

mod files;
mod kinds;
mod locks;
mod modified;
mod query;
#[cfg(test)]
mod tests;
mod text;

use super::{FileRange, PageFile};
use files::{Files, Named};
use modified::Pagemap;
use parking_lot::Mutex;
use query::{View, Vma};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use text::Cost;

const PAGE: usize = 4096;

/// Why a range is not read from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAFile {
    /// An ordinary buffer.
    Anonymous,
    /// A page of a private mapping was written.
    Modified,
    /// The mapping's name is gone, or is another file's by now.
    Replaced,
    /// The file was written, or its status changed, since the last lookup. The
    /// next lookup takes it as it is then.
    Changed,
    /// The range reaches beyond the end of the file.
    BeyondEnd,
    /// Huge pages, a device, a file that the kernel makes up, or one whose
    /// mapping and name may part ways.
    Special,
    /// A process holds a POSIX lock on the file, which closing it could release.
    Locked,
    /// Several files or other parts of the file, or not only files.
    Mixed,
    /// Not all of it is mapped, or not for reading.
    Unmapped,
    /// The file or the page table cannot be read.
    Unreadable,
    /// Finding out would take too long for a range of this size.
    TooCostly,
    /// The kernel did not say.
    Unknown,
}

/// What the kernel offers; less is assumed in tests.
#[derive(Clone, Copy)]
struct Facilities {
    /// `PROCMAP_QUERY`, Linux 6.11.
    query: bool,
    /// `PAGEMAP_SCAN`, Linux 6.7.
    scan: bool,
}

impl Facilities {
    const ALL: Facilities = Facilities {
        query: true,
        scan: true,
    };
}

/// The files behind this process's mappings.
///
/// It holds a few descriptors between lookups, until [`Mappings::close`]. They
/// speak of the process that opened them, so a forked child must make its own
/// and leave its parent's alone.
pub struct Mappings {
    facilities: Facilities,
    process: Mutex<Option<Arc<Process>>>,
    files: Files,
    text: Cost,
}

/// This process as seen through `/proc`.
struct Process {
    view: View,
    pagemap: OnceLock<Option<Arc<Pagemap>>>,
}

impl Default for Mappings {
    fn default() -> Mappings {
        Mappings::new()
    }
}

impl Mappings {
    /// Opens nothing yet.
    pub fn new() -> Mappings {
        Mappings::with(Facilities::ALL)
    }

    fn with(facilities: Facilities) -> Mappings {
        Mappings {
            facilities,
            process: Mutex::default(),
            files: Files::default(),
            text: Cost::default(),
        }
    }

    /// The file that the range `memory` is mapped from, or why there is none.
    ///
    /// One system call for ordinary buffers, two for files that were looked up
    /// before.
    pub fn file_behind(&self, memory: Range<usize>) -> Result<Backing, NotAFile> {
        if memory.is_empty() {
            return Err(NotAFile::Unmapped);
        }
        let process = self.process();
        let mut mapped: Option<Mapped> = None;
        self.walk(&process.view, &memory, |vma| match &mut mapped {
            Some(mapped) => mapped.extend(vma),
            None => {
                mapped = Some(Mapped::first(vma, memory.start)?);
                Ok(())
            }
        })?;
        let mapped = mapped.ok_or(NotAFile::Unmapped)?;
        let (file, size) = self.files.find(&process.view, &mapped.named)?;
        let end = mapped.offset.checked_add(memory.len() as u64);
        if end.is_none_or(|end| end > size) {
            return Err(NotAFile::BeyondEnd);
        }
        let pages = match mapped.private {
            true => Some(self.pagemap(&process)?),
            false => None,
        };
        Ok(Backing {
            memory,
            file,
            offset: mapped.offset,
            pages,
        })
    }

    /// Gives back all descriptors, so that none pins a deleted file. Those of
    /// files that a process holds a lock on have to stay until a later call.
    pub fn close(&self) {
        let process = self.process.lock().take();
        drop(process);
        self.files.close();
    }

    fn process(&self) -> Arc<Process> {
        let mut process = self.process.lock();
        let open = || {
            Arc::new(Process {
                view: View::open(self.facilities),
                pagemap: OnceLock::new(),
            })
        };
        Arc::clone(process.get_or_insert_with(open))
    }

    fn pagemap(&self, process: &Process) -> Result<Arc<Pagemap>, NotAFile> {
        let open = || Pagemap::open(self.facilities).ok().map(Arc::new);
        let pagemap = process.pagemap.get_or_init(open);
        pagemap.clone().ok_or(NotAFile::Unreadable)
    }

    fn walk(
        &self,
        view: &View,
        memory: &Range<usize>,
        visit: impl FnMut(&Vma<'_>) -> Result<(), NotAFile>,
    ) -> Result<(), NotAFile> {
        if view.is_cheap() {
            return view.walk(memory, visit);
        }
        self.text.measure(memory.len(), || view.walk(memory, visit))
    }
}

/// A range of memory that is mapped from one file.
pub struct Backing {
    memory: Range<usize>,
    file: Arc<PageFile>,
    offset: u64,
    /// Set where a page may be the process's own.
    pages: Option<Arc<Pagemap>>,
}

impl Backing {
    /// The part of the file that holds the same bytes as `part`, which lies
    /// within the range that was looked up.
    ///
    /// Where the mapping is private this looks at the part's page table, 4 KiB
    /// by 4 KiB where it is populated so: lanes call it, each for what it is
    /// about to copy.
    pub fn part(&self, part: Range<usize>) -> Result<FileRange, NotAFile> {
        if part.start < self.memory.start || part.end > self.memory.end || part.is_empty() {
            return Err(NotAFile::Unmapped);
        }
        if let Some(pages) = &self.pages {
            pages.none_modified(&part)?;
        }
        Ok(FileRange {
            file: Arc::clone(&self.file),
            offset: self.offset + (part.start - self.memory.start) as u64,
            bytes: part.len() as u64,
        })
    }
}

/// What a walk over a range has found so far.
struct Mapped {
    named: Named,
    /// Where the range begins in the file.
    offset: u64,
    private: bool,
    /// Where the next mapping must go on in the file.
    next: u64,
}

impl Mapped {
    /// Of the mapping that `start` lies in.
    fn first(vma: &Vma<'_>, start: usize) -> Result<Mapped, NotAFile> {
        check(vma)?;
        let offset = vma.offset.checked_add((start - vma.range.start) as u64);
        Ok(Mapped {
            named: Named {
                id: vma.id,
                name: vma.name.to_owned(),
                address: start,
            },
            offset: offset.ok_or(NotAFile::Unknown)?,
            private: !vma.shared,
            next: vma.next_offset()?,
        })
    }

    /// By the mapping that follows.
    fn extend(&mut self, vma: &Vma<'_>) -> Result<(), NotAFile> {
        check(vma)?;
        if !self.named.is_of(vma) || vma.offset != self.next {
            return Err(NotAFile::Mixed);
        }
        self.private |= !vma.shared;
        self.next = vma.next_offset()?;
        Ok(())
    }
}

fn check(vma: &Vma<'_>) -> Result<(), NotAFile> {
    if vma.id.inode == 0 {
        Err(NotAFile::Anonymous)
    } else if !vma.readable {
        Err(NotAFile::Unmapped)
    } else if vma.huge_pages {
        Err(NotAFile::Special)
    } else {
        Ok(())
    }
}

/// Memory that may be registered where it lies, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registrable {
    /// Private anonymous memory that is writable: an ordinary buffer.
    Anonymous,
    /// A shared mapping of a file that this process can only read.
    SharedReadOnly,
}

/// Classifies a range, `None` if it is mixed, not wholly mapped, or of a kind
/// that must not be registered: pinning a private mapping of a file copies every
/// page first.
pub fn registrable(memory: Range<usize>) -> Option<Registrable> {
    let mut kind = None;
    let view = View::open(Facilities::ALL);
    let walked = view.walk(&memory, |vma| {
        let this = vma.registrable().ok_or(NotAFile::Mixed)?;
        match *kind.get_or_insert(this) == this {
            true => Ok(()),
            false => Err(NotAFile::Mixed),
        }
    });
    walked.ok().and(kind)
}

/// Whether the private, readable memory at an address may be written as well;
/// `None` if it is of another kind, or if that cannot be told.
pub fn is_writable(address: usize) -> Option<bool> {
    let look = |vma: &Vma<'_>| (vma.readable && !vma.shared).then_some(vma.writable);
    View::open(Facilities::ALL).at(address, look).ok().flatten()
}
