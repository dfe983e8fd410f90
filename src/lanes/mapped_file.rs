//! A source in memory whose bytes can be had from a file.
//!
//! A lane that copies from a mapping takes a fault every few pages; one that reads
//! the file does not, and is as fast as from ordinary memory. So chunks whose
//! pages are the file's are read from the file.

use crate::config::{LanePlan, Strategy};
use crate::pages::{Backing, Chunk, Experience, FileRange, Mappings, PageError, Slot, Ways};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Finds the files behind sources.
///
/// Descriptors stay open from one copy to the next, and are given back once there
/// have been no copies for a while ([`SourceFiles::close`]): none may pin a deleted
/// file for long, or be in the way of a checkpoint.
pub(super) struct SourceFiles {
    wanted: bool,
    strategy: Strategy,
    lanes: usize,
    chunk_bytes: usize,
    mappings: Mappings,
    experience: Arc<Experience>,
    open: AtomicBool,
}

impl SourceFiles {
    pub(super) fn new(plan: &LanePlan) -> SourceFiles {
        SourceFiles {
            wanted: plan.read_files,
            strategy: plan.read_strategy,
            lanes: plan.lanes,
            chunk_bytes: plan.chunk_bytes,
            mappings: Mappings::new(),
            experience: Arc::default(),
            open: AtomicBool::new(false),
        }
    }

    /// The file behind a source in memory, if reading it gives the same bytes.
    pub(super) fn find(&self, memory: Range<usize>) -> Option<MappedFile> {
        if !self.wanted {
            return None;
        }
        self.open.store(true, Ordering::Relaxed);
        let backing = self.mappings.file_behind(memory.clone()).ok()?;
        // What is read stays cached, as it would if the memory were read.
        let ways = Ways::new(
            self.strategy,
            true,
            self.lanes,
            self.chunk_bytes,
            &self.experience,
        )
        .inspect_err(|error| tracing::warn!(%error, "files are not read"))
        .ok()?;
        Some(MappedFile {
            backing,
            memory,
            ways,
            bytes: AtomicU64::new(0),
        })
    }

    /// What reading files was like so far.
    pub(super) fn experience(&self) -> &Arc<Experience> {
        &self.experience
    }

    /// Whether descriptors may be open.
    pub(super) fn are_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Gives all descriptors back.
    pub(super) fn close(&self) {
        if self.open.swap(false, Ordering::Relaxed) {
            self.mappings.close();
        }
    }
}

/// The file behind the source of a copy.
pub(super) struct MappedFile {
    backing: Backing,
    /// The source in memory.
    memory: Range<usize>,
    ways: Ways,
    /// Bytes read from the file.
    bytes: AtomicU64,
}

impl MappedFile {
    /// Bytes read from the file so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Reads a chunk of the source into a slot; returns where in the slot it
    /// lies, or `None` if it has to come from memory.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn read(
        &self,
        chunk: &Range<usize>,
        slot: Slot,
    ) -> Result<Option<usize>, PageError> {
        let Some(range) = self.part(chunk) else {
            return Ok(None);
        };
        let part = Chunk {
            range: 0,
            offset: range.offset,
            bytes: chunk.len(),
        };
        let all = range.offset.saturating_sub(chunk.start as u64)
            ..range.offset + (self.memory.len() - chunk.start) as u64;
        let before = self.ways.read(&range.file, &part, all, slot)?;
        self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Ok(Some(before))
    }

    /// Reads a chunk of the source, through the page cache, to just where it
    /// belongs; `false` if it has to come from memory.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn read_to(&self, chunk: &Range<usize>, to: &mut [u8]) -> Result<bool, PageError> {
        let Some(range) = self.part(chunk) else {
            return Ok(false);
        };
        range.file.read_exact_at(to, range.offset)?;
        self.bytes.fetch_add(to.len() as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// Where a chunk of the source lies in the file, if it is the file's.
    fn part(&self, chunk: &Range<usize>) -> Option<FileRange> {
        let start = self.memory.start;
        self.backing
            .part(start + chunk.start..start + chunk.end)
            .ok()
    }
}
