//! The books behind a lock, and a way to know without it that nothing has changed.

use super::books::Books;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the books are kept.
#[derive(Default)]
pub(super) struct Shelf {
    books: RwLock<Books>,
    /// Goes up with each change.
    edition: AtomicU64,
}

impl Shelf {
    /// The books, to read.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Books> {
        self.books.read()
    }

    /// The books, to change.
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Books> {
        let books = self.books.write();
        self.edition.fetch_add(1, Ordering::AcqRel);
        books
    }

    /// What was read under the lock holds as long as this stays what it was then.
    #[inline(always)]
    pub(super) fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }
}
