//! Redirecting a function that a loaded library imports.
//!
//! A library calls what it imports through a slot of its global offset table, which
//! the loader fills in. Redirecting is one atomic store to that slot, and only that
//! library notices.
//!
//! Loader locks: `dl_iterate_phdr` takes glibc's `_dl_load_write_lock`, which the
//! loader holds only while it changes its list, and while it unmaps a library.
//! Constructors run under another lock, `_dl_load_lock`, so a thread that waits for
//! us in a constructor is not waited for here, and what is visited stays mapped. The
//! allocator may take locks that are held around a `dl_iterate_phdr` elsewhere
//! (unwinders call it), so a visit allocates nothing.
//!
//! The list also has libraries that are still being relocated. Their slot has
//! another value, or lies on a page that the loader is yet to make read-only; both
//! are left alone until a later look.
//!
//! Whatever is not exactly as expected is left alone.

use rewarm::pages::mappings::is_writable;
use std::ffi::{CStr, c_int, c_void};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicUsize, Ordering};

const PAGE: usize = 4096;
const R_X86_64_GLOB_DAT: u64 = 6;
const R_X86_64_JUMP_SLOT: u64 = 7;

/// More slots of one name in all libraries concerned are left alone.
const MOST_SLOTS: usize = 8;

/// What is to be redirected.
pub(crate) struct Redirection {
    /// How the file names of the libraries begin.
    pub(crate) library: &'static [u8],
    /// The function's name.
    pub(crate) function: &'static CStr,
    /// Its address, which slots must have.
    pub(crate) from: usize,
    /// What they get. Valid for the life of the process.
    pub(crate) to: usize,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    /// The loader's list at that moment.
    version: Version,
    /// Slots redirected, now or earlier.
    pub(crate) redirected: usize,
    /// Slots left alone.
    pub(crate) left: usize,
}

impl Looked {
    /// Whether looking again would show nothing else.
    pub(crate) fn is_current(&self) -> bool {
        self.left == 0 && self.version != Version::default() && self.version == version()
    }
}

/// Libraries that the loader has added to its list and taken away so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Version {
    added: u64,
    removed: u64,
}

impl Redirection {
    /// Redirects the function in every library of that name.
    pub(crate) fn apply(&self) -> Looked {
        let found = self.find();
        let mut looked = Looked {
            version: found.version,
            redirected: 0,
            left: found.others,
        };
        // Outside of a visit: this allocates.
        let found_slots = found.slots.into_iter().flatten();
        let slots = found_slots.map(|slot| (slot, self.access(&slot)));
        let slots: Vec<_> = slots.collect();
        visit(|object| {
            let still = object.version == found.version;
            for (slot, access) in &slots {
                // SAFETY: the list is the same as when the slot was found, and does
                // not change during the visit.
                match still && unsafe { self.redirect(slot, *access) } {
                    true => looked.redirected += 1,
                    false => looked.left += 1,
                }
            }
            ControlFlow::Break(())
        });
        looked
    }

    fn find(&self) -> Found {
        let mut found = Found::default();
        visit(|object| {
            found.version = object.version;
            if object.file_name().starts_with(self.library)
                && object
                    .slots(self.function, |slot| found.add(slot))
                    .is_none()
            {
                found.others += 1;
            }
            ControlFlow::Continue(())
        });
        found
    }

    fn access(&self, slot: &Slot) -> Access {
        match (slot.read_only_after_relocation, is_writable(slot.address)) {
            (true, Some(false)) => Access::ReadOnly,
            (false, Some(true)) => Access::Writable,
            _ => Access::Unexpected,
        }
    }

