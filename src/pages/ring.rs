//! Reading past the page cache through io_uring.
//!
//! Each worker has a ring of its own, made when it meets the first cold chunk and
//! gone when the reading ends: a process that is checkpointed must not hold one.
//! All of the worker's slots are in flight at once.

use super::Chunk;
use super::Strategy;
use super::strategy::Choice;
use super::ways::{arrived, complete};
use super::work::{Reading, Slot, Worker, read_one};
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::HashMap;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

/// Whether this process may use io_uring at all: containers often forbid it.
pub(super) fn try_one() -> io::Result<()> {
    IoUring::new(1).map(drop)
}

/// Files that a ring knows by number; more are named by descriptor.
const MOST_FILES: u32 = 64;

/// A ring, with what was registered with it. Both only save time.
struct Ring {
    ring: IoUring,
    /// Whether slots are known by number.
    buffers: bool,
    files: Files,
}

/// The files that a ring knows by number, as they are first read: opening all of
/// them for O_DIRECT before it is known that they are read so would be too much.
struct Files {
    numbers: HashMap<i32, u32>,
    /// Numbers that may still be given.
    free: Range<u32>,
}

impl Files {
    fn new(ring: &IoUring) -> Files {
        let many = ring.submitter().register_files_sparse(MOST_FILES).is_ok();
        Files {
            numbers: HashMap::new(),
            free: 0..if many { MOST_FILES } else { 0 },
        }
    }

    /// The number of an open file, if it can have one.
    fn number(&mut self, ring: &IoUring, descriptor: i32) -> Option<u32> {
        if let Some(number) = self.numbers.get(&descriptor) {
            return Some(*number);
        }
        let number = self.free.next()?;
        let submitter = ring.submitter();
        let updated = submitter.register_files_update(number, &[descriptor]);
        updated.ok()?;
        self.numbers.insert(descriptor, number);
        Some(number)
    }
}

/// A chunk that is being read.
struct Reads {
    chunk: Chunk,
    choice: Choice,
    slot: Slot,
    /// Bytes in front of the chunk that alignment asks for.
    before: usize,
}

impl Ring {
    fn new(slots: &[Slot]) -> io::Result<Ring> {
        let ring = IoUring::new(slots.len().next_power_of_two() as u32)?;
        let memory: Vec<_> = slots
            .iter()
            .map(|slot| libc::iovec {
                iov_base: slot.memory.cast(),
                iov_len: slot.bytes,
            })
            .collect();
        // A limit on locked memory may forbid it.
        // SAFETY: the slots stay where they are longer than the ring lives.
        let buffers = unsafe { ring.submitter().register_buffers(&memory) }.is_ok();
        Ok(Ring {
            files: Files::new(&ring),
            ring,
            buffers,
        })
    }

    /// Queues a read. The queue has room for every slot.
    fn push(&mut self, reading: &Reading, reads: &Reads) -> io::Result<()> {
        let direct = reading.file_of(&reads.chunk).direct();
        let direct = direct.ok_or(io::ErrorKind::Unsupported)?;
        let offset = reads.chunk.offset - reads.before as u64;
        let bytes = (reads.chunk.end().next_multiple_of(direct.alignment) - offset) as u32;
        let descriptor = direct.file.as_raw_fd();
        let known = self.files.number(&self.ring, descriptor);
        let file = types::Fd(known.map_or(descriptor, |number| number as i32));
        let (slot, memory) = (reads.slot.number, reads.slot.memory);
        let entry = if self.buffers {
            opcode::ReadFixed::new(file, memory, bytes, slot as u16)
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(file, memory, bytes)
                .offset(offset)
                .build()
        };
        let flags = match known {
            Some(_) => squeue::Flags::FIXED_FILE,
            None => squeue::Flags::empty(),
        };
        let entry = entry.flags(flags).user_data(slot as u64);
        // SAFETY: nobody touches the slot until the read's completion.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock.into())
    }
}

