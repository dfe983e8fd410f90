//! The mappings of this process, one by one.
//!
//! `PROCMAP_QUERY` answers for one address in half a microsecond, whatever else
//! is mapped; without it the text of `/proc/self/maps` is read.

use super::{Facilities, NotAFile, PAGE, Registrable, text};
use crate::descriptors::out_of_the_way;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// A file as mappings name it: the device of its file system, and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    /// Major and minor number. Not always what `stat` says.
    pub(super) device: (u32, u32),
    /// 0: no file.
    pub(super) inode: u64,
}

/// A mapping ("virtual memory area").
#[derive(Debug)]
pub(super) struct Vma<'a> {
    pub(super) range: Range<usize>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) shared: bool,
    /// Known to consist of larger pages than ordinary memory.
    pub(super) huge_pages: bool,
    /// Where its first byte lies in the file.
    pub(super) offset: u64,
    pub(super) id: FileId,
    /// The path of the file, or what the kernel calls the memory.
    pub(super) name: &'a [u8],
}

impl Vma<'_> {
    /// Where its end lies in the file.
    pub(super) fn next_offset(&self) -> Result<u64, NotAFile> {
        let next = self.offset.checked_add(self.range.len() as u64);
        next.ok_or(NotAFile::Unknown)
    }

    pub(super) fn registrable(&self) -> Option<Registrable> {
        let buffer = self.id.inode == 0 && matches!(self.name, b"" | b"[heap]");
        match (self.readable, self.writable, self.shared) {
            (true, true, false) if buffer => Some(Registrable::Anonymous),
            (true, false, true) if self.id.inode != 0 && !self.name.starts_with(b"/dev/nvidia") => {
                Some(Registrable::SharedReadOnly)
            }
            _ => None,
        }
    }
}

/// A way to see the mappings.
pub(super) enum View {
    /// `/proc/self/maps`, which can be asked.
    Asked(File),
    /// It must be read.
    Read,
}

impl View {
    pub(super) fn open(facilities: Facilities) -> View {
        if !facilities.query {
            return View::Read;
        }
        let Ok(maps) = File::open("/proc/self/maps") else {
            return View::Read;
        };
        let maps = File::from(out_of_the_way(maps.into()));
        let mut name = Name::uninit();
        let here = &raw const maps as usize;
        match ask(&maps, here, &mut name) {
            Ok(_) => View::Asked(maps),
            Err(_) => View::Read,
        }
    }

    /// Whether the cost of a walk depends on the range alone.
    pub(super) fn is_cheap(&self) -> bool {
        matches!(self, View::Asked(_))
    }

    /// Shows every mapping of the range, in order, until the first error.
    pub(super) fn walk(
        &self,
        memory: &Range<usize>,
        mut visit: impl FnMut(&Vma<'_>) -> Result<(), NotAFile>,
    ) -> Result<(), NotAFile> {
        let maps = match self {
            View::Asked(maps) => maps,
            View::Read => return text::walk(memory, visit),
        };
        let mut at = memory.start;
        while at < memory.end {
            let mut name = Name::uninit();
            let vma = ask(maps, at, &mut name)?;
            visit(&vma)?;
            at = vma.range.end;
        }
        Ok(())
    }

    /// Shows the mapping at an address.
    pub(super) fn at<T>(
        &self,
        address: usize,
        mut look: impl FnMut(&Vma<'_>) -> T,
    ) -> Result<T, NotAFile> {
        let mut seen = None;
        self.walk(&(address..address + 1), |vma| {
            seen = Some(look(vma));
            Ok(())
        })?;
        seen.ok_or(NotAFile::Unmapped)
    }
}

/// `PATH_MAX` bounds what the kernel says.
type Name = MaybeUninit<[u8; PAGE]>;

/// `struct procmap_query` of `include/uapi/linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// `PROCMAP_QUERY`: `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: libc::Ioctl = libc::_IOWR::<ProcmapQuery>(b'f' as u32, 17);
const VMA_READABLE: u64 = 1;
const VMA_WRITABLE: u64 = 2;
const VMA_SHARED: u64 = 8;

fn ask<'a>(maps: &File, address: usize, name: &'a mut Name) -> Result<Vma<'a>, NotAFile> {
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_addr: address as u64,
        vma_name_size: size_of::<Name>() as u32,
        vma_name_addr: name.as_mut_ptr() as u64,
        ..ProcmapQuery::default()
    };
    // SAFETY: the kernel writes to the query, and up to `vma_name_size` bytes
    // to the name.
    if unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &mut query) } != 0 {
        return Err(match io::Error::last_os_error().raw_os_error() {
            Some(libc::ENOENT) => NotAFile::Unmapped,
            _ => NotAFile::Unknown,
        });
    }
    // With the NUL; 0 for no name.
    let length = (query.vma_name_size as usize).saturating_sub(1);
    // SAFETY: as many bytes of it were written.
    let name = unsafe { std::slice::from_raw_parts(name.as_ptr().cast::<u8>(), length) };
    let flag = |flag| query.vma_flags & flag != 0;
    Ok(Vma {
        range: query.vma_start as usize..query.vma_end as usize,
        readable: flag(VMA_READABLE),
        writable: flag(VMA_WRITABLE),
        shared: flag(VMA_SHARED),
        huge_pages: query.vma_page_size != PAGE as u64,
        offset: query.vma_offset,
        id: FileId {
            device: (query.dev_major, query.dev_minor),
            inode: query.inode,
        },
        name,
    })
}