    /// Whether the slot leads to the replacement now.
    ///
    /// # Safety
    /// The slot is still mapped and will be so until the end of this call.
    unsafe fn redirect(&self, slot: &Slot, access: Access) -> bool {
        // SAFETY: aligned, in a data segment of a library.
        let value = unsafe { AtomicUsize::from_ptr(slot.address as *mut usize) };
        let exchange = || {
            let before =
                value.compare_exchange(self.from, self.to, Ordering::AcqRel, Ordering::Acquire);
            before.is_ok()
        };
        match (value.load(Ordering::Acquire), access) {
            (before, _) if before == self.to => true,
            (before, _) if before != self.from => false,
            (_, Access::Writable) => exchange(),
            (_, Access::ReadOnly) => {
                if !protect(slot.address, libc::PROT_READ | libc::PROT_WRITE) {
                    return false;
                }
                let exchanged = exchange();
                protect(slot.address, libc::PROT_READ);
                exchanged
            }
            (_, Access::Unexpected) => false,
        }
    }
}

/// Changes the access to the page of an address in a library's data.
fn protect(address: usize, access: c_int) -> bool {
    let page = (address & !(PAGE - 1)) as *mut c_void;
    // SAFETY: nothing but access changes, and to what the loader gives such pages.
    unsafe { libc::mprotect(page, PAGE, access) == 0 }
}

/// How a slot's page may be accessed.
#[derive(Clone, Copy)]
enum Access {
    /// The loader has made it read-only, and will not touch it again.
    ReadOnly,
    /// The loader leaves it writable.
    Writable,
    Unexpected,
}

/// A place of the table.
#[derive(Clone, Copy)]
struct Slot {
    address: usize,
    /// Whether it lies where the loader takes the right to write away once
    /// everything is relocated.
    read_only_after_relocation: bool,
}

#[derive(Default)]
struct Found {
    version: Version,
    slots: [Option<Slot>; MOST_SLOTS],
    /// Slots beyond those, and libraries that could not be understood.
    others: usize,
}

impl Found {
    fn add(&mut self, slot: Slot) {
        match self.slots.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(slot),
            None => self.others += 1,
        }
    }
}

/// The state of the loader's list.
fn version() -> Version {
    let mut version = Version::default();
    visit(|object| {
        version = object.version;
        ControlFlow::Break(())
    });
    version
}

/// Shows every loaded library, until told to stop. The list cannot change
/// meanwhile; what `show` does must neither allocate nor wait.
fn visit<F: FnMut(&Object<'_>) -> ControlFlow<()>>(mut show: F) {
    unsafe extern "C" fn shown<F: FnMut(&Object<'_>) -> ControlFlow<()>>(
        info: *mut libc::dl_phdr_info,
        size: usize,
        show: *mut c_void,
    ) -> c_int {
        if size < size_of::<libc::dl_phdr_info>() {
            return 1;
        }
        // SAFETY: both come from `dl_iterate_phdr` as it is called below, and the
        // name and the headers are the library's own.
        let (object, show) = unsafe {
            let info = &*info;
            let object = Object {
                base: info.dlpi_addr as usize,
                path: CStr::from_ptr(info.dlpi_name).to_bytes(),
                headers: std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
                version: Version {
                    added: info.dlpi_adds,
                    removed: info.dlpi_subs,
                },
            };
            (object, &mut *show.cast::<F>())
        };
        c_int::from(show(&object).is_break())
    }
    // SAFETY: the callback gets the pointer passed here, while it lives.
    unsafe { libc::dl_iterate_phdr(Some(shown::<F>), (&raw mut show).cast()) };
}

/// A loaded library.
struct Object<'a> {
    base: usize,
    path: &'a [u8],
    headers: &'a [libc::Elf64_Phdr],
    version: Version,
}

/// An entry of the dynamic section (`Elf64_Dyn` of elf.h).
#[derive(Clone, Copy)]
#[repr(C)]
struct Dynamic {
    tag: i64,
    value: u64,
}

const DT_PLTRELSZ: i64 = 2;
const DT_STRTAB: i64 = 5;
const DT_SYMTAB: i64 = 6;
const DT_RELA: i64 = 7;
const DT_RELASZ: i64 = 8;
const DT_STRSZ: i64 = 10;
const DT_JMPREL: i64 = 23;

