//! Memory leaves, and comes back.
//!
//! With the gate closed, so that nobody waits for the ledger's lock, in this order:
//!
//! ```text
//! open ─► (bytes are read) ─► release ─► restore ─► (bytes are written) ─► settle
//!   └──────────── the freeze is given up ────────────────────────────────────┘
//! ```

use super::Ledger;
use super::books::{Books, Physical, Window, access};
use rewarm::driver::CudaError;
use rewarm::driver::sys::*;
use std::ops::Range;

/// Physical memory that can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its number, the same for its whole life.
    pub(crate) id: u64,
    /// Its device.
    pub(crate) device: CUdevice,
    /// The context that it was allocated in, or null.
    pub(crate) context: CUcontext,
    /// Where its bytes are, from [`Ledger::open`] to [`Ledger::settle`].
    pub(crate) address: CUdeviceptr,
    /// Its length, a multiple of the granularity.
    pub(crate) bytes: u64,
}

/// What [`Ledger::release`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// Bytes of physical memory that are gone.
    pub(crate) bytes: u64,
    /// Blocks whose memory could not be given back, and why. They come back as the
    /// others do.
    pub(crate) resident: Vec<(u64, CudaError)>,
}

/// A range that cannot be discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are not all of memory that a freeze takes away")]
pub(crate) struct NotMovable {
    address: u64,
    bytes: u64,
}

impl Ledger {
    /// Everything that can leave, each with an address at which its bytes are read
    /// and, after [`Ledger::restore`], written.
    pub(crate) fn open(&self) -> Result<Vec<Block>, CudaError> {
        let mut books = self.books.write();
        let mut blocks = Vec::new();
        for token in leaving(&books) {
            match self.open_one(&mut books, token) {
                Ok(block) => blocks.extend(block),
                Err(error) => {
                    drop(books);
                    // What was opened is as before.
                    let _ = self.settle();
                    return Err(error);
                }
            }
        }
        Ok(blocks)
    }

    fn open_one(&self, books: &mut Books, token: u64) -> Result<Option<Block>, CudaError> {
        let Some(physical) = books.physical.get_mut(&token) else {
            return Ok(None);
        };
        let device = physical.device();
        let size = physical.size;
        if physical.handle.is_none() {
            let Some(&mapping) = physical.mappings.first() else {
                return Ok(None);
            };
            let mut handle = 0;
            // SAFETY: an out-pointer to a local; mapped by the books.
            unsafe { self.memory.retain(&mut handle, mapping as *mut c_void)? };
            physical.handle = Some(handle);
        }
        // Left by a settling that failed half way.
        if let (Some(window), Some(handle)) = (&mut physical.window, physical.handle)
            && window.scratch == Some(false)
        {
            // SAFETY: the ledger's own addresses, where nothing is mapped.
            unsafe { self.memory.map(window.address, size, 0, handle, 0)? };
            window.scratch = Some(true);
            self.give_access(window.address, size, device)?;
        }
        let whole = physical.mappings.iter().find(|base| {
            books.mappings.get(base).is_some_and(|mapping| {
                mapping.offset == 0 && mapping.size == size && mapping.is_readable_by(device)
            })
        });
        let window = match (physical.window, whole, physical.handle) {
            (Some(window), ..) => window,
            (None, Some(&address), _) => Window {
                address,
                scratch: None,
            },
            (None, None, Some(handle)) => {
                let address = self.map_anywhere(handle, size)?;
                physical.window = Some(Window {
                    address,
                    scratch: Some(true),
                });
                self.give_access(address, size, device)?;
                Window {
                    address,
                    scratch: Some(true),
                }
            }
            (None, None, None) => return Ok(None),
        };
        physical.window = Some(window);
        let own = books.mappings.get(&window.address).and_then(|at| at.own);
        Ok(Some(Block {
            id: token,
            device,
            context: own.map_or(std::ptr::null_mut(), |own| own.context.0),
            address: window.address,
            bytes: size as u64,
        }))
    }

