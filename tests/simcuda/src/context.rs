//! Contexts and the order between their streams.

use crate::codes::{Answer, CUresult, ERROR_INVALID_HANDLE, SUCCESS, require};
use crate::ffi::Handle;
use crate::stream::{Marker, NON_BLOCKING, Stream};
use crate::work::Work;
use crate::world::World;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// The streams of a context. Its lock is held while work is enqueued, so that "everything that
/// came before" is the same for all streams.
struct Members {
    created: Vec<Arc<Stream>>,
    per_thread: HashMap<u64, Arc<Stream>>,
    /// Ends of blocking streams that were destroyed with work in them.
    leftovers: Vec<Marker>,
    /// What all work to come waits for.
    barriers: Vec<Marker>,
}

/// A context.
pub struct Context {
    /// Its handle. A primary context keeps it over resets.
    pub handle: Handle,
    /// The ordinal of its device.
    pub device: usize,
    /// A number that is never used twice, as `cuCtxGetId` gives.
    pub id: u64,
    /// Whether it is a primary context.
    pub is_primary: bool,
    /// Flags of its creation.
    pub flags: AtomicU32,
    /// Limits that were set.
    pub limits: Mutex<HashMap<u32, usize>>,
    /// The cache configuration that was set.
    pub cache_config: AtomicU32,
    alive: AtomicBool,
    /// With what every call in it fails from now on; 0: it does not.
    spoiled: AtomicU32,
    legacy: Arc<Stream>,
    members: Mutex<Members>,
}

impl Context {
    /// Makes a context and its legacy stream and makes them known.
    pub fn create(
        world: &'static World,
        handle: Handle,
        device: usize,
        flags: u32,
        is_primary: bool,
    ) -> Arc<Self> {
        std::thread::sleep(world.settings.context_cost);
        let context = Arc::new_cyclic(|own: &Weak<Self>| Self {
            handle,
            device,
            id: world.new_handle() >> 6 & 0xFFFF_FFFF,
            is_primary,
            flags: AtomicU32::new(flags),
            limits: Mutex::default(),
            cache_config: AtomicU32::new(0),
            alive: AtomicBool::new(true),
            spoiled: AtomicU32::new(0),
            legacy: Stream::new(world, own.clone(), 0, 0, true),
            members: Mutex::new(Members {
                created: Vec::new(),
                per_thread: HashMap::new(),
                leftovers: Vec::new(),
                barriers: Vec::new(),
            }),
        });
        world.contexts.add(handle, context.clone());
        context
    }

    /// Whether it was not destroyed.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Lets every call in it fail with a code from now on, as a fault on the device does.
    pub fn spoil(&self, code: CUresult) {
        self.spoiled.store(code, Ordering::Release);
    }

    /// The code that it was spoiled with, if it was.
    pub fn check(&self) -> Answer {
        match self.spoiled.load(Ordering::Acquire) {
            SUCCESS => Ok(()),
            code => Err(code),
        }
    }

    /// The legacy default stream.
    pub fn legacy_stream(&self) -> Arc<Stream> {
        self.legacy.clone()
    }

    /// The per-thread default stream of a thread.
    pub fn per_thread_stream(self: &Arc<Self>, world: &World, thread: u64) -> Arc<Stream> {
        let mut members = self.members.lock();
        let make = || Stream::new(world, Arc::downgrade(self), 0, 0, false);
        members
            .per_thread
            .entry(thread)
            .or_insert_with(make)
            .clone()
    }

    /// A new stream.
    pub fn create_stream(
        self: &Arc<Self>,
        world: &World,
        flags: u32,
        priority: i32,
    ) -> Arc<Stream> {
        let stream = Stream::new(
            world,
            Arc::downgrade(self),
            flags & NON_BLOCKING,
            priority,
            false,
        );
        self.members.lock().created.push(stream.clone());
        world.streams.add(stream.handle, stream.clone());
        stream
    }

    /// Forgets a stream; what it still has to do is done.
    pub fn destroy_stream(&self, world: &World, stream: &Arc<Stream>) -> Answer {
        require(
            world.streams.remove(stream.handle).is_ok(),
            ERROR_INVALID_HANDLE,
        )?;
        let mut members = self.members.lock();
        members.created.retain(|other| !Arc::ptr_eq(other, stream));
        let end = stream.marker();
        if stream.is_blocking() && !end.is_done() {
            members.leftovers.push(end);
        }
        Ok(())
    }

    /// Appends work to a stream of this context, ordered as the legacy stream's rules say.
    pub fn enqueue(
        &self,
        world: &'static World,
        stream: &Arc<Stream>,
        mut waits: Vec<Marker>,
        work: Work,
    ) -> Marker {
        let mut members = self.members.lock();
        if stream.is_legacy {
            waits.extend(blocking_ends(&mut members));
        } else if stream.is_blocking() {
            waits.push(self.legacy.marker());
        }
        members.barriers.retain(|barrier| !barrier.is_done());
        waits.extend(members.barriers.iter().cloned());
        waits.retain(|marker| !marker.is_done());
        stream.push(world, waits, work)
    }

    /// Appends work that starts after everything that is in this context now, and that nothing
    /// else waits for.
    pub fn enqueue_after_all(self: &Arc<Self>, world: &'static World, work: Work) -> Marker {
        let aside = Stream::new(world, Arc::downgrade(self), NON_BLOCKING, 0, false);
        aside.push(world, self.all_ends(), work)
    }

    /// Lets all work to come wait for a point.
    pub fn add_barrier(&self, barrier: Marker) {
        self.members.lock().barriers.push(barrier);
    }

    /// What the host waits for when it waits for a stream.
    pub fn ends_of(&self, stream: &Arc<Stream>) -> Vec<Marker> {
        let mut ends = vec![stream.marker()];
        if stream.is_legacy {
            ends.extend(blocking_ends(&mut self.members.lock()));
        }
        ends
    }

    /// The ends of everything in this context.
    pub fn all_ends(&self) -> Vec<Marker> {
        let members = self.members.lock();
        let streams = members.created.iter().chain(members.per_thread.values());
        let mut ends: Vec<Marker> = streams.map(Stream::marker).collect();
        ends.extend(members.leftovers.iter().cloned());
        ends.push(self.legacy.marker());
        ends
    }

    /// Waits for everything, then frees all that belongs to it.
    pub fn destroy(&self, world: &'static World) {
        if !self.alive.swap(false, Ordering::AcqRel) {
            return;
        }
        self.all_ends().iter().for_each(Marker::wait);
        // A primary context made anew has the same handle: only this one is to go.
        let _ = world.contexts.remove(self.handle);
        for stream in self.members.lock().created.drain(..) {
            let _ = world.streams.remove(stream.handle);
        }
        world.events.retain(|event| event.context != self.handle);
        world
            .peers
            .lock()
            .retain(|(from, to)| *from != self.handle && *to != self.handle);
        world.memory.free_all_of(world, self.handle);
    }
}

fn blocking_ends(members: &mut Members) -> Vec<Marker> {
    members.leftovers.retain(|end| !end.is_done());
    let created = members.created.iter().filter(|stream| stream.is_blocking());
    let streams = created.chain(members.per_thread.values());
    let mut ends: Vec<Marker> = streams.map(Stream::marker).collect();
    ends.extend(members.leftovers.iter().cloned());
    ends
}
