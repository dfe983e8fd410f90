//! The driver and its devices, as seen from a process that uses none of them.

use super::sys::{CUdevice, CUuuid, c_char, c_int};
use super::{CudaError, Driver, Library, LookupError, MemoryDriver, NoLibrary, Result};
use core::ffi::CStr;

/// Longest name of a device, with its zero.
const LONGEST_NAME: usize = 256;

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// The driver's CUDA version, 1000 × major + 10 × minor.
    pub driver_version: u32,
    /// By ordinal.
    pub devices: Vec<DeviceFacts>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// As `cuDeviceGetName` has it.
    pub name: String,
    /// As `cuDeviceGetUuid` has it, the first byte highest.
    pub uuid: u128,
    /// Its memory, in bytes.
    pub bytes: u64,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// There is no library to ask.
    #[error(transparent)]
    Absent(#[from] NoLibrary),
    /// The library is too old.
    #[error(transparent)]
    Lacks(#[from] LookupError),
    /// The driver does not answer.
    #[error("the driver does not start: {0}; look at nvidia-smi")]
    Start(#[from] CudaError),
}

impl Devices {
    /// Initialises the driver in this process and asks it. No context is made.
    ///
    /// # Errors
    /// If there is no driver, or it does not start.
    pub fn look() -> Result<Devices, DevicesError> {
        let library = Library::open()?;
        let find = |name: &'static CStr| library.symbol(name);
        // SAFETY: the library exports the driver's functions, and stays open.
        let (driver, memory) = unsafe { (Driver::load(find)?, MemoryDriver::load(find)?) };
        let (mut version, mut count) = (0, 0);
        // SAFETY: out-pointers to locals.
        unsafe {
            driver.init(0)?;
            driver.driver_version(&mut version)?;
            driver.device_count(&mut count)?;
        }
        let devices = (0..count).map(|ordinal| look_at(&driver, &memory, ordinal));
        Ok(Devices {
            driver_version: version as u32,
            devices: devices.collect::<Result<_>>()?,
        })
    }
}

fn look_at(driver: &Driver, memory: &MemoryDriver, ordinal: c_int) -> Result<DeviceFacts> {
    let mut device: CUdevice = 0;
    let mut name = [0u8; LONGEST_NAME];
    let mut uuid = CUuuid::default();
    let mut bytes = 0;
    // SAFETY: out-pointers to locals, the name's with its length.
    unsafe {
        driver.device_get(&mut device, ordinal)?;
        memory.device_name(
            name.as_mut_ptr().cast::<c_char>(),
            LONGEST_NAME as c_int,
            device,
        )?;
        memory.device_uuid(&mut uuid, device)?;
        memory.device_memory(&mut bytes, device)?;
    }
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    Ok(DeviceFacts {
        name: name.to_string_lossy().into_owned(),
        uuid: u128::from_be_bytes(uuid.bytes),
        bytes: bytes as u64,
    })
}
