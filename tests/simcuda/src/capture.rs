//! Stream capture and the rules about what may happen meanwhile.

use crate::codes::{
    Answer, ERROR_ILLEGAL_STATE, ERROR_INVALID_VALUE, ERROR_STREAM_CAPTURE_IMPLICIT,
    ERROR_STREAM_CAPTURE_INVALIDATED, ERROR_STREAM_CAPTURE_ISOLATION, ERROR_STREAM_CAPTURE_MERGE,
    ERROR_STREAM_CAPTURE_UNJOINED, ERROR_STREAM_CAPTURE_UNMATCHED,
    ERROR_STREAM_CAPTURE_UNSUPPORTED, ERROR_STREAM_CAPTURE_WRONG_THREAD, fail, require,
};
use crate::context::Context;
use crate::event::{Event, Recorded};
use crate::ffi::Handle;
use crate::graph::Graph;
use crate::stream::{Marker, Stream};
use crate::thread::{self, MODE_GLOBAL, MODE_RELAXED};
use crate::work::Work;
use crate::world::World;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A stream in a capture.
struct Member {
    stream: Arc<Stream>,
    /// Operations of this capture in it.
    operations: usize,
    /// How many of these another stream waits for.
    joined: usize,
}

/// A capture in progress.
pub struct Capture {
    /// A number that no other capture has.
    pub id: u64,
    /// The graph that it fills.
    pub graph: Arc<Graph>,
    mode: i32,
    thread: u64,
    origin: Handle,
    context: Handle,
    invalid: AtomicBool,
    members: Mutex<Vec<Member>>,
}

impl Capture {
    /// Whether something has spoiled it.
    pub fn is_invalid(&self) -> bool {
        self.invalid.load(Ordering::Acquire)
    }

    fn invalidate(&self) {
        self.invalid.store(true, Ordering::Release);
    }

    /// Adds what was asked of one of its streams.
    fn add(&self, world: &World, stream: Handle, work: Work) -> Answer<Handle> {
        require(!self.is_invalid(), ERROR_STREAM_CAPTURE_INVALIDATED)?;
        self.operated(stream);
        Ok(self.graph.add(world, work))
    }

    fn operated(&self, stream: Handle) {
        let mut members = self.members.lock();
        if let Some(member) = members
            .iter_mut()
            .find(|member| member.stream.handle == stream)
        {
            member.operations += 1;
        }
    }

    fn operations(&self, stream: Handle) -> usize {
        let members = self.members.lock();
        let member = members.iter().find(|member| member.stream.handle == stream);
        member.map_or(0, |member| member.operations)
    }

    /// `stream` waits for `other` as it was after `operations`.
    fn join(&self, other: Handle, operations: usize) {
        let mut members = self.members.lock();
        if let Some(member) = members
            .iter_mut()
            .find(|member| member.stream.handle == other)
        {
            member.joined = member.joined.max(operations);
        }
    }

    fn has_unjoined(&self) -> bool {
        let members = self.members.lock();
        let unjoined = |member: &Member| {
            member.stream.handle != self.origin && member.joined < member.operations
        };
        members.iter().any(unjoined)
    }
}

/// The captures in progress.
#[derive(Default)]
pub struct Captures {
    count: AtomicUsize,
    list: RwLock<Vec<Arc<Capture>>>,
}

impl Captures {
    /// Whether there is any; this is all that the usual call looks at.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }
}

/// Begins a capture, into a new graph or into one that exists.
pub fn begin(
    world: &'static World,
    stream: &Arc<Stream>,
    mode: i32,
    graph: Option<Arc<Graph>>,
) -> Answer {
    require(
        (MODE_GLOBAL..=MODE_RELAXED).contains(&mode),
        ERROR_INVALID_VALUE,
    )?;
    require(!stream.is_legacy, ERROR_STREAM_CAPTURE_UNSUPPORTED)?;
    let mut current = stream.capture.lock();
    require(current.is_none(), ERROR_ILLEGAL_STATE)?;
    let member = Member {
        stream: stream.clone(),
        operations: 0,
        joined: 0,
    };
    let capture = Arc::new(Capture {
        id: world.new_handle() >> 6 & 0xFFFF_FFFF,
        graph: graph.unwrap_or_else(|| Graph::create(world)),
        mode,
        thread: thread::id(world)?,
        origin: stream.handle,
        context: stream.context()?.handle,
        invalid: AtomicBool::new(false),
        members: Mutex::new(vec![member]),
    });
    *current = Some(capture.clone());
    let mut list = world.captures.list.write();
    list.push(capture);
    world.captures.count.store(list.len(), Ordering::Release);
    Ok(())
}