impl Object<'_> {
    fn file_name(&self) -> &[u8] {
        let end_of_folder = self.path.iter().rposition(|&byte| byte == b'/');
        &self.path[end_of_folder.map_or(0, |at| at + 1)..]
    }

    /// Shows the slots of an imported function; `None` if the library's tables are
    /// not as they should be.
    fn slots(&self, function: &CStr, mut show: impl FnMut(Slot)) -> Option<()> {
        let dynamic = self.dynamic()?;
        let value = |tag| {
            let entries = dynamic.iter().take_while(|entry| entry.tag != 0);
            let mut entries = entries.filter(|entry| entry.tag == tag);
            entries.next().map(|entry| entry.value as usize)
        };
        let names = self.table::<u8>(value(DT_STRTAB)?, value(DT_STRSZ)?)?;
        let symbols = self.pointer(value(DT_SYMTAB)?)?;
        for (table, bytes) in [(DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)] {
            let (Some(table), Some(bytes)) = (value(table), value(bytes)) else {
                continue;
            };
            for entry in self.table::<libc::Elf64_Rela>(table, bytes)? {
                let kind = entry.r_info & 0xffff_ffff;
                if kind != R_X86_64_GLOB_DAT && kind != R_X86_64_JUMP_SLOT {
                    continue;
                }
                let number = (entry.r_info >> 32) as usize;
                let symbol = symbols + number * size_of::<libc::Elf64_Sym>();
                let name = self.read::<libc::Elf64_Sym>(symbol)?.st_name as usize;
                if names.get(name..)?.starts_with(function.to_bytes_with_nul()) {
                    show(self.slot(self.base.wrapping_add(entry.r_offset as usize))?);
                }
            }
        }
        Some(())
    }

    fn slot(&self, address: usize) -> Option<Slot> {
        let range = address..address.checked_add(size_of::<usize>())?;
        let has_room = self.segments(libc::PT_LOAD).any(|(header, segment)| {
            header.p_flags & (libc::PF_W | libc::PF_X) == libc::PF_W && encloses(&segment, &range)
        });
        if !has_room || !address.is_multiple_of(size_of::<usize>()) {
            return None;
        }
        Some(Slot {
            address,
            read_only_after_relocation: self
                .segments(libc::PT_GNU_RELRO)
                .any(|(_, segment)| encloses(&segment, &range)),
        })
    }

    fn dynamic(&self) -> Option<&[Dynamic]> {
        let (_, section) = self.segments(libc::PT_DYNAMIC).next()?;
        self.table(section.start, section.len())
    }

    fn segments(&self, kind: u32) -> impl Iterator<Item = (&libc::Elf64_Phdr, Range<usize>)> {
        let headers = self.headers.iter();
        headers
            .filter(move |header| header.p_type == kind)
            .map(|header| {
                let start = self.base.wrapping_add(header.p_vaddr as usize);
                (header, start..start.saturating_add(header.p_memsz as usize))
            })
    }

    /// What an address in the dynamic section means: the loader has added the base
    /// to some.
    fn pointer(&self, value: usize) -> Option<usize> {
        let candidates = [value, self.base.wrapping_add(value)];
        candidates.into_iter().find(|&at| self.has(at, 1))
    }

    /// Whether a range lies in a segment that may be read.
    fn has(&self, start: usize, bytes: usize) -> bool {
        let Some(end) = start.checked_add(bytes) else {
            return false;
        };
        self.segments(libc::PT_LOAD).any(|(header, segment)| {
            header.p_flags & libc::PF_R != 0 && encloses(&segment, &(start..end))
        })
    }

    fn read<T: Copy>(&self, address: usize) -> Option<T> {
        // SAFETY: mapped and readable; the types asked for are plain numbers.
        self.has(address, size_of::<T>())
            .then(|| unsafe { (address as *const T).read_unaligned() })
    }

    fn table<T>(&self, value: usize, bytes: usize) -> Option<&[T]> {
        let start = self.pointer(value)?;
        if !self.has(start, bytes) || !start.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: mapped, readable and aligned; the types asked for are plain
        // numbers, and the loader has written them before.
        Some(unsafe { std::slice::from_raw_parts(start as *const T, bytes / size_of::<T>()) })
    }
}

fn encloses(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
