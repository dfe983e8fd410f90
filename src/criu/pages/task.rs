//! A process whose pages are filled.

use super::digests::BLOCK;
use super::layout::Layout;
use super::uffd::{Filled, Message, Uffd};
use super::{PagesError, Totals};
use crate::criu::images::{Extent, PAGE};
use crate::pages::PageFile;
use parking_lot::{Mutex, RwLock};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that are copied by one system call: who has to read an event of the
/// address space waits for it.
const PIECE: u64 = 256 << 10;

/// How long it takes to be told of a change of the address space, at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a change of the address space takes, at most: a fork copies the page
/// tables of all memory. Kernels up to 6.12 say for ever that one is under way when an
/// mremap(2) failed at a bad moment.
const LONGEST_CHANGE: Duration = Duration::from_secs(60);

/// How long one waits for that at a time.
const PAUSE: Duration = Duration::from_micros(50);

/// A file of pages, with what its blocks must be.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) file: Arc<PageFile>,
    /// One for each block; none if nothing is known.
    pub(super) digests: Option<Vec<u128>>,
}

/// What has become of a block.
const NOTHING: u8 = 0;
const PENDING: u8 = 1;
const CLAIMED: u8 = 2;
const DONE: u8 = 3;

/// One process, with the pages that it waits for.
#[derive(Debug)]
pub(super) struct Task {
    /// As the images have it.
    pub(super) pid: i32,
    pub(super) pages: Option<Arc<Pages>>,
    uffd: Uffd,
    /// Written while events are read: between an event and what it says of the
    /// address space nothing may be copied.
    layout: RwLock<Layout>,
    blocks: Vec<AtomicU8>,
    /// Faults in blocks that are being filled.
    late: Mutex<Vec<u64>>,
    /// Whether it was restored, and not forked since.
    is_restored: bool,
    /// Where its children find zeros (`MADV_WIPEONFORK`).
    wiped: Arc<[Range<u64>]>,
    has_ended: AtomicBool,
}

/// Where the page of a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a block that nobody has begun with.
    Pending(u64),
    /// In one that is being filled.
    Claimed,
    /// It is zero: the file does not have it, or the process gave it back.
    Zero,
}

/// Since when a page cannot be copied.
#[derive(Default)]
struct Waits {
    /// As nothing is mapped there.
    missing: Option<Instant>,
    /// As the address space is changing.
    changing: Option<Instant>,
}

