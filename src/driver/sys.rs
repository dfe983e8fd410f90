//! The driver's types, as `cuda.h` has them.
//!
//! Codes that come from the driver are open integers here, not enums: a newer
//! driver may return a value that this build has never heard of, and it has to
//! reach the application verbatim.

#![allow(non_camel_case_types, missing_docs)]

pub use core::ffi::{c_char, c_int, c_uint, c_void};

/// Result of every driver call; 0 is success.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use]
pub struct CUresult(pub c_int);

impl CUresult {
    pub const SUCCESS: CUresult = CUresult(0);
    pub const INVALID_VALUE: CUresult = CUresult(1);
    pub const OUT_OF_MEMORY: CUresult = CUresult(2);
    pub const NOT_INITIALIZED: CUresult = CUresult(3);
    pub const NO_DEVICE: CUresult = CUresult(100);
    pub const INVALID_CONTEXT: CUresult = CUresult(201);
    pub const NOT_READY: CUresult = CUresult(600);
    pub const NOT_FOUND: CUresult = CUresult(500);
    pub const ILLEGAL_STATE: CUresult = CUresult(401);
    pub const SHARED_OBJECT_SYMBOL_NOT_FOUND: CUresult = CUresult(302);
    pub const OPERATING_SYSTEM: CUresult = CUresult(304);
    pub const SHARED_OBJECT_INIT_FAILED: CUresult = CUresult(303);
    pub const NOT_SUPPORTED: CUresult = CUresult(801);
    pub const CONTEXT_IS_DESTROYED: CUresult = CUresult(709);
    pub const UNKNOWN: CUresult = CUresult(999);

    /// Whether the call succeeded.
    pub fn is_ok(self) -> bool {
        self == CUresult::SUCCESS
    }
}

/// Ordinal of a device as the driver counts them in this process.
pub type CUdevice = c_int;
/// Address in device memory (unified addressing: unique in the process).
pub type CUdeviceptr = u64;
pub type CUcontext = *mut c_void;
pub type CUstream = *mut c_void;
pub type CUevent = *mut c_void;
pub type CUgraph = *mut c_void;
pub type CUgraphNode = *mut c_void;
pub type CUmodule = *mut c_void;
pub type CUfunction = *mut c_void;
/// A reference on physical memory.
pub type CUmemGenericAllocationHandle = u64;

/// Identity of a device.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CUuuid {
    pub bytes: [u8; 16],
}

pub const CU_MEM_ALLOCATION_TYPE_PINNED: c_int = 1;
pub const CU_MEM_LOCATION_TYPE_DEVICE: c_int = 1;
pub const CU_MEM_ACCESS_FLAGS_PROT_NONE: c_int = 0;
pub const CU_MEM_ACCESS_FLAGS_PROT_READWRITE: c_int = 3;
pub const CU_MEM_ALLOC_GRANULARITY_MINIMUM: c_int = 0;
pub const CU_MEM_CREATE_USAGE_TILE_POOL: u16 = 1;
pub const CU_MEM_CREATE_USAGE_HW_DECOMPRESS: u16 = 2;
pub const CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED: c_int = 110;

/// Where memory lies.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct CUmemLocation {
    pub kind: c_int,
    pub id: c_int,
}

/// What physical memory is to be.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CUmemAllocationProp {
    pub kind: c_int,
    pub requested_handle_types: c_int,
    pub location: CUmemLocation,
    pub win32_handle_meta_data: *mut c_void,
    pub compression_type: u8,
    pub gpu_direct_rdma_capable: u8,
    pub usage: u16,
    pub reserved: [u8; 4],
}

/// Who may access a mapping, and how.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CUmemAccessDesc {
    pub location: CUmemLocation,
    pub flags: c_int,
}

/// The legacy default stream, whatever the entry point's own default is.
pub const CU_STREAM_LEGACY: CUstream = 1 as CUstream;
/// The calling thread's default stream, whatever the entry point's own default is.
pub const CU_STREAM_PER_THREAD: CUstream = 2 as CUstream;

pub const CU_STREAM_NON_BLOCKING: c_uint = 1;
pub const CU_EVENT_DISABLE_TIMING: c_uint = 2;

pub const CU_STREAM_CAPTURE_MODE_RELAXED: c_int = 2;

