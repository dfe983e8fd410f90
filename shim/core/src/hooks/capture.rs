//! Stream captures: noted from their beginning to their end.

use crate::{process, real};
use rewarm::driver::sys::*;

fn begun(stream: CUstream, result: CUresult) -> CUresult {
    if result.is_ok()
        && let Some(process) = process::current()
    {
        process.captures.begun(stream);
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
    ($($name:ident ( stream: CUstream $(, $arg:ident : $ty:ty)* );)*) => {$(
        pub(super) unsafe extern "C" fn $name(stream: CUstream $(, $arg: $ty)*) -> CUresult {
            // SAFETY: the application's own call.
            begun(stream, unsafe { real::$name(stream $(, $arg)*) })
        }
    )*};
}

beginnings! {
    cuStreamBeginCapture(stream: CUstream);
    cuStreamBeginCapture_ptsz(stream: CUstream);
    cuStreamBeginCapture_v2(stream: CUstream, mode: c_int);
    cuStreamBeginCapture_v2_ptsz(stream: CUstream, mode: c_int);
    cuStreamBeginCaptureToGraph(stream: CUstream, graph: CUgraph, dependencies: *const CUgraphNode, data: *const c_void, count: usize, mode: c_int);
    cuStreamBeginCaptureToGraph_ptsz(stream: CUstream, graph: CUgraph, dependencies: *const CUgraphNode, data: *const c_void, count: usize, mode: c_int);
}

macro_rules! endings {
    ($($name:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(stream: CUstream, graph: *mut CUgraph) -> CUresult {
            // SAFETY: the application's own call.
            ended(stream, unsafe { real::$name(stream, graph) })
        }
    )*};
}

endings! {
    cuStreamEndCapture;
    cuStreamEndCapture_ptsz;
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
