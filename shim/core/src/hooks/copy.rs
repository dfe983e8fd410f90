//! Linear copies.
//!
//! `_ptds` and `_ptsz` entry points mean the calling thread's default stream
//! where the plain ones mean the legacy stream.

use crate::decision::{Copy, linear, unified};
use crate::real;
use rewarm::driver::sys::*;
use rewarm::lanes::Direction;

fn or(stream: CUstream, default: CUstream) -> CUstream {
    if stream.is_null() { default } else { stream }
}

macro_rules! synchronous {
    ($($name:ident: $direction:ident on $stream:ident, ($to:ty, $from:ty);)*) => {$(
        pub(super) unsafe extern "C" fn $name(to: $to, from: $from, bytes: usize) -> CUresult {
            let (device, host) = synchronous!(@sides $direction to from);
            let copy = Copy {
                direction: Direction::$direction,
                device,
                host,
                bytes,
                stream: $stream,
                asynchronous: false,
            };
            // SAFETY: the application's own call.
            unsafe { linear(copy, || real::$name(to, from, bytes)) }
        }
    )*};
    (@sides ToDevice $to:ident $from:ident) => { ($to, $from.cast_mut().cast()) };
    (@sides ToHost $to:ident $from:ident) => { ($from, $to.cast()) };
}

macro_rules! asynchronous {
    ($($name:ident: $direction:ident on $stream:ident, ($to:ty, $from:ty);)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            to: $to,
            from: $from,
            bytes: usize,
            stream: CUstream,
        ) -> CUresult {
            let (device, host) = synchronous!(@sides $direction to from);
            let copy = Copy {
                direction: Direction::$direction,
                device,
                host,
                bytes,
                stream: or(stream, $stream),
                asynchronous: true,
            };
            // SAFETY: the application's own call.
            unsafe { linear(copy, || real::$name(to, from, bytes, stream)) }
        }
    )*};
}

synchronous! {
    cuMemcpyHtoD_v2: ToDevice on CU_STREAM_LEGACY, (CUdeviceptr, *const c_void);
    cuMemcpyHtoD_v2_ptds: ToDevice on CU_STREAM_PER_THREAD, (CUdeviceptr, *const c_void);
    cuMemcpyDtoH_v2: ToHost on CU_STREAM_LEGACY, (*mut c_void, CUdeviceptr);
    cuMemcpyDtoH_v2_ptds: ToHost on CU_STREAM_PER_THREAD, (*mut c_void, CUdeviceptr);
}

asynchronous! {
    cuMemcpyHtoDAsync_v2: ToDevice on CU_STREAM_LEGACY, (CUdeviceptr, *const c_void);
    cuMemcpyHtoDAsync_v2_ptsz: ToDevice on CU_STREAM_PER_THREAD, (CUdeviceptr, *const c_void);
    cuMemcpyDtoHAsync_v2: ToHost on CU_STREAM_LEGACY, (*mut c_void, CUdeviceptr);
    cuMemcpyDtoHAsync_v2_ptsz: ToHost on CU_STREAM_PER_THREAD, (*mut c_void, CUdeviceptr);
}

macro_rules! unified {
    ($($name:ident on $stream:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            to: CUdeviceptr,
            from: CUdeviceptr,
            bytes: usize,
        ) -> CUresult {
            // SAFETY: the application's own call.
            unsafe { unified(to, from, bytes, $stream, false, || real::$name(to, from, bytes)) }
        }
    )*};
}

macro_rules! unified_asynchronous {
    ($($name:ident on $stream:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            to: CUdeviceptr,
            from: CUdeviceptr,
            bytes: usize,
            stream: CUstream,
        ) -> CUresult {
            let ordering = or(stream, $stream);
            // SAFETY: the application's own call.
            unsafe {
                unified(to, from, bytes, ordering, true, || real::$name(to, from, bytes, stream))
            }
        }
    )*};
}

unified! {
    cuMemcpy on CU_STREAM_LEGACY;
    cuMemcpy_ptds on CU_STREAM_PER_THREAD;
}

unified_asynchronous! {
    cuMemcpyAsync on CU_STREAM_LEGACY;
    cuMemcpyAsync_ptsz on CU_STREAM_PER_THREAD;
}
