//! What a worker thread does: reads a block, verifies it, copies it to where it
//! belongs.

use super::digests::BLOCK;
use super::queue::{Job, Queue};
use super::task::Pages;
use super::{PagesError, Totals};
use crate::config::{Strategy, cpus};
use crate::pages::{Chunk, Experience, Region, Slot, Ways};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{io, thread};
use xxhash_rust::xxh3::xxh3_128;

/// Most blocks that are under way at once.
pub(super) const MOST_WORKERS: usize = 16;

/// What all workers share.
pub(super) struct Filling {
    pub(super) queue: Queue,
    pub(super) totals: Totals,
    ways: Ways,
    cpus: usize,
    /// Time that workers spent on blocks, and how much of it on a CPU, in ns.
    spent: AtomicU64,
    worked: AtomicU64,
}

impl Filling {
    /// With as many workers at first as there are CPUs.
    ///
    /// # Errors
    /// None that occurs: no way of reading is asked for.
    pub(super) fn new() -> io::Result<Filling> {
        let cpus = cpus().clamp(1, MOST_WORKERS);
        let experience = Arc::<Experience>::default();
        Ok(Filling {
            queue: Queue::new(cpus),
            totals: Totals::default(),
            ways: Ways::new(
                Strategy::Auto,
                false,
                MOST_WORKERS,
                BLOCK as usize,
                &experience,
            )?,
            cpus,
            spent: AtomicU64::new(0),
            worked: AtomicU64::new(0),
        })
    }

    /// Starts the workers. Fewer than wanted are enough, none is not.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn start(self: &Arc<Filling>) -> io::Result<()> {
        for number in 0..MOST_WORKERS {
            let filling = self.clone();
            let name = format!("rewarm-pages-{number}");
            let started = thread::Builder::new()
                .name(name)
                .spawn(move || filling.work(number));
            match started {
                Err(error) if number == 0 => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn work(&self, number: usize) {
        let memory = match Region::reserve(BLOCK as usize) {
            Ok(memory) => memory,
            Err(error) => {
                let error = PagesError::system("memory to read into", error);
                return self.queue.fail(error);
            }
        };
        let slot = Slot {
            number: 0,
            memory: memory.base(),
            bytes: BLOCK as usize,
        };
        while let Some(job) = self.queue.next(number) {
            let begun = (Instant::now(), cpu_time());
            if let Err(error) = self.fill(&job, slot) {
                self.queue.fail(error);
            }
            if job.is_whole {
                self.queue.done();
                self.learn(begun.0.elapsed(), cpu_time().saturating_sub(begun.1));
            }
        }
    }

    fn fill(&self, job: &Job, slot: Slot) -> Result<(), PagesError> {
        let task = &job.task;
        let Some(pages) = &task.pages else {
            return Ok(());
        };
        let needed = task.needed(job.block);
        let (at, bytes) = match needed.is_empty() {
            true => (needed.start, &[][..]),
            false => self.read(pages, job.block, needed, slot)?,
        };
        if let Some(address) = job.fault {
            task.fill_page(address, at, bytes)?;
        }
        match job.is_whole {
            true => task.fill(job.block, at, bytes, &self.totals),
            false => Ok(()),
        }
    }

    /// Reads what is needed of a block, or all of it where it can be verified.
    /// Returns where in the file the bytes are, too.
    fn read<'a>(
        &self,
        pages: &Pages,
        block: u64,
        needed: Range<u64>,
        slot: Slot,
    ) -> Result<(u64, &'a [u8]), PagesError> {
        let file = &pages.file;
        let whole = block * BLOCK..((block + 1) * BLOCK).min(file.bytes());
        let range = if pages.digests.is_some() {
            whole
        } else {
            needed
        };
        let chunk = Chunk {
            range: 0,
            offset: range.start,
            bytes: (range.end - range.start) as usize,
        };
        let before = self.ways.read(file, &chunk, 0..file.bytes(), slot)?;
        // SAFETY: the chunk is in this worker's slot, which nobody writes to before
        // the worker reads the next block.
        let bytes =
            unsafe { std::slice::from_raw_parts(slot.memory.wrapping_add(before), chunk.bytes) };
        let known = pages.digests.as_ref().map(|known| known[block as usize]);
        if known.is_some_and(|known| known != xxh3_128(bytes)) {
            return Err(PagesError::Damaged {
                path: file.path().to_owned(),
                what: format!(
                    "{} bytes from offset {} on are not what was written",
                    chunk.bytes, range.start
                ),
            });
        }
        Ok((range.start, bytes))
    }

    /// Where workers wait for storage most of the time, more of them read; where
    /// they do not, more would only take CPUs from the restored processes.
    fn learn(&self, spent: Duration, worked: Duration) {
        let spent = add(&self.spent, spent);
        let worked = add(&self.worked, worked).max(1);
        let workers = (self.cpus as u64).saturating_mul(spent) / worked;
        let workers = workers.clamp(self.cpus as u64, MOST_WORKERS as u64);
        self.queue.allow(workers as usize);
    }
}

/// Returns the sum, in ns.
fn add(sum: &AtomicU64, time: Duration) -> u64 {
    let time = time.as_nanos() as u64;
    sum.fetch_add(time, Relaxed) + time
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one structure.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
