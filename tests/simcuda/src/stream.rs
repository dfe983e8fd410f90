//! Streams: queues of work that threads of the driver run late and at random moments.

use crate::capture::Capture;
use crate::codes::Answer;
use crate::context::Context;
use crate::ffi::Handle;
use crate::thread;
use crate::work::Work;
use crate::world::World;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// `CU_STREAM_NON_BLOCKING`.
pub const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_LEGACY`.
pub const LEGACY: Handle = 1;
/// `CU_STREAM_PER_THREAD`.
pub const PER_THREAD: Handle = 2;

/// What handle 0 means to the spelling that was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultStream {
    /// The plain spellings.
    Legacy,
    /// `_ptds` and `_ptsz`.
    PerThread,
}

/// A point in the work of a stream.
#[derive(Clone)]
pub struct Marker {
    stream: Arc<Stream>,
    number: u64,
}

impl Marker {
    /// Whether the stream has passed it.
    pub fn is_done(&self) -> bool {
        self.stream.done.load(Ordering::Acquire) >= self.number
    }

    /// Waits until the stream has passed it.
    pub fn wait(&self) {
        if self.is_done() {
            return;
        }
        let mut queue = self.stream.queue.lock();
        while !self.is_done() {
            self.stream.progress.wait(&mut queue);
        }
    }
}

struct Item {
    waits: Vec<Marker>,
    work: Work,
}

struct Queue {
    items: VecDeque<Item>,
    enqueued: u64,
    /// Whether a thread is on it, or about to be.
    running: bool,
    random: u64,
}

/// A stream.
pub struct Stream {
    /// Its handle; default streams have one too, which no call accepts.
    pub handle: Handle,
    /// Flags of its creation.
    pub flags: u32,
    /// Priority of its creation.
    pub priority: i32,
    /// Whether this is a legacy default stream.
    pub is_legacy: bool,
    /// The capture that it takes part in.
    pub capture: Mutex<Option<Arc<Capture>>>,
    context: Weak<Context>,
    queue: Mutex<Queue>,
    progress: Condvar,
    done: AtomicU64,
}

impl Stream {
    /// A stream without work.
    pub fn new(
        world: &World,
        context: Weak<Context>,
        flags: u32,
        priority: i32,
        is_legacy: bool,
    ) -> Arc<Self> {
        let handle = world.new_handle();
        let queue = Queue {
            items: VecDeque::new(),
            enqueued: 0,
            running: false,
            random: (world.seed() ^ handle.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1,
        };
        Arc::new(Self {
            handle,
            flags,
            priority,
            is_legacy,
            capture: Mutex::new(None),
            context,
            queue: Mutex::new(queue),
            progress: Condvar::new(),
            done: AtomicU64::new(0),
        })
    }

    /// Its context, while that lives and no work in it has failed.
    pub fn context(&self) -> Answer<Arc<Context>> {
        let context = self
            .context
            .upgrade()
            .ok_or(crate::codes::ERROR_CONTEXT_IS_DESTROYED)?;
        crate::codes::require(context.is_alive(), crate::codes::ERROR_CONTEXT_IS_DESTROYED)?;
        context.check()?;
        Ok(context)
    }

    /// Whether the legacy stream and this one wait for each other.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    /// Everything that was enqueued so far.
    pub fn marker(self: &Arc<Self>) -> Marker {
        let number = self.queue.lock().enqueued;
        Marker {
            stream: self.clone(),
            number,
        }
    }

    /// Appends work that starts after `waits`. The order between streams is the caller's matter
    /// (see [`Context::enqueue`]).
    pub fn push(self: &Arc<Self>, world: &'static World, waits: Vec<Marker>, work: Work) -> Marker {
        let mut queue = self.queue.lock();
        queue.enqueued += 1;
        let number = queue.enqueued;
        if !queue.running && work.is_instant() && waits.iter().all(Marker::is_done) {
            // Nothing is before it and it takes no time: no thread needs to wake up for it.
            work.run(world);
            self.done.store(number, Ordering::Release);
        } else {
            queue.items.push_back(Item { waits, work });
            if !queue.running {
                queue.running = true;
                drop(queue);
                world.workers.hand_over(world, self.clone());
            }
        }
        Marker {
            stream: self.clone(),
            number,
        }
    }

    /// Runs everything that is queued, on a thread of the driver.
    pub fn drain(&self, world: &'static World) {
        loop {
            let (item, random) = {
                let mut queue = self.queue.lock();
                let Some(item) = queue.items.pop_front() else {
                    queue.running = false;
                    return;
                };
                (item, next_random(&mut queue.random))
            };
            item.waits.iter().for_each(Marker::wait);
            dawdle(world, random);
            item.work.run(world);
            // Under the lock, or a waiter between its check and its sleep would miss it.
            let queue = self.queue.lock();
            self.done.fetch_add(1, Ordering::AcqRel);
            drop(queue);
            self.progress.notify_all();
        }
    }
}

/// The random delay before each operation.
fn dawdle(world: &World, random: u64) {
    match world.settings.delay_us {
        0 => (0..random % 8).for_each(|_| std::thread::yield_now()),
        longest => std::thread::sleep(Duration::from_micros(random % (longest + 1))),
    }
}

fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 11
}

/// The stream that a handle means.
pub fn resolve(
    world: &'static World,
    handle: Handle,
    default: DefaultStream,
) -> Answer<Arc<Stream>> {
    let per_thread = handle == PER_THREAD || (handle == 0 && default == DefaultStream::PerThread);
    if per_thread {
        let id = thread::id(world)?;
        return Ok(thread::context(world)?.per_thread_stream(world, id));
    }
    if handle == 0 || handle == LEGACY {
        return Ok(thread::context(world)?.legacy_stream());
    }
    let stream = world.streams.get(handle)?;
    stream.context()?;
    Ok(stream)
}