pub const CU_POINTER_ATTRIBUTE_CONTEXT: c_int = 1;
pub const CU_POINTER_ATTRIBUTE_MEMORY_TYPE: c_int = 2;
pub const CU_POINTER_ATTRIBUTE_SYNC_MEMOPS: c_int = 6;
pub const CU_POINTER_ATTRIBUTE_IS_MANAGED: c_int = 8;
pub const CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: c_int = 9;
pub const CU_POINTER_ATTRIBUTE_RANGE_SIZE: c_int = 12;

pub const CU_MEMORYTYPE_HOST: c_uint = 1;
pub const CU_MEMORYTYPE_DEVICE: c_uint = 2;
pub const CU_MEMORYTYPE_ARRAY: c_uint = 3;
pub const CU_MEMORYTYPE_UNIFIED: c_uint = 4;

pub const CU_MEMHOSTREGISTER_PORTABLE: c_uint = 0x01;
pub const CU_MEMHOSTREGISTER_READ_ONLY: c_uint = 0x08;

pub type CUarray = *mut c_void;
pub type CUmipmappedArray = *mut c_void;
pub type CUmemoryPool = *mut c_void;

/// A legacy handle, for other processes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUipcMemHandle {
    pub reserved: [c_char; 64],
}

/// One part of a sparse array, and the physical memory that it gets.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUarrayMapInfo {
    pub resource_type: c_int,
    pub resource: u64,
    pub subresource_type: c_int,
    pub subresource: [u64; 4],
    pub operation: c_int,
    pub handle_type: c_int,
    pub handle: CUmemGenericAllocationHandle,
    pub offset: u64,
    pub device_mask: c_uint,
    pub flags: c_uint,
    pub reserved: [c_uint; 2],
}

/// First fields of `CUDA_MEMCPY2D_v2`; only pointers to it are passed on.
#[repr(C)]
pub struct CUDA_MEMCPY2D {
    pub src_x_in_bytes: usize,
    pub src_y: usize,
    pub src_memory_type: c_uint,
    pub src_host: *const c_void,
    pub src_device: CUdeviceptr,
    pub src_array: *mut c_void,
    pub src_pitch: usize,
    pub dst_x_in_bytes: usize,
    pub dst_y: usize,
    pub dst_memory_type: c_uint,
    pub dst_host: *mut c_void,
    pub dst_device: CUdeviceptr,
    pub dst_array: *mut c_void,
    pub dst_pitch: usize,
    pub width_in_bytes: usize,
    pub height: usize,
}

/// `CUDA_MEMCPY3D_v2`; only pointers to it are passed on.
#[repr(C)]
pub struct CUDA_MEMCPY3D {
    pub src_x_in_bytes: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_memory_type: c_uint,
    pub src_host: *const c_void,
    pub src_device: CUdeviceptr,
    pub src_array: *mut c_void,
    pub reserved0: *mut c_void,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x_in_bytes: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_memory_type: c_uint,
    pub dst_host: *mut c_void,
    pub dst_device: CUdeviceptr,
    pub dst_array: *mut c_void,
    pub reserved1: *mut c_void,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width_in_bytes: usize,
    pub height: usize,
    pub depth: usize,
}

pub const CU_PROCESS_STATE_RUNNING: c_int = 0;
pub const CU_PROCESS_STATE_LOCKED: c_int = 1;
pub const CU_PROCESS_STATE_CHECKPOINTED: c_int = 2;
pub const CU_PROCESS_STATE_FAILED: c_int = 3;

/// How to lock a process.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CUcheckpointLockArgs {
    /// 0: no limit.
    pub timeout_ms: c_uint,
    pub reserved0: c_uint,
    pub reserved1: [u64; 7],
}

/// `CUcheckpointCheckpointArgs` and `CUcheckpointUnlockArgs`: nothing but zeroes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct CUcheckpointPlainArgs {
    pub reserved: [u64; 8],
}

/// Which GPU takes the place of which.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CUcheckpointGpuPair {
    pub old_uuid: CUuuid,
    pub new_uuid: CUuuid,
}

/// How to restore a process. Drivers before CUDA 13 want zeroes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CUcheckpointRestoreArgs {
    pub gpu_pairs: *mut CUcheckpointGpuPair,
    pub gpu_pairs_count: c_uint,
    pub reserved: [u8; 44],
    pub reserved1: u64,
}

const _: () = {
    assert!(size_of::<CUcheckpointLockArgs>() == 64);
    assert!(size_of::<CUcheckpointPlainArgs>() == 64);
    assert!(size_of::<CUcheckpointRestoreArgs>() == 64);
    assert!(core::mem::offset_of!(CUcheckpointRestoreArgs, reserved1) == 56);
};
