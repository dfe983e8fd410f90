//! Checkpoints of other processes by the driver: their device memory goes to host
//! memory of theirs, and what they hold of the GPU is given up. "CUDA driver API,
//! Checkpointing" is the source.
//!
//! The driver speaks with a thread of the process itself, the restore thread, which
//! therefore has to run; all others may be stopped.

use super::sys::*;
use super::{CheckpointFunctions, CudaError, Library, LookupError, NoLibrary, Result};
use parking_lot::Mutex;
use std::ffi::CStr;
use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::ptr::null_mut;
use std::time::Duration;

/// Identity of a GPU.
pub type Uuid = CUuuid;

/// Where a process is on its way out of the GPU and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaState {
    /// It uses the GPU.
    Running,
    /// Its calls wait, all its work is done.
    Locked,
    /// Its device memory is in host memory.
    Checkpointed,
    /// It cannot go on.
    Failed,
}

impl Display for CudaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CudaState::Running => "running",
            CudaState::Locked => "locked",
            CudaState::Checkpointed => "checkpointed",
            CudaState::Failed => "failed",
        })
    }
}

/// Why there is no driver to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No library.
    #[error(transparent)]
    Absent(#[from] NoLibrary),
    /// A library of long ago.
    #[error("{0}: it takes a driver of CUDA 12.8 (release 570) or later")]
    Lacks(#[from] LookupError),
}

/// What a process, or the driver, answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The process does not use CUDA, and the driver can be reached.
    #[error("process {pid} does not use CUDA")]
    NotCuda {
        /// Which process.
        pid: u32,
    },
    /// The driver does not start in this process, so that nothing is known.
    #[error("the CUDA driver cannot be reached: {text} ({error})")]
    Unreachable {
        /// What was called.
        error: CudaError,
        /// What its code means.
        text: String,
    },
    /// A call failed.
    #[error("process {pid}: {text} ({error})")]
    Call {
        /// On which process.
        pid: u32,
        /// What was called.
        error: CudaError,
        /// What its code means.
        text: String,
    },
    /// The driver told a state that this rewarm does not know.
    #[error("process {pid} is in a state that is not known here: {state}")]
    UnknownState {
        /// Which process.
        pid: u32,
        /// What the driver said.
        state: i32,
    },
}

impl CheckpointError {
    /// The driver's code, if a call failed.
    pub fn code(&self) -> Option<CUresult> {
        match self {
            CheckpointError::Unreachable { error, .. } | CheckpointError::Call { error, .. } => {
                Some(error.code)
            }
            CheckpointError::NotCuda { .. } | CheckpointError::UnknownState { .. } => None,
        }
    }
}

/// The driver's codes for a process that has no restore thread, thus does not use
/// CUDA. A driver that cannot start may answer the same.
const NO_RESTORE_THREAD: [CUresult; 2] = [CUresult::NOT_INITIALIZED, CUresult::INVALID_VALUE];

/// The driver, as far as checkpoints go. It is opened once in a process; calls on
/// different processes may run on different threads.
pub struct CheckpointDriver {
    driver: CheckpointFunctions,
    version: u32,
    attached: Mutex<bool>,
}

impl CheckpointDriver {
    /// Opens the driver library. Does not start the driver.
    ///
    /// # Errors
    /// If there is none, or it is too old.
    pub fn open() -> Result<CheckpointDriver, OpenError> {
        let library = Library::open()?;
        // SAFETY: the library stays open, and exports the driver's functions.
        let driver = unsafe { CheckpointFunctions::load(|name| library.symbol(name))? };
        let mut version = 0;
        // SAFETY: an out-pointer to a local.
        let known = unsafe { driver.driver_version(&mut version) };
        Ok(CheckpointDriver {
            driver,
            version: known.map_or(0, |()| version.unsigned_abs()),
            attached: Mutex::new(false),
        })
    }

    /// The driver's CUDA version, 1000 × major + 10 × minor; 0 if it does not tell.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Starts the driver in this process, which takes from 0.1 s to seconds; a
    /// second call does nothing. [`CheckpointDriver::restore`] needs it and does it
    /// itself: whoever has time before that calls it ahead.
    ///
    /// # Errors
    /// If it does not start.
    pub fn attach(&self) -> Result<(), CheckpointError> {
        let mut attached = self.attached.lock();
        if !*attached {
            // SAFETY: no pointers.
            unsafe { self.driver.init(0) }.map_err(|error| CheckpointError::Unreachable {
                text: self.meaning(error.code),
                error,
            })?;
            *attached = true;
        }
        Ok(())
    }

    /// The state of a process.
    ///
    /// # Errors
    /// [`CheckpointError::NotCuda`], or that nothing is known.
    pub fn state(&self, pid: u32) -> Result<CudaState, CheckpointError> {
        let mut state = 0;
        // SAFETY: an out-pointer to a local.
        self.told(pid, unsafe { self.driver.state(raw(pid), &mut state) })?;
        match state {
            CU_PROCESS_STATE_RUNNING => Ok(CudaState::Running),
            CU_PROCESS_STATE_LOCKED => Ok(CudaState::Locked),
            CU_PROCESS_STATE_CHECKPOINTED => Ok(CudaState::Checkpointed),
            CU_PROCESS_STATE_FAILED => Ok(CudaState::Failed),
            state => Err(CheckpointError::UnknownState { pid, state }),
        }
    }