/// Ends a capture and gives its graph.
pub fn end(world: &'static World, stream: &Arc<Stream>) -> Answer<Handle> {
    let capture = stream.capture.lock().clone().ok_or(ERROR_ILLEGAL_STATE)?;
    require(
        capture.origin == stream.handle,
        ERROR_STREAM_CAPTURE_UNMATCHED,
    )?;
    let right_thread = capture.mode == MODE_RELAXED || capture.thread == thread::id(world)?;
    require(right_thread, ERROR_STREAM_CAPTURE_WRONG_THREAD)?;
    for member in capture.members.lock().iter() {
        *member.stream.capture.lock() = None;
    }
    {
        let mut list = world.captures.list.write();
        list.retain(|other| other.id != capture.id);
        world.captures.count.store(list.len(), Ordering::Release);
    }
    let verdict = if capture.is_invalid() {
        Err(ERROR_STREAM_CAPTURE_INVALIDATED)
    } else if capture.has_unjoined() {
        Err(ERROR_STREAM_CAPTURE_UNJOINED)
    } else {
        Ok(capture.graph.handle)
    };
    if verdict.is_err() {
        // A graph that the application gave stays its own; it may be gone already.
        let _ = world.graphs.remove(capture.graph.handle);
    }
    verdict
}

/// For calls that may not run while something is captured: refuses and spoils the captures.
pub fn guard_unsafe(world: &'static World) -> Answer {
    if !world.captures.any() {
        return Ok(());
    }
    let (mode, own) = (thread::mode(world)?, thread::id(world)?);
    if mode == MODE_RELAXED {
        return Ok(());
    }
    let list = world.captures.list.read();
    let forbids = |capture: &&Arc<Capture>| {
        (capture.thread == own && capture.mode != MODE_RELAXED)
            || (mode == MODE_GLOBAL && capture.mode == MODE_GLOBAL)
    };
    let mut forbidding = list.iter().filter(forbids).peekable();
    if forbidding.peek().is_none() {
        return Ok(());
    }
    forbidding.for_each(|capture| capture.invalidate());
    fail(ERROR_STREAM_CAPTURE_UNSUPPORTED)
}

