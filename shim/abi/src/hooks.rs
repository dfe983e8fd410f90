//! The table of driver symbols that have a hook of their own.

/// Calls `$callback!` with every symbol of the driver that has a hook, one row each:
/// `policy name(argument: type, …);`. All of them return `CUresult`.
///
/// The policy says who replaces the symbol and why:
///
/// | policy | meaning |
/// |---|---|
/// | `front` | answered by the front itself: activation, and swapping by address |
/// | `copy` | linear copies: may be fanned out over the lanes |
/// | `shaped` | 2D, 3D and batch copies: passed through and counted |
/// | `context` | life and death of contexts: the prewarmed context, lanes that die with theirs |
/// | `memory` | allocations: what belongs to a context that stands in for a created one, and where pinned memory lies |
///
/// The rows are written in the core's vocabulary of types; a user of the table
/// that wants the signatures imports those (`rewarm::driver::sys`).
#[macro_export]
macro_rules! for_each_hook {
    ($callback:ident) => {
        $callback! {
            front cuInit(flags: c_uint);
            front cuGetProcAddress(symbol: *const c_char, function: *mut *mut c_void, version: c_int, flags: u64);
            front cuGetProcAddress_v2(symbol: *const c_char, function: *mut *mut c_void, version: c_int, flags: u64, status: *mut c_int);

            copy cuMemcpyHtoD_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize);
            copy cuMemcpyHtoD_v2_ptds(dst: CUdeviceptr, src: *const c_void, bytes: usize);
            copy cuMemcpyHtoDAsync_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
            copy cuMemcpyHtoDAsync_v2_ptsz(dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
            copy cuMemcpyDtoH_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize);
            copy cuMemcpyDtoH_v2_ptds(dst: *mut c_void, src: CUdeviceptr, bytes: usize);
            copy cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize, stream: CUstream);
            copy cuMemcpyDtoHAsync_v2_ptsz(dst: *mut c_void, src: CUdeviceptr, bytes: usize, stream: CUstream);
            copy cuMemcpy(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize);
            copy cuMemcpy_ptds(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize);
            copy cuMemcpyAsync(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
            copy cuMemcpyAsync_ptsz(dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);

            shaped cuMemcpy2D_v2(copy: *const CUDA_MEMCPY2D);
            shaped cuMemcpy2D_v2_ptds(copy: *const CUDA_MEMCPY2D);
            shaped cuMemcpy2DUnaligned_v2(copy: *const CUDA_MEMCPY2D);
            shaped cuMemcpy2DUnaligned_v2_ptds(copy: *const CUDA_MEMCPY2D);
            shaped cuMemcpy2DAsync_v2(copy: *const CUDA_MEMCPY2D, stream: CUstream);
            shaped cuMemcpy2DAsync_v2_ptsz(copy: *const CUDA_MEMCPY2D, stream: CUstream);
            shaped cuMemcpy3D_v2(copy: *const CUDA_MEMCPY3D);
            shaped cuMemcpy3D_v2_ptds(copy: *const CUDA_MEMCPY3D);
            shaped cuMemcpy3DAsync_v2(copy: *const CUDA_MEMCPY3D, stream: CUstream);
            shaped cuMemcpy3DAsync_v2_ptsz(copy: *const CUDA_MEMCPY3D, stream: CUstream);
            shaped cuMemcpyBatchAsync(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, attribute_indices: *mut usize, attribute_count: usize, fail_index: *mut usize, stream: CUstream);
            shaped cuMemcpyBatchAsync_ptsz(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, attribute_indices: *mut usize, attribute_count: usize, fail_index: *mut usize, stream: CUstream);
            shaped cuMemcpyBatchAsync_v2(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, attribute_indices: *mut usize, attribute_count: usize, stream: CUstream);
            shaped cuMemcpyBatchAsync_v2_ptsz(dsts: *mut CUdeviceptr, srcs: *mut CUdeviceptr, sizes: *mut usize, count: usize, attributes: *mut c_void, attribute_indices: *mut usize, attribute_count: usize, stream: CUstream);
            shaped cuMemcpy3DBatchAsync(count: usize, operations: *mut c_void, fail_index: *mut usize, flags: u64, stream: CUstream);
            shaped cuMemcpy3DBatchAsync_ptsz(count: usize, operations: *mut c_void, fail_index: *mut usize, flags: u64, stream: CUstream);
            shaped cuMemcpy3DBatchAsync_v2(count: usize, operations: *mut c_void, flags: u64, stream: CUstream);
            shaped cuMemcpy3DBatchAsync_v2_ptsz(count: usize, operations: *mut c_void, flags: u64, stream: CUstream);

            context cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
            context cuDevicePrimaryCtxRelease(device: CUdevice);
            context cuDevicePrimaryCtxRelease_v2(device: CUdevice);
            context cuDevicePrimaryCtxReset(device: CUdevice);
            context cuDevicePrimaryCtxReset_v2(device: CUdevice);
            context cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut c_uint, active: *mut c_int);
            context cuCtxCreate(context: *mut CUcontext, flags: c_uint, device: CUdevice);
            context cuCtxCreate_v2(context: *mut CUcontext, flags: c_uint, device: CUdevice);
            context cuCtxCreate_v3(context: *mut CUcontext, parameters: *mut c_void, parameter_count: c_int, flags: c_uint, device: CUdevice);
            context cuCtxCreate_v4(context: *mut CUcontext, parameters: *mut c_void, flags: c_uint, device: CUdevice);
            context cuCtxDestroy(context: CUcontext);
            context cuCtxDestroy_v2(context: CUcontext);
            context cuCtxGetFlags(flags: *mut c_uint);

            memory cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
            memory cuMemAllocPitch_v2(address: *mut CUdeviceptr, pitch: *mut usize, width: usize, height: usize, element: c_uint);
            memory cuMemAllocManaged(address: *mut CUdeviceptr, bytes: usize, flags: c_uint);
            memory cuMemFree_v2(address: CUdeviceptr);
            memory cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize);
            memory cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: c_uint);
            memory cuMemFreeHost(address: *mut c_void);
        }
    };
}