    /// The thread that must run while the others are stopped, as seen from here.
    ///
    /// # Errors
    /// As [`CheckpointDriver::state`].
    pub fn restore_thread(&self, pid: u32) -> Result<u32, CheckpointError> {
        let mut thread = 0;
        // SAFETY: an out-pointer to a local.
        self.told(pid, unsafe {
            self.driver.restore_thread(raw(pid), &mut thread)
        })?;
        match u32::try_from(thread) {
            Ok(thread) if thread > 0 => Ok(thread),
            _ => Err(CheckpointError::Call {
                pid,
                error: CudaError {
                    call: "cuCheckpointProcessGetRestoreThreadId",
                    code: CUresult::UNKNOWN,
                },
                text: format!("it told thread {thread}"),
            }),
        }
    }

    /// Blocks the calls of a running process and waits until its work is done, for
    /// at most a time; zero: for ever. Rounded up to milliseconds.
    ///
    /// # Errors
    /// The process then goes on as before.
    pub fn lock(&self, pid: u32, timeout: Duration) -> Result<(), CheckpointError> {
        let milliseconds = timeout.as_micros().div_ceil(1000);
        let mut arguments = CUcheckpointLockArgs {
            timeout_ms: c_uint::try_from(milliseconds).unwrap_or(c_uint::MAX),
            ..CUcheckpointLockArgs::default()
        };
        // SAFETY: the structure that the call takes.
        self.told(pid, unsafe { self.driver.lock(raw(pid), &mut arguments) })
    }

    /// Takes the device memory of a locked process to host memory of its own.
    ///
    /// # Errors
    /// What the driver says; [`CheckpointDriver::state`] tells what holds.
    pub fn checkpoint(&self, pid: u32) -> Result<(), CheckpointError> {
        let mut nothing = CUcheckpointPlainArgs::default();
        // SAFETY: the structure that the call takes.
        self.told(pid, unsafe {
            self.driver.checkpoint(raw(pid), &mut nothing)
        })
    }

    /// Brings the device memory of a checkpointed process back, and leaves it
    /// locked. The pairs say which GPU takes the place of which, for drivers of
    /// CUDA 13 or later; without any each stays where it was.
    ///
    /// # Errors
    /// What the driver says. After [`CUresult::OUT_OF_MEMORY`] drivers up to 580
    /// cannot restore the process any more.
    pub fn restore(&self, pid: u32, devices: &[(Uuid, Uuid)]) -> Result<(), CheckpointError> {
        self.attach()?;
        let pair =
            |&(old_uuid, new_uuid): &(Uuid, Uuid)| CUcheckpointGpuPair { old_uuid, new_uuid };
        let mut pairs: Vec<_> = devices.iter().map(pair).collect();
        let mut arguments = CUcheckpointRestoreArgs {
            gpu_pairs: match pairs.is_empty() {
                true => null_mut(),
                false => pairs.as_mut_ptr(),
            },
            gpu_pairs_count: pairs.len() as c_uint,
            reserved: [0; 44],
            reserved1: 0,
        };
        // SAFETY: the structure that the call takes, and pairs that outlive it.
        self.told(pid, unsafe {
            self.driver.restore(raw(pid), &mut arguments)
        })
    }

    /// Lets the calls of a locked process go on.
    ///
    /// # Errors
    /// What the driver says; [`CheckpointDriver::state`] tells what holds.
    pub fn unlock(&self, pid: u32) -> Result<(), CheckpointError> {
        let mut nothing = CUcheckpointPlainArgs::default();
        // SAFETY: the structure that the call takes.
        self.told(pid, unsafe { self.driver.unlock(raw(pid), &mut nothing) })
    }

    /// What an answer means.
    fn told(&self, pid: u32, answer: Result<()>) -> Result<(), CheckpointError> {
        let Err(error) = answer else { return Ok(()) };
        if !NO_RESTORE_THREAD.contains(&error.code) || self.has_restore_thread(pid) {
            let mut text = self.meaning(error.code);
            if error.code == CUresult::OPERATING_SYSTEM {
                text += belongs_to_another(pid);
            }
            return Err(CheckpointError::Call { pid, error, text });
        }
        if may_use_cuda(pid) {
            self.attach()?;
        }
        Err(CheckpointError::NotCuda { pid })
    }

    fn has_restore_thread(&self, pid: u32) -> bool {
        let mut thread = 0;
        // SAFETY: an out-pointer to a local.
        unsafe { self.driver.restore_thread(raw(pid), &mut thread) }.is_ok()
    }

    /// The driver's words for a code.
    fn meaning(&self, code: CUresult) -> String {
        let mut text = std::ptr::null();
        // SAFETY: an out-pointer to a local.
        let known = unsafe { self.driver.error_string(code, &mut text) };
        if known.is_err() || text.is_null() {
            return "unknown error".to_owned();
        }
        // SAFETY: a string that the driver keeps.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    }
}

/// As the driver takes it. It knows no process of a negative pid.
fn raw(pid: u32) -> c_int {
    c_int::try_from(pid).unwrap_or(-1)
}

/// What to do where the driver may not speak with a process.
fn belongs_to_another(pid: u32) -> &'static str {
    let is_own = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    match is_own {
        true => "",
        false => ": it belongs to another user, or is gone; ask as its user or as root",
    }
}

/// Whether a process has a driver library in it, or that cannot be seen. Without one
/// it does not use CUDA. It can have one and never start it.
pub fn may_use_cuda(pid: u32) -> bool {
    /// Of `libcuda.so.580.65.06` and of the software driver, as links are followed.
    const NAME: &[u8] = b"cuda.so";
    match fs::read(format!("/proc/{pid}/maps")) {
        Ok(maps) => maps.windows(NAME.len()).any(|part| part == NAME),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}
