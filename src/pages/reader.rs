//! Reading into memory of our own, for a callback.

use super::work::{GRAIN, Manner};
use super::{Chunk, FileRange, PageError, Reading, Reason, Region, Slot, Strategy, Worker, work};
use crate::config::LanePlan;
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Less than this is read on the caller's thread alone.
const WORTH_THREADS: u64 = 4 << 20;

/// How [`read`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// How each chunk is read.
    pub strategy: Strategy,
    /// Most threads, the caller's included; never more than the CPUs that the
    /// process may use is the caller's business.
    pub threads: usize,
    /// Largest piece, in bytes.
    pub chunk_bytes: usize,
    /// Most memory, in pieces of `chunk_bytes`; at least one for each thread.
    pub slots: usize,
    /// Most bytes a second.
    pub bytes_per_second: Option<u64>,
    /// Whether what is read shall be in the page cache afterwards: then `Auto`
    /// does not read past it.
    pub keep_cached: bool,
}

impl ReadOptions {
    /// As many threads and as much memory as the lanes would have.
    pub fn new(plan: &LanePlan) -> ReadOptions {
        ReadOptions {
            strategy: Strategy::Auto,
            threads: plan.lanes,
            chunk_bytes: plan.chunk_bytes,
            slots: plan.lanes * plan.slots_per_lane,
            bytes_per_second: None,
            keep_cached: false,
        }
    }
}

/// Some bytes of a range.
#[derive(Debug)]
pub struct Piece<'a> {
    /// Which of the ranges, by number.
    pub range: usize,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What a reading did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadReport {
    /// Bytes in all.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes read by each strategy that read any.
    pub strategies: Vec<(Strategy, u64)>,
}

/// Reads all ranges, and hands their bytes to `take`, in pieces of at most
/// [`ReadOptions::chunk_bytes`], in any order and from several threads at once.
///
/// # Errors
/// The first that occurred: a range beyond its file's end, a file that became
/// shorter, what the system says, or io_uring asked for where it is forbidden.
/// Some pieces may have been handed out by then.
pub fn read(
    ranges: &[FileRange],
    options: &ReadOptions,
    take: &(dyn Fn(Piece<'_>) + Sync),
) -> Result<ReadReport, PageError> {
    let begun = Instant::now();
    let bytes = ranges.iter().map(|range| range.bytes).sum();
    let chunk_bytes = options.chunk_bytes.max(GRAIN) / GRAIN * GRAIN;
    let threads = match bytes {
        ..WORTH_THREADS => 1,
        _ => options.threads.max(1),
    };
    let manner = Manner {
        strategy: options.strategy,
        keep_cached: options.keep_cached,
        chunk_bytes,
        workers: threads,
        bytes_per_second: options.bytes_per_second,
    };
    let reading = Reading::new(ranges.to_vec(), &manner, &Arc::default())?;
    let threads = threads.min(reading.chunks()).max(1);
    let slots = (options.slots / threads).max(1);
    let failure = Mutex::new(None);
    let go = || match Reader::new(slots, chunk_bytes, &reading, take, &failure) {
        Ok(mut reader) => work(&reading, &mut reader, usize::MAX),
        Err(error) => {
            reading.stop();
            failure.lock().get_or_insert(error);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // With fewer threads it takes longer.
            let _ = thread::Builder::new()
                .name("rewarm-reader".into())
                .spawn_scoped(scope, go);
        }
        go();
    });
    match failure.into_inner() {
        Some(error) => Err(error),
        None => Ok(ReadReport {
            bytes,
            seconds: begun.elapsed().as_secs_f64(),
            strategies: reading.read_by(),
        }),
    }
}

/// One thread of a reading, with its slots.
struct Reader<'a> {
    memory: Region,
    slot_bytes: usize,
    /// Slots that are not being read into.
    free: Vec<usize>,
    slots: usize,
    reading: &'a Reading,
    take: &'a (dyn Fn(Piece<'_>) + Sync),
    failure: &'a Mutex<Option<PageError>>,
}

impl<'a> Reader<'a> {
    fn new(
        slots: usize,
        slot_bytes: usize,
        reading: &'a Reading,
        take: &'a (dyn Fn(Piece<'_>) + Sync),
        failure: &'a Mutex<Option<PageError>>,
    ) -> Result<Reader<'a>, PageError> {
        let memory = Region::reserve(slots * slot_bytes)
            .map_err(|error| PageError::new("memory to read into", Reason::Io(error)))?;
        Ok(Reader {
            memory,
            slot_bytes,
            free: (0..slots).rev().collect(),
            slots,
            reading,
            take,
            failure,
        })
    }

    fn at(&self, number: usize) -> Slot {
        Slot {
            number,
            memory: self.memory.base().wrapping_add(number * self.slot_bytes),
            bytes: self.slot_bytes,
        }
    }
}

impl Worker for Reader<'_> {
    type Error = PageError;

    fn slots(&mut self) -> Result<Vec<Slot>, PageError> {
        Ok((0..self.slots).map(|number| self.at(number)).collect())
    }

    fn slot(&mut self) -> Result<Slot, PageError> {
        let number = self
            .free
            .pop()
            .expect("a strategy takes no more slots than there are");
        Ok(self.at(number))
    }

    fn filled(&mut self, slot: Slot, before: usize, chunk: &Chunk) {
        // SAFETY: the strategy filled this part of the slot.
        let bytes =
            unsafe { std::slice::from_raw_parts(slot.memory.wrapping_add(before), chunk.bytes) };
        (self.take)(Piece {
            range: chunk.range,
            offset: chunk.offset,
            bytes,
        });
        self.free.push(slot.number);
    }

    fn failed(&mut self, slot: Option<Slot>, error: PageError) {
        self.free.extend(slot.map(|slot| slot.number));
        self.reading.stop();
        self.failure.lock().get_or_insert(error);
    }
}
