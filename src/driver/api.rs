//! The table of driver functions that rewarm itself calls.

use super::sys::*;
use core::ffi::CStr;

/// A function that the driver at hand does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the CUDA driver has no {0}")]
pub struct LookupError(pub &'static str);

macro_rules! driver_functions {
    ($(#[$about:meta])* $table:ident:
        $($(#[$doc:meta])* $field:ident = $name:ident ( $($arg:ident : $ty:ty),* );)*) => {
        $(#[$about])*
        ///
        /// Every method is the driver function of the same name, with the
        /// driver's own rules for pointers, threads and the current context.
        #[derive(Clone, Copy)]
        pub struct $table {
            $($field: unsafe extern "C" fn($($ty),*) -> CUresult,)*
        }

        impl $table {
            /// Fills the table through `lookup`, which returns a symbol's
            /// address or null.
            ///
            /// # Errors
            /// The first function that is missing.
            ///
            /// # Safety
            /// What `lookup` returns for a name must be the driver function of
            /// that name, and stay loaded as long as the table is used.
            pub unsafe fn load(
                lookup: impl Fn(&'static CStr) -> *const c_void,
            ) -> Result<$table, LookupError> {
                Ok($table { $($field: {
                    const NAME: &str = concat!(stringify!($name), "\0");
                    const SYMBOL: &CStr = match CStr::from_bytes_with_nul(NAME.as_bytes()) {
                        Ok(name) => name,
                        Err(_) => unreachable!(),
                    };
                    let address = lookup(SYMBOL);
                    if address.is_null() {
                        return Err(LookupError(stringify!($name)));
                    }
                    // SAFETY: the caller vouches for what `lookup` returns.
                    unsafe {
                        core::mem::transmute::<
                            *const c_void,
                            unsafe extern "C" fn($($ty),*) -> CUresult,
                        >(address)
                    }
                },)* })
            }

            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// As the driver's documentation of the function says.
                #[allow(clippy::too_many_arguments)]
                pub unsafe fn $field(&self, $($arg: $ty),*) -> super::Result<()> {
                    // SAFETY: passed on to the caller.
                    super::check(stringify!($name), unsafe { (self.$field)($($arg),*) })
                }
            )*
        }
    };
}

driver_functions! {
    /// Addresses of the driver functions that rewarm calls in every process.
    Driver:
    /// Initialises the driver in this process; a second call does nothing.
    init = cuInit(flags: c_uint);
    /// The driver's CUDA version, 1000 × major + 10 × minor.
    driver_version = cuDriverGetVersion(version: *mut c_int);
    /// Number of devices visible to the process.
    device_count = cuDeviceGetCount(count: *mut c_int);
    /// Device of an ordinal.
    device_get = cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    /// Takes a reference on a device's primary context, creating it if need be.
    primary_retain = cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    /// Gives a reference on a device's primary context back.
    primary_release = cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    /// Flags of a device's primary context, and whether it exists.
    primary_state = cuDevicePrimaryCtxGetState(device: CUdevice, flags: *mut c_uint, active: *mut c_int);
    /// The calling thread's current context, or null.
    current_context = cuCtxGetCurrent(context: *mut CUcontext);
    /// Replaces the top of the calling thread's context stack.
    set_current_context = cuCtxSetCurrent(context: CUcontext);
    /// Pushes onto the calling thread's context stack.
    push_context = cuCtxPushCurrent_v2(context: CUcontext);
    /// Pops the calling thread's context stack.
    pop_context = cuCtxPopCurrent_v2(context: *mut CUcontext);
    /// Device of the calling thread's current context.
    current_device = cuCtxGetDevice(device: *mut CUdevice);
    /// Exchanges the calling thread's stream capture mode.
    exchange_capture_mode = cuThreadExchangeStreamCaptureMode(mode: *mut c_int);
    /// Whether a stream is being captured.
    stream_is_capturing = cuStreamIsCapturing(stream: CUstream, status: *mut c_int);
    /// Creates a stream in the current context.
    stream_create_with_priority = cuStreamCreateWithPriority(stream: *mut CUstream, flags: c_uint, priority: c_int);
    /// Least and greatest stream priority of the current context.
    stream_priority_range = cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int);
    /// Destroys a stream; its queued work still runs.
    stream_destroy = cuStreamDestroy_v2(stream: CUstream);
    /// Waits on the host until a stream has run dry.
    stream_synchronize = cuStreamSynchronize(stream: CUstream);
    /// Makes a stream's later work wait for an event.
    stream_wait_event = cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    /// Creates an event in the current context.
    event_create = cuEventCreate(event: *mut CUevent, flags: c_uint);
    /// Destroys an event.
    event_destroy = cuEventDestroy_v2(event: CUevent);
    /// Records what a stream holds now.
    event_record = cuEventRecord(event: CUevent, stream: CUstream);
    /// Whether the recorded work is done: `NOT_READY` if not.
    event_query = cuEventQuery(event: CUevent);
    /// Waits on the host until the recorded work is done.
    event_synchronize = cuEventSynchronize(event: CUevent);
    /// Registers host memory: pins it and makes it known to the driver.
    host_register = cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint);
    /// Undoes a registration.
    host_unregister = cuMemHostUnregister(address: *mut c_void);
    /// Several attributes of an address; unknown ones read as null.
    pointer_attributes = cuPointerGetAttributes(count: c_uint, attributes: *mut c_int, values: *mut *mut c_void, address: CUdeviceptr);
    /// Host to device on a stream.
    copy_to_device = cuMemcpyHtoDAsync_v2(dst: CUdeviceptr, src: *const c_void, bytes: usize, stream: CUstream);
    /// Device to host on a stream.
    copy_to_host = cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: CUdeviceptr, bytes: usize, stream: CUstream);
    /// Frees device memory.
    mem_free = cuMemFree_v2(address: CUdeviceptr);
}

driver_functions! {
    /// Addresses of the driver functions that freezing needs besides: memory that
    /// can leave while its addresses stay, kernels, and what a device is.
    MemoryDriver:
    /// Allocates device memory in the current context.
    alloc = cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
    /// Allocates rows of device memory in the current context.
    alloc_pitch = cuMemAllocPitch_v2(address: *mut CUdeviceptr, pitch: *mut usize, width: usize, height: usize, element: c_uint);
    /// Free and total memory of the current context's device, in bytes.
    info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    /// The allocation that an address lies in.
    address_range = cuMemGetAddressRange_v2(base: *mut CUdeviceptr, bytes: *mut usize, address: CUdeviceptr);
    /// Reserves addresses.
    reserve = cuMemAddressReserve(address: *mut CUdeviceptr, bytes: usize, alignment: usize, wish: CUdeviceptr, flags: u64);
    /// Gives reserved addresses back.
    unreserve = cuMemAddressFree(address: CUdeviceptr, bytes: usize);
    /// Makes physical memory, which reads as zero.
    create = cuMemCreate(handle: *mut CUmemGenericAllocationHandle, bytes: usize, properties: *const CUmemAllocationProp, flags: u64);
    /// Gives up a reference on physical memory.
    release = cuMemRelease(handle: CUmemGenericAllocationHandle);
    /// Takes one more reference on the physical memory mapped at an address.
    retain = cuMemRetainAllocationHandle(handle: *mut CUmemGenericAllocationHandle, address: *mut c_void);
    /// Maps physical memory at reserved addresses.
    map = cuMemMap(address: CUdeviceptr, bytes: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: u64);
    /// Unmaps whole mappings.
    unmap = cuMemUnmap(address: CUdeviceptr, bytes: usize);
    /// Says who may access mappings.
    set_access = cuMemSetAccess(address: CUdeviceptr, bytes: usize, accesses: *const CUmemAccessDesc, count: usize);
    /// Granularity of physical memory and mappings, in bytes.
    granularity = cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const CUmemAllocationProp, option: c_int);
    /// Waits on the host until all work of the current context is done.
    context_synchronize = cuCtxSynchronize();
    /// An attribute of a device.
    device_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: CUdevice);
    /// A device's name.
    device_name = cuDeviceGetName(name: *mut c_char, bytes: c_int, device: CUdevice);
    /// A device's identity, the same in every process and after a reboot.
    device_uuid = cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice);
    /// A device's memory in bytes.
    device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    /// Loads an image into the current context.
    module_load = cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    /// Unloads a module.
    module_unload = cuModuleUnload(module: CUmodule);
    /// A kernel of a module.
    module_function = cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    /// Puts a kernel on a stream.
    launch = cuLaunchKernel(function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint, shared_bytes: c_uint, stream: CUstream, parameters: *mut *mut c_void, extra: *mut *mut c_void);
}