impl Task {
    pub(super) fn new(
        pid: i32,
        uffd: Uffd,
        lazy: &[Extent],
        pages: Option<Arc<Pages>>,
        wiped: Vec<Range<u64>>,
    ) -> Task {
        let bytes = pages.as_ref().map_or(0, |pages| pages.file.bytes());
        let blocks: Vec<_> = (0..bytes.div_ceil(BLOCK))
            .map(|_| AtomicU8::new(NOTHING))
            .collect();
        for extent in lazy {
            for block in extent.offset / BLOCK..(extent.offset + extent.bytes).div_ceil(BLOCK) {
                blocks[block as usize].store(PENDING, Relaxed);
            }
        }
        Task {
            pid,
            pages,
            uffd,
            layout: RwLock::new(Layout::new(lazy)),
            blocks,
            late: Mutex::default(),
            is_restored: true,
            wiped: wiped.into(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// The child of a fork, as its parent is at this moment.
    fn forked(&self, uffd: Uffd, layout: &Layout) -> Task {
        let of_child = |state: &AtomicU8| match state.load(Relaxed) {
            CLAIMED => PENDING,
            state => state,
        };
        let mut layout = layout.clone();
        for range in self.wiped.iter() {
            layout.take(range.clone());
        }
        Task {
            pid: self.pid,
            pages: self.pages.clone(),
            uffd,
            layout: RwLock::new(layout),
            blocks: self
                .blocks
                .iter()
                .map(of_child)
                .map(AtomicU8::new)
                .collect(),
            late: Mutex::default(),
            is_restored: false,
            wiped: self.wiped.clone(),
            has_ended: AtomicBool::new(false),
        }
    }

    pub(super) fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Blocks that are not done.
    pub(super) fn open_blocks(&self) -> u64 {
        let is_open = |state: &&AtomicU8| matches!(state.load(Relaxed), PENDING | CLAIMED);
        self.blocks.iter().filter(is_open).count() as u64
    }

    /// Forgets all of a child that has ended; tells how many blocks that nobody had
    /// begun with are done by this.
    pub(super) fn abandon(&self) -> u64 {
        self.end();
        *self.layout.write() = Layout::default();
        let (pending, done) = (PENDING, DONE);
        let is_open = |state: &&AtomicU8| {
            let changed = state.compare_exchange(pending, done, Relaxed, Relaxed);
            changed.is_ok()
        };
        self.blocks.iter().filter(is_open).count() as u64
    }

    /// Whether it was forked, and has ended.
    pub(super) fn is_over(&self) -> bool {
        !self.is_restored && self.uffd.has_ended()
    }

    /// Takes a block that nobody has begun with.
    pub(super) fn claim(&self, block: u64) -> bool {
        let state = &self.blocks[block as usize];
        state
            .compare_exchange(PENDING, CLAIMED, Relaxed, Relaxed)
            .is_ok()
    }

    /// Reads what the process says, and follows what it does with its address
    /// space. Faults are returned, and forked children handed to `fork` before
    /// anything more is copied.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn read_events(&self, mut fork: impl FnMut(Task)) -> io::Result<Vec<u64>> {
        let mut faults = Vec::new();
        let mut layout = self.layout.write();
        for message in self.uffd.read()? {
            match message {
                Message::Fault(address) => faults.push(address / PAGE * PAGE),
                Message::Fork(child) => fork(self.forked(Uffd::new(child)?, &layout)),
                Message::Remap { from, to, bytes } => layout.remap(from, to, bytes),
                Message::Gone { begin, end } => drop(layout.take(begin..end)),
            }
        }
        Ok(faults)
    }

    /// Where the page at an address is.
    pub(super) fn place(&self, address: u64) -> Place {
        let Some(offset) = self.layout.read().offset_of(address) else {
            return Place::Zero;
        };
        let block = offset / BLOCK;
        match self.blocks[block as usize].load(Relaxed) {
            PENDING => Place::Pending(block),
            CLAIMED => {
                self.late.lock().push(address);
                // Who fills it may have looked before.
                if self.blocks[block as usize].load(Relaxed) == DONE {
                    self.wake_late();
                }
                Place::Claimed
            }
            // All that is in the layout was filled: the page was given back since.
            _ => Place::Zero,
        }
    }

    /// Makes a page zero, and wakes who waits for it. It faults again if that was
    /// not possible now.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn zero(&self, address: u64) -> Result<bool, PagesError> {
        let filled = self.uffd.zero(address, PAGE);
        let filled = filled.map_err(|error| self.refused(address, error))?;
        if let Filled::Bytes(_) = filled {
            return Ok(true);
        }
        self.uffd.wake(address, PAGE);
        Ok(false)
    }

    /// The part of the file that a block's pages are in; empty if none is left.
    pub(super) fn needed(&self, block: u64) -> Range<u64> {
        let range = block * BLOCK..(block + 1) * BLOCK;
        if self.has_ended.load(Relaxed) {
            return range.start..range.start;
        }
        let layout = self.layout.read();
        let mut needed = range.start..range.start;
        if let Some(first) = layout.first_in(range.clone()) {
            needed = first.offset..first.offset + first.bytes;
            while let Some(next) = layout.first_in(needed.end..range.end) {
                needed.end = next.offset + next.bytes;
            }
        }
        needed
    }

    /// Copies one page, given the bytes of its file from `at` on: for a fault.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn fill_page(&self, address: u64, at: u64, bytes: &[u8]) -> Result<(), PagesError> {
        let layout = self.layout.read();
        let Some(offset) = layout.offset_of(address) else {
            self.uffd.wake(address, PAGE);
            return Ok(());
        };
        let begin = offset.checked_sub(at).map(|begin| begin as usize);
        let page = begin.and_then(|begin| bytes.get(begin..begin + PAGE as usize));
        let filled = page.map_or(Ok(Filled::Changing), |page| self.uffd.copy(address, page));
        match filled.map_err(|error| self.refused(address, error))? {
            // It is counted with its block.
            Filled::Bytes(_) => {}
            Filled::Ended => self.end(),
            _ => self.uffd.wake(address, PAGE),
        }
        Ok(())
    }

