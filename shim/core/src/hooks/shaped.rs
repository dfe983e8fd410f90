//! 2D, 3D and batch copies: passed through and counted.

use crate::{process, real};
use rewarm::control::Bypass;
use rewarm::driver::sys::*;
use rewarm::lanes::Direction;

/// Counts a copy whose memory types say its direction.
fn count(reason: Bypass, from: c_uint, to: c_uint) {
    let Some(process) = process::current() else {
        return;
    };
    let direction = match (from, to) {
        (CU_MEMORYTYPE_HOST, CU_MEMORYTYPE_DEVICE | CU_MEMORYTYPE_ARRAY) => Direction::ToDevice,
        (CU_MEMORYTYPE_DEVICE | CU_MEMORYTYPE_ARRAY, CU_MEMORYTYPE_HOST) => Direction::ToHost,
        _ => return process.undirected.bypassed(reason),
    };
    process
        .devices
        .get(process::small_device() as CUdevice)
        .copies(direction)
        .bypassed(reason);
}

macro_rules! structured {
    ($($name:ident: $reason:ident ($copy:ty $(, $stream:ident)?);)*) => {$(
        pub(super) unsafe extern "C" fn $name(copy: *const $copy $(, $stream: CUstream)?) -> CUresult {
            // SAFETY: the application's own structure, if any.
            if let Some(copy) = unsafe { copy.as_ref() } {
                count(Bypass::$reason, copy.src_memory_type, copy.dst_memory_type);
            }
            // SAFETY: the application's own call.
            unsafe { real::$name(copy $(, $stream)?) }
        }
    )*};
}

structured! {
    cuMemcpy2D_v2: TwoDimensional (CUDA_MEMCPY2D);
    cuMemcpy2D_v2_ptds: TwoDimensional (CUDA_MEMCPY2D);
    cuMemcpy2DUnaligned_v2: TwoDimensional (CUDA_MEMCPY2D);
    cuMemcpy2DUnaligned_v2_ptds: TwoDimensional (CUDA_MEMCPY2D);
    cuMemcpy2DAsync_v2: TwoDimensional (CUDA_MEMCPY2D, stream);
    cuMemcpy2DAsync_v2_ptsz: TwoDimensional (CUDA_MEMCPY2D, stream);
    cuMemcpy3D_v2: ThreeDimensional (CUDA_MEMCPY3D);
    cuMemcpy3D_v2_ptds: ThreeDimensional (CUDA_MEMCPY3D);
    cuMemcpy3DAsync_v2: ThreeDimensional (CUDA_MEMCPY3D, stream);
    cuMemcpy3DAsync_v2_ptsz: ThreeDimensional (CUDA_MEMCPY3D, stream);
}

macro_rules! batch {
    ($($name:ident ( $($arg:ident : $ty:ty),* );)*) => {$(
        pub(super) unsafe extern "C" fn $name($($arg: $ty),*) -> CUresult {
            if let Some(process) = process::current() {
                process.undirected.bypassed(Bypass::Batch);
            }
            // SAFETY: the application's own call.
            unsafe { real::$name($($arg),*) }
        }
    )*};
}

batch! {
    cuMemcpyBatchAsync(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, indices: *mut usize, attribute_count: usize, fail_index: *mut usize, stream: CUstream);
    cuMemcpyBatchAsync_ptsz(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, indices: *mut usize, attribute_count: usize, fail_index: *mut usize, stream: CUstream);
    cuMemcpyBatchAsync_v2(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, indices: *mut usize, attribute_count: usize, stream: CUstream);
    cuMemcpyBatchAsync_v2_ptsz(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, indices: *mut usize, attribute_count: usize, stream: CUstream);
    cuMemcpy3DBatchAsync(count: usize, operations: *mut c_void, fail_index: *mut usize, flags: u64, stream: CUstream);
    cuMemcpy3DBatchAsync_ptsz(count: usize, operations: *mut c_void, fail_index: *mut usize, flags: u64, stream: CUstream);
    cuMemcpy3DBatchAsync_v2(count: usize, operations: *mut c_void, flags: u64, stream: CUstream);
    cuMemcpy3DBatchAsync_v2_ptsz(count: usize, operations: *mut c_void, flags: u64, stream: CUstream);
}
