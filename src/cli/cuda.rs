//! The driver library, opened for commands that use a GPU themselves.

use rewarm::driver::sys::{CUcontext, CUdevice, CUdeviceptr, CUresult, c_char, c_int, c_void};
use rewarm::driver::{
    CudaError, Driver, Library, LookupError, MemoryDriver, NoLibrary, Result, check,
};
use std::ffi::CStr;
use std::mem::transmute;
use std::path::PathBuf;
use std::ptr::{NonNull, null_mut};

type NameFn = unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> CUresult;
type MemoryFn = unsafe extern "C" fn(*mut usize, CUdevice) -> CUresult;
type AllocateFn = unsafe extern "C" fn(*mut CUdeviceptr, usize) -> CUresult;
type FreeFn = unsafe extern "C" fn(*mut usize, *mut usize) -> CUresult;
type CopyFn = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize) -> CUresult;

/// Functions that only the command line needs.
struct Extra {
    name: NameFn,
    total_memory: MemoryFn,
    allocate: AllocateFn,
    free_memory: FreeFn,
    copy: CopyFn,
}

/// The driver, open as long as this process runs.
pub(super) struct Cuda {
    pub(super) driver: Driver,
    extra: Extra,
    library: Library,
}

/// Why there is no driver to work with.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoDriver {
    #[error(transparent)]
    Absent(#[from] NoLibrary),
    #[error(transparent)]
    Lacks(#[from] LookupError),
    #[error("the driver does not start: {0}")]
    Start(#[from] CudaError),
}

impl NoDriver {
    pub(super) fn advice(&self) -> &'static str {
        match self {
            NoDriver::Absent(_) => {
                "Install the NVIDIA driver; in a container, start it with --device nvidia.com/gpu=all or --gpus all. To try rewarm without a GPU use rewarm run --sim"
            }
            NoDriver::Lacks(_) => "Install a newer NVIDIA driver",
            NoDriver::Start(CudaError { code, .. }) if *code == CUresult::NO_DEVICE => {
                "No GPU is visible: look at nvidia-smi, CUDA_VISIBLE_DEVICES and the container's devices"
            }
            NoDriver::Start(_) => {
                "Look at nvidia-smi; after an update of the driver, restart the machine"
            }
        }
    }
}

impl Cuda {
    /// Opens the library and initialises the driver.
    pub(super) fn start() -> Result<Cuda, NoDriver> {
        let cuda = Cuda::open()?;
        // SAFETY: no pointers.
        unsafe { cuda.driver.init(0)? };
        Ok(cuda)
    }

    fn open() -> Result<Cuda, NoDriver> {
        let library = Library::open()?;
        // SAFETY: the library stays open, and exports the driver's functions.
        let driver = unsafe { Driver::load(|name| library.symbol(name))? };
        Ok(Cuda {
            driver,
            extra: Extra::load(library)?,
            library,
        })
    }

    /// The first function that freezing needs and this driver does not have.
    pub(super) fn lacks_for_freezing(&self) -> Option<&'static str> {
        // SAFETY: as in `open`; the table is not used.
        let found = unsafe { MemoryDriver::load(|name| self.library.symbol(name)) };
        found.err().map(|LookupError(name)| name)
    }

    /// The library's file.
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.library.path()
    }

    /// Number of devices.
    pub(super) fn devices(&self) -> Result<c_int> {
        let mut count = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.driver.device_count(&mut count)? };
        Ok(count)
    }

    /// The device of an ordinal.
    pub(super) fn device(&self, ordinal: c_int) -> Result<CUdevice> {
        let mut device = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.driver.device_get(&mut device, ordinal)? };
        Ok(device)
    }

    pub(super) fn name(&self, device: CUdevice) -> Result<String> {
        let mut name = [0u8; 256];
        // SAFETY: a buffer of the length given, which the driver terminates.
        check("cuDeviceGetName", unsafe {
            (self.extra.name)(name.as_mut_ptr().cast(), name.len() as c_int, device)
        })?;
        let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    pub(super) fn total_memory(&self, device: CUdevice) -> Result<u64> {
        let mut bytes = 0;
        // SAFETY: an out-pointer to a local.
        check("cuDeviceTotalMem", unsafe {
            (self.extra.total_memory)(&mut bytes, device)
        })?;
        Ok(bytes as u64)
    }

    /// Device memory in the current context.
    pub(super) fn allocate(&self, bytes: usize) -> Result<CUdeviceptr> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local.
        check("cuMemAlloc", unsafe {
            (self.extra.allocate)(&mut address, bytes)
        })?;
        Ok(address)
    }

    /// Bytes of device memory that are free for the current context.
    pub(super) fn free_memory(&self) -> Result<u64> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: out-pointers to locals.
        check("cuMemGetInfo", unsafe {
            (self.extra.free_memory)(&mut free, &mut total)
        })?;
        Ok(free as u64)
    }

    /// The plain synchronous copy to the device, as applications call it.
    ///
    /// # Safety
    /// `to` must have room for `from`, in the current context.
    pub(super) unsafe fn copy(&self, to: CUdeviceptr, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise, and a valid slice.
        check("cuMemcpyHtoD", unsafe {
            (self.extra.copy)(to, from.as_ptr().cast(), from.len())
        })
    }
}

impl Extra {
    fn load(library: Library) -> Result<Extra, LookupError> {
        let find = |name: &'static CStr| {
            NonNull::new(library.symbol(name).cast_mut())
                .ok_or(LookupError(name.to_str().unwrap_or("a function")))
        };
        type Address = NonNull<c_void>;
        // SAFETY: the driver's functions of these names have these signatures.
        unsafe {
            Ok(Extra {
                name: transmute::<Address, NameFn>(find(c"cuDeviceGetName")?),
                total_memory: transmute::<Address, MemoryFn>(find(c"cuDeviceTotalMem_v2")?),
                allocate: transmute::<Address, AllocateFn>(find(c"cuMemAlloc_v2")?),
                free_memory: transmute::<Address, FreeFn>(find(c"cuMemGetInfo_v2")?),
                copy: transmute::<Address, CopyFn>(find(c"cuMemcpyHtoD_v2")?),
            })
        }
    }
}

/// A device's primary context, current in this thread.
pub(super) struct Primary<'a> {
    pub(super) cuda: &'a Cuda,
    device: CUdevice,
}

impl Primary<'_> {
    pub(super) fn retain(cuda: &Cuda, device: CUdevice) -> Result<Primary<'_>> {
        let mut context: CUcontext = null_mut();
        // SAFETY: an out-pointer to a local, then the context just retained.
        unsafe {
            cuda.driver.primary_retain(&mut context, device)?;
            let primary = Primary { cuda, device };
            cuda.driver.set_current_context(context)?;
            Ok(primary)
        }
    }
}

impl Drop for Primary<'_> {
    fn drop(&mut self) {
        // SAFETY: retained by us; nothing of this context is used any more.
        let _ = unsafe {
            self.cuda
                .driver
                .set_current_context(null_mut())
                .and_then(|()| self.cuda.driver.primary_release(self.device))
        };
    }
}
