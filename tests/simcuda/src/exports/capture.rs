//! Stream capture.

use crate::capture;
use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_STREAM_CAPTURE_IMPLICIT, require};
use crate::entry::driver_calls;
use crate::ffi::{Handle, Out};
use crate::stream::{DefaultStream, resolve};
use crate::thread::{self, MODE_GLOBAL, MODE_RELAXED};
use crate::world::World;
use std::ffi::c_void;

fn begin(
    world: &'static World,
    stream: Handle,
    default: DefaultStream,
    mode: i32,
    graph: Option<Handle>,
) -> Answer {
    let stream = resolve(world, stream, default)?;
    let graph = graph.map(|graph| world.graphs.get(graph)).transpose()?;
    capture::begin(world, &stream, mode, graph)
}

fn end(
    world: &'static World,
    stream: Handle,
    default: DefaultStream,
    graph: Out<Handle>,
) -> Answer {
    require(graph.given(), ERROR_INVALID_VALUE)?;
    let stream = resolve(world, stream, default)?;
    let ended = capture::end(world, &stream);
    graph.put(ended.unwrap_or(0))?;
    ended.map(drop)
}

/// Where the answers of `cuStreamGetCaptureInfo` go; the older forms have fewer places.
struct Places {
    status: Out<i32>,
    id: Out<u64>,
    graph: Out<Handle>,
    dependencies: Out<*const Handle>,
    edges: Out<*const c_void>,
    count: Out<usize>,
}

fn nowhere<T: Copy>() -> Out<T> {
    Out::from_raw(std::ptr::null_mut())
}

fn info(world: &'static World, stream: Handle, default: DefaultStream, places: &Places) -> Answer {
    let stream = resolve(world, stream, default)?;
    if stream.is_legacy && world.captures.any() {
        capture::guard_wait(world, &stream).map_err(|_| ERROR_STREAM_CAPTURE_IMPLICIT)?;
    }
    let capture = stream.capture.lock().clone();
    let Some(capture) = capture else {
        return places.status.put(0);
    };
    places
        .status
        .put(if capture.is_invalid() { 2 } else { 1 })?;
    if !capture.is_invalid() {
        places.id.put_if_given(capture.id);
        places.graph.put_if_given(capture.graph.handle);
        // Edges are not kept: the order of the nodes says it all.
        places.dependencies.put_if_given(std::ptr::null());
        places.edges.put_if_given(std::ptr::null());
        places.count.put_if_given(0);
    }
    Ok(())
}

fn only_status(
    world: &'static World,
    stream: Handle,
    default: DefaultStream,
    status: Out<i32>,
    id: Out<u64>,
) -> Answer {
    let places = Places {
        status,
        id,
        graph: nowhere(),
        dependencies: nowhere(),
        edges: nowhere(),
        count: nowhere(),
    };
    info(world, stream, default, &places)
}

fn exchange_mode(world: &'static World, place: Out<i32>) -> Answer {
    let mode = place.take()?;
    require(
        (MODE_GLOBAL..=MODE_RELAXED).contains(&mode),
        ERROR_INVALID_VALUE,
    )?;
    place.put(thread::exchange_mode(world, mode)?)
}

driver_calls! {
    /// Begins a capture in global mode.
    fn cuStreamBeginCapture / cuStreamBeginCapture_ptsz (stream: Handle) = |world, default| begin(world, stream, default, MODE_GLOBAL, None);
    /// Begins a capture.
    fn cuStreamBeginCapture_v2 / cuStreamBeginCapture_v2_ptsz (stream: Handle, mode: i32) = |world, default| begin(world, stream, default, mode, None);
    /// Begins a capture into a graph; what it depends on lies before it anyway.
    fn cuStreamBeginCaptureToGraph / cuStreamBeginCaptureToGraph_ptsz (stream: Handle, graph: Handle, dependencies: *const Handle, edges: *const c_void, count: usize, mode: i32) = |world, default| begin(world, stream, default, mode, Some(graph));
    /// Ends a capture.
    fn cuStreamEndCapture / cuStreamEndCapture_ptsz (stream: Handle, graph: Out<Handle>) = |world, default| end(world, stream, default, graph);
    /// Whether a stream captures.
    fn cuStreamIsCapturing / cuStreamIsCapturing_ptsz (stream: Handle, status: Out<i32>) = |world, default| only_status(world, stream, default, status, nowhere());
    /// What a stream captures.
    fn cuStreamGetCaptureInfo / cuStreamGetCaptureInfo_ptsz (stream: Handle, status: Out<i32>, id: Out<u64>) = |world, default| only_status(world, stream, default, status, id);
    /// What a stream captures.
    fn cuStreamGetCaptureInfo_v2 / cuStreamGetCaptureInfo_v2_ptsz (stream: Handle, status: Out<i32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<*const Handle>, count: Out<usize>) = |world, default| info(world, stream, default, &Places { status, id, graph, dependencies, edges: nowhere(), count });
    /// What a stream captures.
    fn cuStreamGetCaptureInfo_v3 / cuStreamGetCaptureInfo_v3_ptsz (stream: Handle, status: Out<i32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<*const Handle>, edges: Out<*const c_void>, count: Out<usize>) = |world, default| info(world, stream, default, &Places { status, id, graph, dependencies, edges, count });
    /// Exchanges the capture mode of this thread.
    fn cuThreadExchangeStreamCaptureMode(mode: Out<i32>) = |world| exchange_mode(world, mode);
}