driver_functions! {
    /// What drivers of CUDA 12.5 and later have for waiting with a time limit.
    DrainDriver:
    /// Records all that a context has been given so far, on whatever stream. A
    /// capture under way in the context is invalidated.
    record_context = cuCtxRecordEvent(context: CUcontext, event: CUevent);
}

driver_functions! {
    /// What drivers of CUDA 12.8 and later have for checkpoints of other processes.
    /// But for what initialises, they need no `cuInit`.
    CheckpointFunctions:
    /// Initialises the driver in this process; a second call does nothing.
    init = cuInit(flags: c_uint);
    /// The driver's CUDA version, 1000 × major + 10 × minor.
    driver_version = cuDriverGetVersion(version: *mut c_int);
    /// The state of a process.
    state = cuCheckpointProcessGetState(pid: c_int, state: *mut c_int);
    /// The thread of a process that must run while the others are stopped.
    restore_thread = cuCheckpointProcessGetRestoreThreadId(pid: c_int, thread: *mut c_int);
    /// Blocks the calls of a process and waits for its work.
    lock = cuCheckpointProcessLock(pid: c_int, arguments: *mut CUcheckpointLockArgs);
    /// Takes the device memory of a locked process to host memory.
    checkpoint = cuCheckpointProcessCheckpoint(pid: c_int, arguments: *mut CUcheckpointPlainArgs);
    /// Brings it back.
    restore = cuCheckpointProcessRestore(pid: c_int, arguments: *mut CUcheckpointRestoreArgs);
    /// Lets the calls of a locked process go on.
    unlock = cuCheckpointProcessUnlock(pid: c_int, arguments: *mut CUcheckpointPlainArgs);
    /// What a code means, in words.
    error_string = cuGetErrorString(code: CUresult, text: *mut *const c_char);
}
