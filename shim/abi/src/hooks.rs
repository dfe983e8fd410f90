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
/// | `mapping` | the application's own physical memory: its handles outlive a freeze |
/// | `noted` | memory that stays where it is, or that another process has a part in |
/// | `peers` | peer access, which mapped memory has by device |
/// | `attributes` | what applications are told of memory that the ledger made |
/// | `capture` | stream captures, which a freeze must not meet |
///
/// The last five are hooked in freezable processes only.
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

            mapping cuMemCreate(handle: *mut CUmemGenericAllocationHandle, bytes: usize, properties: *const CUmemAllocationProp, flags: u64);
            mapping cuMemRelease(handle: CUmemGenericAllocationHandle);
            mapping cuMemMap(address: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64);
            mapping cuMemUnmap(address: CUdeviceptr, bytes: usize);
            mapping cuMemSetAccess(address: CUdeviceptr, bytes: usize, accesses: *const CUmemAccessDesc, count: usize);
            mapping cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, address: *mut c_void);
            mapping cuMemGetAllocationPropertiesFromHandle(properties: *mut CUmemAllocationProp, handle: CUmemGenericAllocationHandle);
            mapping cuMemExportToShareableHandle(shared: *mut c_void, handle: CUmemGenericAllocationHandle, kind: c_int, flags: u64);
            mapping cuMemImportFromShareableHandle(handle: *mut CUmemGenericAllocationHandle, shared: *mut c_void, kind: c_int);
            mapping cuMemGetHandleForAddressRange(shared: *mut c_void, address: CUdeviceptr, bytes: usize, kind: c_int, flags: u64);
            mapping cuMemMapArrayAsync(parts: *mut CUarrayMapInfo, count: c_uint, stream: CUstream);
            mapping cuMemMapArrayAsync_ptsz(parts: *mut CUarrayMapInfo, count: c_uint, stream: CUstream);
            mapping cuMulticastBindMem(multicast: CUmemGenericAllocationHandle, multicast_offset: usize, handle: CUmemGenericAllocationHandle, offset: usize, bytes: usize, flags: u64);
            mapping cuMulticastBindAddr(multicast: CUmemGenericAllocationHandle, multicast_offset: usize, address: CUdeviceptr, bytes: usize, flags: u64);
            mapping cuMulticastBindMem_v2(multicast: CUmemGenericAllocationHandle, device: CUdevice, multicast_offset: usize, handle: CUmemGenericAllocationHandle, offset: usize, bytes: usize, flags: u64);
            mapping cuMulticastBindAddr_v2(multicast: CUmemGenericAllocationHandle, device: CUdevice, multicast_offset: usize, address: CUdeviceptr, bytes: usize, flags: u64);
            mapping cuLogicalEndpointBindMem(endpoint: u32, device: CUdevice, endpoint_offset: u64, handle: CUmemGenericAllocationHandle, offset: u64, bytes: u64, flags: u64);
            mapping cuLogicalEndpointBindAddr(endpoint: u32, device: CUdevice, endpoint_offset: u64, address: CUdeviceptr, bytes: u64, flags: u64);

            noted cuMemAllocAsync(address: *mut CUdeviceptr, bytes: usize, stream: CUstream);
            noted cuMemAllocAsync_ptsz(address: *mut CUdeviceptr, bytes: usize, stream: CUstream);
            noted cuMemAllocFromPoolAsync(address: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream);
            noted cuMemAllocFromPoolAsync_ptsz(address: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream);
            noted cuMemFreeAsync(address: CUdeviceptr, stream: CUstream);
            noted cuMemFreeAsync_ptsz(address: CUdeviceptr, stream: CUstream);
            noted cuMemPoolImportPointer(address: *mut CUdeviceptr, pool: CUmemoryPool, shared: *mut c_void);
            noted cuIpcGetMemHandle(shared: *mut CUipcMemHandle, address: CUdeviceptr);
            noted cuIpcOpenMemHandle(address: *mut CUdeviceptr, shared: CUipcMemHandle, flags: c_uint);
            noted cuIpcOpenMemHandle_v2(address: *mut CUdeviceptr, shared: CUipcMemHandle, flags: c_uint);
            noted cuIpcCloseMemHandle(address: CUdeviceptr);
            noted cuArrayCreate_v2(array: *mut CUarray, description: *const c_void);
            noted cuArray3DCreate_v2(array: *mut CUarray, description: *const c_void);
            noted cuArrayDestroy(array: CUarray);
            noted cuMipmappedArrayCreate(array: *mut CUmipmappedArray, description: *const c_void, levels: c_uint);
            noted cuMipmappedArrayDestroy(array: CUmipmappedArray);

            peers cuCtxEnablePeerAccess(peer: CUcontext, flags: c_uint);
            peers cuCtxDisablePeerAccess(peer: CUcontext);

            capture cuStreamBeginCapture(stream: CUstream);
            capture cuStreamBeginCapture_ptsz(stream: CUstream);
            capture cuStreamBeginCapture_v2(stream: CUstream, mode: c_int);
            capture cuStreamBeginCapture_v2_ptsz(stream: CUstream, mode: c_int);
            capture cuStreamBeginCaptureToGraph(stream: CUstream, graph: CUgraph, dependencies: *const CUgraphNode, data: *const c_void, count: usize, mode: c_int);
            capture cuStreamBeginCaptureToGraph_ptsz(stream: CUstream, graph: CUgraph, dependencies: *const CUgraphNode, data: *const c_void, count: usize, mode: c_int);
            capture cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
            capture cuStreamEndCapture_ptsz(stream: CUstream, graph: *mut CUgraph);
            capture cuStreamDestroy(stream: CUstream);
            capture cuStreamDestroy_v2(stream: CUstream);

            attributes cuMemGetAddressRange_v2(base: *mut CUdeviceptr, bytes: *mut usize, address: CUdeviceptr);
            attributes cuPointerGetAttribute(value: *mut c_void, attribute: c_int, address: CUdeviceptr);
            attributes cuPointerGetAttributes(count: c_uint, attributes: *mut c_int, values: *mut *mut c_void, address: CUdeviceptr);
            attributes cuPointerSetAttribute(value: *const c_void, attribute: c_int, address: CUdeviceptr);
        }
    };
}