/// For calls that wait for a stream: refuses if it captures, or if the legacy stream would have
/// to wait for one that does.
pub fn guard_wait(world: &'static World, stream: &Stream) -> Answer {
    if !world.captures.any() {
        return Ok(());
    }
    if let Some(capture) = &*stream.capture.lock() {
        capture.invalidate();
        return fail(ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    guard_implicit(world, stream)
}

fn guard_implicit(world: &'static World, stream: &Stream) -> Answer {
    if !stream.is_legacy {
        return Ok(());
    }
    let context = stream.context()?.handle;
    let list = world.captures.list.read();
    let implied = |capture: &&Arc<Capture>| {
        let members = capture.members.lock();
        capture.context == context && members.iter().any(|member| member.stream.is_blocking())
    };
    let mut implied = list.iter().filter(implied).peekable();
    if implied.peek().is_none() {
        return Ok(());
    }
    implied.for_each(|capture| capture.invalidate());
    fail(ERROR_STREAM_CAPTURE_IMPLICIT)
}

/// For calls that wait for a whole context.
pub fn guard_context(world: &'static World, context: Handle) -> Answer {
    if !world.captures.any() {
        return Ok(());
    }
    let list = world.captures.list.read();
    let mut inside = list
        .iter()
        .filter(|capture| capture.context == context)
        .peekable();
    if inside.peek().is_none() {
        return Ok(());
    }
    inside.for_each(|capture| capture.invalidate());
    fail(ERROR_STREAM_CAPTURE_UNSUPPORTED)
}

/// Asks a stream for work: enqueued, or captured and then without a point to wait for.
pub fn submit(world: &'static World, stream: &Arc<Stream>, work: Work) -> Answer<Option<Marker>> {
    if world.captures.any() {
        let capture = stream.capture.lock().clone();
        if let Some(capture) = capture {
            capture.add(world, stream.handle, work)?;
            return Ok(None);
        }
        guard_implicit(world, stream)?;
    }
    let context = stream.context()?;
    Ok(Some(context.enqueue(world, stream, Vec::new(), work)))
}

/// Records an event in a stream.
pub fn record(world: &'static World, event: &Event, stream: &Arc<Stream>) -> Answer {
    let capture = stream.capture.lock().clone();
    if let Some(capture) = capture {
        require(!capture.is_invalid(), ERROR_STREAM_CAPTURE_INVALIDATED)?;
        let operations = capture.operations(stream.handle);
        *event.recorded.lock() = Recorded::Captured(capture, stream.handle, operations);
        return Ok(());
    }
    let stamp = crate::event::Stamp::default();
    let marker = submit(world, stream, Work::Stamp(stamp.clone()))?;
    if let Some(marker) = marker {
        *event.recorded.lock() = Recorded::At(marker, stamp);
    }
    Ok(())
}

/// Records everything that a context holds in an event.
pub fn record_context(world: &'static World, event: &Event, context: &Arc<Context>) -> Answer {
    guard_context(world, context.handle)?;
    let stamp = crate::event::Stamp::default();
    let marker = context.enqueue_after_all(world, Work::Stamp(stamp.clone()));
    *event.recorded.lock() = Recorded::At(marker, stamp);
    Ok(())
}

/// Makes all work to come in a context wait for an event.
pub fn wait_event_in_context(world: &'static World, context: &Context, event: &Event) -> Answer {
    guard_context(world, context.handle)?;
    if let Some(marker) = event.host_marker()? {
        context.add_barrier(marker);
    }
    Ok(())
}

/// Makes a stream wait for an event.
pub fn wait_event(world: &'static World, stream: &Arc<Stream>, event: &Event) -> Answer {
    let recorded = event.recorded.lock().clone();
    let own = stream.capture.lock().clone();
    match (recorded, own) {
        (Recorded::Never, _) => Ok(()),
        (Recorded::At(..), Some(capture)) => {
            capture.invalidate();
            fail(ERROR_STREAM_CAPTURE_ISOLATION)
        }
        (Recorded::At(marker, _), None) => {
            guard_implicit(world, stream)?;
            if !marker.is_done() {
                stream
                    .context()?
                    .enqueue(world, stream, vec![marker], Work::Nothing);
            }
            Ok(())
        }
        (Recorded::Captured(capture, other, operations), None) => {
            require(!capture.is_invalid(), ERROR_STREAM_CAPTURE_INVALIDATED)?;
            require(!stream.is_legacy, ERROR_STREAM_CAPTURE_IMPLICIT)?;
            let member = Member {
                stream: stream.clone(),
                operations: 0,
                joined: 0,
            };
            capture.members.lock().push(member);
            *stream.capture.lock() = Some(capture.clone());
            joined(&capture, stream, other, operations);
            Ok(())
        }
        (Recorded::Captured(capture, other, operations), Some(own)) => {
            if own.id != capture.id {
                own.invalidate();
                capture.invalidate();
                return fail(ERROR_STREAM_CAPTURE_MERGE);
            }
            joined(&capture, stream, other, operations);
            Ok(())
        }
    }
}

/// The waiting stream now carries the other one's work, so it must be joined itself.
fn joined(capture: &Capture, stream: &Stream, other: Handle, operations: usize) {
    if stream.handle != other {
        capture.join(other, operations);
        capture.operated(stream.handle);
    }
}
