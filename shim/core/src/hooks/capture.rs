//! Stream captures: noted from their beginning to their end.

use super::noted::of_thread;
use crate::{process, real};
use rewarm::driver::sys::*;

fn as_given(stream: CUstream) -> CUstream {
    stream
}

fn begun(stream: CUstream, result: CUresult) -> CUresult {
    if result.is_ok()
        && let Some(process) = process::current()
    {
        process.captures.begun(stream, process.current_context());
    }
    result
}

/// A capture may have ended, if the right thread asked for it.
fn ended(stream: CUstream, result: CUresult) -> CUresult {
    if let Some(process) = process::current() {
        let mut capturing = 0;
        // SAFETY: an out-pointer to a local; the driver has just looked at the stream.
        let asked = unsafe { process.driver.stream_is_capturing(stream, &mut capturing) };
        if asked.is_ok() && capturing == 0 {
            process.captures.ended(stream);
        }
    }
    result
}

/// A stream is about to go, and a capture with it.
fn destroy(stream: CUstream, plain: impl FnOnce() -> CUresult) -> CUresult {
    let result = plain();
    if result.is_ok()
        && let Some(process) = process::current()
    {
        process.captures.ended(stream);
    }
    result
}

macro_rules! beginnings {
    ($($name:ident ( $stream:ident $(, $arg:ident : $ty:ty)* );)*) => {$(
        pub(super) unsafe extern "C" fn $name(stream: CUstream $(, $arg: $ty)*) -> CUresult {
            // SAFETY: the application's own call.
            begun($stream(stream), unsafe { real::$name(stream $(, $arg)*) })
        }
    )*};
}

beginnings! {
    cuStreamBeginCapture(as_given);
    cuStreamBeginCapture_ptsz(of_thread);
    cuStreamBeginCapture_v2(as_given, mode: c_int);
    cuStreamBeginCapture_v2_ptsz(of_thread, mode: c_int);
    cuStreamBeginCaptureToGraph(
        as_given,
        graph: CUgraph,
        dependencies: *const CUgraphNode,
        data: *const c_void,
        count: usize,
        mode: c_int
    );
    cuStreamBeginCaptureToGraph_ptsz(
        of_thread,
        graph: CUgraph,
        dependencies: *const CUgraphNode,
        data: *const c_void,
        count: usize,
        mode: c_int
    );
}

macro_rules! endings {
    ($($name:ident ( $stream:ident );)*) => {$(
        pub(super) unsafe extern "C" fn $name(stream: CUstream, graph: *mut CUgraph) -> CUresult {
            // SAFETY: the application's own call.
            ended($stream(stream), unsafe { real::$name(stream, graph) })
        }
    )*};
}

endings! {
    cuStreamEndCapture(as_given);
    cuStreamEndCapture_ptsz(of_thread);
}

macro_rules! destructions {
    ($($name:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(stream: CUstream) -> CUresult {
            // SAFETY: the application's own call.
            destroy(stream, || unsafe { real::$name(stream) })
        }
    )*};
}

destructions! {
    cuStreamDestroy;
    cuStreamDestroy_v2;
}