/// Reads chunks through a ring for as long as that is the way chosen, beginning
/// with `first`. Returns the chunk that is to be read in another way.
pub(super) fn run<W: Worker>(
    reading: &Reading,
    worker: &mut W,
    first: (Chunk, Choice),
) -> Option<(Chunk, Choice)> {
    let slots = match worker.slots() {
        Ok(slots) => slots,
        Err(error) => {
            worker.failed(None, error);
            return None;
        }
    };
    let ring = match Ring::new(&slots) {
        Ok(ring) => ring,
        Err(error) => {
            tracing::warn!(%error, "no ring; reading without");
            return Some((first.0, first.1.with(Strategy::Direct)));
        }
    };
    let mut session = Session {
        reading,
        worker,
        ring,
        under_way: slots.iter().map(|_| None).collect(),
        waited: Duration::ZERO,
    };
    session.run(first)
}

/// The reads of one worker while its ring lives.
struct Session<'a, W: Worker> {
    reading: &'a Reading,
    worker: &'a mut W,
    ring: Ring,
    /// By slot.
    under_way: Vec<Option<Reads>>,
    /// For how long nothing arrived, since the last that did.
    waited: Duration,
}

impl<W: Worker> Session<'_, W> {
    fn run(&mut self, first: (Chunk, Choice)) -> Option<(Chunk, Choice)> {
        let mut next = Some(first);
        loop {
            while self.count() < self.under_way.len() {
                match next.take() {
                    Some((chunk, choice)) if choice.strategy == Strategy::Uring => {
                        self.begin(chunk, choice);
                    }
                    // What is in the page cache is read in between.
                    Some((chunk, choice)) if !choice.cold => {
                        read_one(self.reading, self.worker, &chunk, choice);
                    }
                    other => {
                        next = other;
                        break;
                    }
                }
                next = self.reading.claim();
            }
            if self.count() == 0 {
                return next;
            }
            self.wait();
        }
    }

    /// Reads under way.
    fn count(&self) -> usize {
        self.under_way.iter().flatten().count()
    }

    fn begin(&mut self, chunk: Chunk, choice: Choice) {
        let slot = match self.worker.slot() {
            Ok(slot) => slot,
            Err(error) => return self.worker.failed(None, error),
        };
        let alignment = self.reading.file_of(&chunk).direct();
        let alignment = alignment.map_or(1, |direct| direct.alignment);
        let reads = Reads {
            before: (chunk.offset % alignment) as usize,
            chunk,
            choice,
            slot,
        };
        match self.ring.push(self.reading, &reads) {
            Ok(()) => self.under_way[slot.number] = Some(reads),
            Err(error) => self.finish(reads, Err(error)),
        }
    }

    /// Waits for at least one read.
    fn wait(&mut self) {
        let begun = Instant::now();
        let submitted = self.ring.ring.submit_and_wait(1);
        self.waited += begun.elapsed();
        if let Err(error) = submitted {
            let unsent = self.ring.ring.submission().len();
            if error.kind() != io::ErrorKind::Interrupted && unsent == self.count() {
                // The system has none of them, so none will complete.
                for slot in 0..self.under_way.len() {
                    self.settle(slot, Err(io::Error::from_raw_os_error(libc::EAGAIN)));
                }
                return;
            }
            // Those that it has will complete without being waited for.
            thread::sleep(Duration::from_millis(1));
        }
        let done: Vec<_> = self
            .ring
            .ring
            .completion()
            .map(|entry| (entry.user_data() as usize, entry.result()))
            .collect();
        for (slot, result) in done {
            let read = usize::try_from(result);
            self.settle(
                slot,
                read.map_err(|_| io::Error::from_raw_os_error(-result)),
            );
        }
    }

    fn settle(&mut self, slot: usize, read: io::Result<usize>) {
        if let Some(reads) = self.under_way.get_mut(slot).and_then(Option::take) {
            self.finish(reads, read);
        }
    }

    fn finish(&mut self, reads: Reads, read: io::Result<usize>) {
        let Reads {
            chunk,
            choice,
            slot,
            before,
        } = reads;
        let file = self.reading.file_of(&chunk);
        let complete = arrived(file, &chunk, read)
            .and_then(|got| complete(file, &chunk, slot, before, got.saturating_sub(before)));
        match complete {
            Ok(before) => {
                let waited = mem::take(&mut self.waited);
                self.reading.account(choice, chunk.bytes as u64, waited);
                self.worker.filled(slot, before, &chunk);
            }
            Err(error) => self.worker.failed(Some(slot), error.into()),
        }
    }
}
