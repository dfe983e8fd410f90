//! What applications are told of the ledger's allocations.
//!
//! Measured on an H200: of all attributes only these differ between an allocation
//! of the driver's and one of the same size from reserved addresses: the context
//! (none), the size (rounded up), and whether there is a legacy handle. The last is
//! left as it is: there is none, and who asks can still choose another way. Setting
//! `SYNC_MEMOPS` is refused for mapped memory, which already has it.

use super::Ledger;
use rewarm::driver::sys::*;
use std::cell::Cell;

/// An allocation of the ledger's, and where in it an address lies.
#[derive(Clone, Copy)]
pub(crate) struct OwnMemory {
    pub(crate) base: CUdeviceptr,
    /// Bytes that the application asked for.
    pub(crate) bytes: usize,
    /// Whether the address is one of these.
    pub(crate) is_inside: bool,
    context: CUcontext,
    sync_memops: Option<bool>,
}

/// A value in the place of the driver's.
pub(crate) enum Answer {
    Context(CUcontext),
    Bytes(usize),
    Flag(bool),
}

/// Addresses of an allocation that this thread asked about last: usually the next
/// question is about it too.
#[derive(Clone, Copy)]
struct Last {
    edition: u64,
    base: CUdeviceptr,
    bytes: usize,
}

thread_local! {
    static LAST: Cell<Last> = const {
        Cell::new(Last {
            edition: 0,
            base: 0,
            bytes: 0,
        })
    };
}

/// Whether the driver's answer to a question about memory of the ledger's is right.
#[inline(always)]
pub(crate) fn is_answered_by_driver(attribute: c_int) -> bool {
    !matches!(
        attribute,
        CU_POINTER_ATTRIBUTE_CONTEXT
            | CU_POINTER_ATTRIBUTE_RANGE_SIZE
            | CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
    )
}

impl OwnMemory {
    /// What is to be said instead of the driver's answer, if anything.
    pub(crate) fn answer(&self, attribute: c_int) -> Option<Answer> {
        match attribute {
            CU_POINTER_ATTRIBUTE_CONTEXT => Some(Answer::Context(self.context)),
            CU_POINTER_ATTRIBUTE_RANGE_SIZE => Some(Answer::Bytes(self.bytes)),
            CU_POINTER_ATTRIBUTE_SYNC_MEMOPS => self.sync_memops.map(Answer::Flag),
            _ => None,
        }
    }
}

impl Answer {
    /// Writes it where the application wants it.
    ///
    /// # Safety
    /// `place` may be written, as wide as the attribute is.
    pub(crate) unsafe fn put(&self, place: *mut c_void) {
        // SAFETY: the caller's promise.
        unsafe {
            match *self {
                Answer::Context(context) => place.cast::<CUcontext>().write(context),
                Answer::Bytes(bytes) => place.cast::<usize>().write(bytes),
                // The first byte of however many the driver has just written.
                Answer::Flag(flag) => place.cast::<u8>().write(flag.into()),
            }
        }
    }
}

impl Ledger {
    /// Whether an address is known to be one that the application asked for, without
    /// a look into the books.
    #[inline(always)]
    pub(crate) fn is_inside_last(&self, address: CUdeviceptr) -> bool {
        let last = LAST.get();
        last.edition == self.books.edition() && address.wrapping_sub(last.base) < last.bytes as u64
    }

    /// The allocation of the ledger's that an address lies in.
    #[inline]
    pub(crate) fn own_memory(&self, address: CUdeviceptr) -> Option<OwnMemory> {
        if !self.may_know(address) {
            return None;
        }
        let books = self.books.read();
        let (base, mapping) = books.mapping_at(address)?;
        let own = mapping.own?;
        LAST.set(Last {
            edition: self.books.edition(),
            base,
            bytes: own.bytes,
        });
        Some(OwnMemory {
            base,
            bytes: own.bytes,
            is_inside: address - base < own.bytes as u64,
            context: own.context.0,
            sync_memops: own.sync_memops,
        })
    }

    /// The application sets `SYNC_MEMOPS` of the ledger's allocation at `base`.
    pub(crate) fn set_sync_memops(&self, base: CUdeviceptr, value: bool) {
        if let Some(own) = self
            .books
            .write()
            .mappings
            .get_mut(&base)
            .and_then(|mapping| mapping.own.as_mut())
        {
            own.sync_memops = Some(value);
        }
    }
}