    fn give_access(
        &self,
        address: CUdeviceptr,
        size: usize,
        device: CUdevice,
    ) -> Result<(), CudaError> {
        let right = access(device, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
        // SAFETY: a whole mapping; one descriptor.
        unsafe { self.memory.set_access(address, size, &right, 1) }
    }

    /// Gives the physical memory of everything that was opened back to the machine.
    /// All addresses stay reserved.
    pub(crate) fn release(&self) -> Released {
        let mut books = self.books.write();
        let mut released = Released::default();
        for token in opened(&books) {
            match self.release_one(&mut books, token) {
                Ok(bytes) => released.bytes += bytes,
                Err(error) => {
                    tracing::warn!(%error, "memory stays on the device");
                    released.resident.push((token, error));
                }
            }
        }
        released
    }

    /// Unmaps everything, then gives up the handle: until then nothing is lost.
    fn release_one(&self, books: &mut Books, token: u64) -> Result<u64, CudaError> {
        let Some(physical) = books.physical.get_mut(&token) else {
            return Ok(0);
        };
        physical.moved = true;
        for base in &physical.mappings {
            let Some(mapping) = books.mappings.get_mut(base).filter(|at| at.mapped) else {
                continue;
            };
            // SAFETY: a whole mapping; no work is under way.
            unsafe { self.memory.unmap(*base, mapping.size)? };
            mapping.mapped = false;
        }
        if let Some(window) = &mut physical.window
            && window.scratch == Some(true)
        {
            // SAFETY: the ledger's own mapping.
            unsafe { self.memory.unmap(window.address, physical.size)? };
            window.scratch = Some(false);
        }
        let Some(handle) = physical.handle else {
            return Ok(0);
        };
        // SAFETY: a reference of the ledger's.
        unsafe { self.memory.release(handle)? };
        physical.handle = None;
        Ok(physical.size as u64)
    }

    /// Makes physical memory for everything that was opened, mapped as it was; the
    /// blocks' own addresses can be written. If that fails, what was made is given
    /// back, and it can be tried again.
    pub(crate) fn restore(&self) -> Result<(), CudaError> {
        let mut books = self.books.write();
        let mut made = Vec::new();
        for token in opened(&books) {
            let was_gone = books
                .physical
                .get(&token)
                .is_some_and(|physical| physical.handle.is_none());
            if was_gone {
                made.push(token);
            }
            if let Err(error) = self.restore_one(&mut books, token) {
                for token in made {
                    if let Err(error) = self.release_one(&mut books, token) {
                        tracing::warn!(%error, "memory stays on the device");
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn restore_one(&self, books: &mut Books, token: u64) -> Result<(), CudaError> {
        let Some(physical) = books.physical.get_mut(&token) else {
            return Ok(());
        };
        let handle = match physical.handle {
            Some(handle) => handle,
            None => {
                let mut handle = 0;
                // SAFETY: an out-pointer to a local; the properties that it had.
                unsafe {
                    self.memory.create(
                        &mut handle,
                        physical.size,
                        &physical.properties.0,
                        physical.flags,
                    )?;
                }
                physical.handle = Some(handle);
                handle
            }
        };
        for base in &physical.mappings {
            let Some(mapping) = books.mappings.get_mut(base).filter(|at| !at.mapped) else {
                continue;
            };
            // SAFETY: the addresses are still reserved, and nothing is mapped there.
            unsafe {
                self.memory
                    .map(*base, mapping.size, mapping.offset, handle, 0)?;
            }
            mapping.mapped = true;
        }
        let device = physical.device();
        let Some(window) = &mut physical.window else {
            return Ok(());
        };
        if window.scratch == Some(false) {
            // SAFETY: the ledger's own addresses, where nothing is mapped.
            unsafe {
                self.memory
                    .map(window.address, physical.size, 0, handle, 0)?;
            }
            window.scratch = Some(true);
        }
        self.give_access(window.address, physical.size, device)
    }

    /// Everything is as it was before [`Ledger::open`]: access rights, and what was
    /// only needed for reaching the bytes. The first error is returned after all
    /// that can be done is done; it can be tried again.
    pub(crate) fn settle(&self) -> Result<(), CudaError> {
        let mut books = self.books.write();
        let mut first = Ok(());
        for token in opened(&books) {
            let settled = self.settle_one(&mut books, token);
            first = first.and(settled);
        }
        first
    }

    fn settle_one(&self, books: &mut Books, token: u64) -> Result<(), CudaError> {
        let Some(physical) = books.physical.get_mut(&token) else {
            return Ok(());
        };
        if physical.moved {
            for base in &physical.mappings {
                let Some(mapping) = books.mappings.get(base) else {
                    continue;
                };
                if mapping.access.is_empty() {
                    continue;
                }
                // SAFETY: a whole mapping; as many descriptors as said.
                unsafe {
                    self.memory.set_access(
                        *base,
                        mapping.size,
                        mapping.access.as_ptr(),
                        mapping.access.len(),
                    )?;
                }
            }
            physical.moved = false;
        }
        self.close_window(physical)?;
        physical.window = None;
        if physical.references == 0
            && let Some(handle) = physical.handle
        {
            // SAFETY: a reference of the ledger's; the mappings hold the memory.
            unsafe { self.memory.release(handle)? };
            physical.handle = None;
        }
        Ok(())
    }

    fn close_window(&self, physical: &mut Physical) -> Result<(), CudaError> {
        let Some(window) = &mut physical.window else {
            return Ok(());
        };
        let Some(mapped) = window.scratch else {
            return Ok(());
        };
        // SAFETY: the ledger's own addresses and mapping.
        unsafe {
            if mapped {
                self.memory.unmap(window.address, physical.size)?;
                window.scratch = Some(false);
            }
            self.memory.unreserve(window.address, physical.size)
        }
    }

    /// Says that a range need not survive a freeze, or that it must again.
    pub(crate) fn discard(
        &self,
        address: CUdeviceptr,
        bytes: u64,
        discard: bool,
    ) -> Result<(), NotMovable> {
        let refused = NotMovable { address, bytes };
        let end = address.checked_add(bytes).ok_or(refused)?;
        let mut books = self.books.write();
        let mut parts = Vec::new();
        let mut at = address;
        while at < end {
            let (base, mapping) = books.mapping_at(at).ok_or(refused)?;
            let until = end.min(base + mapping.size as u64);
            let start = at - base + mapping.offset as u64;
            let physical = books.physical.get(&mapping.token).ok_or(refused)?;
            if physical.stays.is_some() {
                return Err(refused);
            }
            parts.push((mapping.token, start..start + (until - at)));
            at = until;
        }
        for (token, part) in parts {
            if let Some(physical) = books.physical.get_mut(&token) {
                set(&mut physical.discarded, part, discard);
            }
        }
        Ok(())
    }

    /// Parts of a block that need not survive: offsets, sorted and apart.
    pub(crate) fn discarded(&self, block: u64) -> Vec<Range<u64>> {
        let books = self.books.read();
        let physical = books.physical.get(&block);
        physical.map_or_else(Vec::new, |physical| physical.discarded.clone())
    }
}

/// What can leave.
fn leaving(books: &Books) -> Vec<u64> {
    books
        .physical
        .iter()
        .filter(|(_, physical)| physical.stays.is_none())
        .map(|(token, _)| *token)
        .collect()
}

/// What was opened, if only in part, and not settled yet.
fn opened(books: &Books) -> Vec<u64> {
    let is_held = |physical: &Physical| physical.references == 0 && physical.handle.is_some();
    books
        .physical
        .iter()
        .filter(|(_, physical)| physical.window.is_some() || is_held(physical))
        .map(|(token, _)| *token)
        .collect()
}

/// Puts a range into a sorted list of ranges that are apart, or takes it out.
fn set(ranges: &mut Vec<Range<u64>>, part: Range<u64>, inside: bool) {
    if part.is_empty() {
        return;
    }
    let mut rest = Vec::with_capacity(ranges.len() + 2);
    let mut whole = part.clone();
    for range in ranges.drain(..) {
        let is_apart = range.end < part.start || range.start > part.end;
        if is_apart {
            rest.push(range);
        } else if inside {
            whole = whole.start.min(range.start)..whole.end.max(range.end);
        } else {
            rest.push(range.start..part.start.min(range.end));
            rest.push(part.end.max(range.start)..range.end);
        }
    }
    if inside {
        rest.push(whole);
    }
    rest.retain(|range| range.start < range.end);
    rest.sort_unstable_by_key(|range| range.start);
    *ranges = rest;
}
