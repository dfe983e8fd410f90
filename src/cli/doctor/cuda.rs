//! The driver library, opened for a look at the machine.

use rewarm::driver::sys::{CUdevice, CUdeviceptr, CUresult, c_char, c_int, c_void};
use rewarm::driver::{Driver, LookupError, Result, check};
use std::ffi::CStr;
use std::mem::{MaybeUninit, transmute};
use std::path::PathBuf;
use std::ptr::NonNull;

type NameFn = unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> CUresult;
type MemoryFn = unsafe extern "C" fn(*mut usize, CUdevice) -> CUresult;
type AllocateFn = unsafe extern "C" fn(*mut CUdeviceptr, usize) -> CUresult;
type CopyFn = unsafe extern "C" fn(CUdeviceptr, *const c_void, usize) -> CUresult;

/// Functions that only the doctor needs.
struct Extra {
    name: NameFn,
    total_memory: MemoryFn,
    allocate: AllocateFn,
    copy: CopyFn,
}

/// The driver, open as long as this process runs.
pub(super) struct Cuda {
    pub(super) driver: Driver,
    extra: Extra,
    handle: NonNull<c_void>,
}

/// Why the driver cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("there is no CUDA driver: {0}")]
    Absent(String),
    #[error(transparent)]
    Lacks(#[from] LookupError),
}

impl Cuda {
    pub(super) fn open() -> Result<Cuda, OpenError> {
        // SAFETY: the driver's constructors are made to run in any process.
        let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        let handle = NonNull::new(handle).ok_or_else(|| OpenError::Absent(last_error()))?;
        // SAFETY: the library stays open, and exports the driver's functions.
        let driver = unsafe { Driver::load(|name| symbol(handle, name))? };
        Ok(Cuda {
            driver,
            extra: Extra::load(handle)?,
            handle,
        })
    }

    /// The library's file.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: filled by the call; an unknown address returns 0.
        let known =
            unsafe { libc::dladdr(symbol(self.handle, c"cuInit"), found.as_mut_ptr()) } != 0;
        // SAFETY: valid when zeroed, and filled since.
        let name = unsafe { found.assume_init() }.dli_fname;
        if !known || name.is_null() {
            return None;
        }
        // SAFETY: a string of the dynamic linker, which keeps it.
        let name = unsafe { CStr::from_ptr(name) };
        let path = PathBuf::from(name.to_string_lossy().into_owned());
        Some(path.canonicalize().unwrap_or(path))
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
    fn load(library: NonNull<c_void>) -> Result<Extra, LookupError> {
        let find = |name: &'static CStr| {
            NonNull::new(symbol(library, name))
                .ok_or(LookupError(name.to_str().unwrap_or("a function")))
        };
        type Address = NonNull<c_void>;
        // SAFETY: the driver's functions of these names have these signatures.
        unsafe {
            Ok(Extra {
                name: transmute::<Address, NameFn>(find(c"cuDeviceGetName")?),
                total_memory: transmute::<Address, MemoryFn>(find(c"cuDeviceTotalMem_v2")?),
                allocate: transmute::<Address, AllocateFn>(find(c"cuMemAlloc_v2")?),
                copy: transmute::<Address, CopyFn>(find(c"cuMemcpyHtoD_v2")?),
            })
        }
    }
}

fn symbol(library: NonNull<c_void>, name: &CStr) -> *mut c_void {
    // SAFETY: an open library and a string.
    unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) }
}

fn last_error() -> String {
    // SAFETY: returns a string that holds until the next call, or null.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "unknown error".to_owned();
    }
    // SAFETY: as above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