    /// Copies all pages of a block, given the bytes of its file from `at` on, and
    /// calls it done.
    ///
    /// # Errors
    /// The system's; or memory that is not as the images say.
    pub(super) fn fill(
        &self,
        block: u64,
        at: u64,
        bytes: &[u8],
        totals: &Totals,
    ) -> Result<(), PagesError> {
        let mut next = block * BLOCK;
        let mut most = PIECE;
        let mut waits = Waits::default();
        loop {
            let layout = self.layout.read();
            let extent = layout.first_in(next..(block + 1) * BLOCK);
            let Some(extent) = extent.filter(|_| !self.has_ended.load(Relaxed)) else {
                self.blocks[block as usize].store(DONE, Relaxed);
                break;
            };
            let length = extent.bytes.min(most);
            let begin = (extent.offset - at) as usize;
            let piece = &bytes[begin..begin + length as usize];
            let filled = self.copy(extent.address, piece);
            match filled.map_err(|error| self.refused(extent.address, error))? {
                Filled::Bytes(bytes) => {
                    totals.add_copied(bytes);
                    next = extent.offset + bytes;
                    (most, waits) = (PIECE, Waits::default());
                    continue;
                }
                Filled::Present => {
                    totals.add_copied(PAGE);
                    next = extent.offset + PAGE;
                    continue;
                }
                Filled::Ended => {
                    self.end();
                    continue;
                }
                Filled::NotOneMapping if length > PAGE => {
                    most = length / 2 / PAGE * PAGE;
                    continue;
                }
                // A child does not inherit every mapping.
                Filled::NotOneMapping if !self.is_restored => {
                    next = extent.offset + PAGE;
                    continue;
                }
                Filled::NotOneMapping => self.insist(extent.address, &mut waits)?,
                Filled::Changing => self.bear(extent.address, &mut waits)?,
            }
            // Somebody has to read what the process says, and cannot meanwhile.
            drop(layout);
            thread::sleep(PAUSE);
        }
        self.wake_late();
        Ok(())
    }

    /// Copies bytes, with the layout held. What this says of the mapping is so: where
    /// one that moves or goes at this very moment was not found, it says at the second
    /// time that the address space is changing, as nobody has read of it yet.
    fn copy(&self, address: u64, piece: &[u8]) -> io::Result<Filled> {
        match self.uffd.copy(address, piece)? {
            Filled::NotOneMapping => self.uffd.copy(address, piece),
            filled => Ok(filled),
        }
    }

    /// Nothing is mapped where a page belongs.
    fn insist(&self, address: u64, waits: &mut Waits) -> Result<(), PagesError> {
        waits.changing = None;
        if waits.missing.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            return Ok(());
        }
        Err(PagesError::Failed(format!(
            "process {} has nothing at {address:#x}, where its images have a page",
            self.pid
        )))
    }

    /// The address space is changing.
    fn bear(&self, address: u64, waits: &mut Waits) -> Result<(), PagesError> {
        waits.missing = None;
        if waits.changing.get_or_insert_with(Instant::now).elapsed() < LONGEST_CHANGE {
            return Ok(());
        }
        Err(PagesError::Failed(format!(
            "process {} has been changing its address space for {} s, and the page at \
             {address:#x} cannot be brought; restore it without lazy pages",
            self.pid,
            LONGEST_CHANGE.as_secs()
        )))
    }

    /// Has who waits for a page look again.
    pub(super) fn wake(&self, address: u64) {
        self.uffd.wake(address, PAGE);
    }

    fn wake_late(&self) {
        for address in self.late.lock().drain(..) {
            self.uffd.wake(address, PAGE);
        }
    }

    /// It has no memory any more: it exited, or executes another program.
    fn end(&self) {
        self.has_ended.store(true, Relaxed);
    }

    fn refused(&self, address: u64, error: io::Error) -> PagesError {
        let what = format!("process {}, memory at {address:#x}", self.pid);
        PagesError::system(what, error)
    }
}
