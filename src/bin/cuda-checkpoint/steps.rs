//! The operations.

use super::arguments::{Action, Arguments, Operation};
use super::freezing::{self, FreezingError};
use rewarm::control::{Process, ProcessError};
use rewarm::driver::sys::CUresult;
use rewarm::driver::{CheckpointDriver, CheckpointError, CudaState, OpenError};

/// Why an operation was not carried out, as NVIDIA's words it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("Error initializing CUDA: {0}")]
    NoDriver(#[from] OpenError),
    #[error("Could not find process ID {pid}: {source}")]
    NoProcess { pid: u32, source: ProcessError },
    #[error("Could not {what} process ID {pid}: {source}")]
    Driver {
        what: &'static str,
        pid: u32,
        source: CheckpointError,
    },
    #[error("Could not {what} process ID {pid}: {source}")]
    Freezing {
        what: &'static str,
        pid: u32,
        source: FreezingError,
    },
    #[error("Could not toggle process ID {pid}: it is {state}")]
    Toggle { pid: u32, state: CudaState },
}

impl Failure {
    /// Where no better code is known.
    pub(crate) const UNKNOWN: u8 = exit_code(CUresult::UNKNOWN);

    const NOT_CUDA: u8 = 1;

    /// Whether it is certain that the process does not use CUDA.
    pub(crate) fn is_not_cuda(&self) -> bool {
        match self {
            Failure::NoProcess { .. } => true,
            Failure::Driver { source, .. } => matches!(source, CheckpointError::NotCuda { .. }),
            _ => false,
        }
    }

    /// What the command ends with.
    pub(crate) fn code(&self) -> u8 {
        if self.is_not_cuda() {
            return Failure::NOT_CUDA;
        }
        match self {
            Failure::NoDriver(OpenError::Absent(_)) => {
                exit_code(CUresult::SHARED_OBJECT_INIT_FAILED)
            }
            Failure::NoDriver(OpenError::Lacks(_)) => {
                exit_code(CUresult::SHARED_OBJECT_SYMBOL_NOT_FOUND)
            }
            Failure::Driver { source, .. } => source.code().map_or(Failure::UNKNOWN, exit_code),
            Failure::Toggle { .. } => exit_code(CUresult::ILLEGAL_STATE),
            Failure::NoProcess { .. } | Failure::Freezing { .. } => Failure::UNKNOWN,
        }
    }
}

/// As much of a code as fits, and neither success nor "not a CUDA process".
const fn exit_code(code: CUresult) -> u8 {
    match code.0 as u8 {
        0 | 1 => 255,
        fits => fits,
    }
}

/// Carries the operation out, and tells what is to be printed.
pub(crate) fn carry_out(arguments: &Arguments) -> Result<String, Failure> {
    let driver = CheckpointDriver::open()?;
    let process = Process::of_thread(arguments.pid).map_err(|source| Failure::NoProcess {
        pid: arguments.pid,
        source,
    })?;
    let target = Target {
        driver,
        process,
        arguments,
    };
    match arguments.operation {
        Operation::GetState => target.state().map(|state| format!("{state}\n")),
        Operation::GetRestoreTid => target.restore_thread().map(|thread| format!("{thread}\n")),
        Operation::Toggle => target.toggle().map(|()| String::new()),
        Operation::Act(action) => target.act(action).map(|()| String::new()),
    }
}

/// The process, and all that is needed for it.
struct Target<'a> {
    driver: CheckpointDriver,
    process: Process,
    arguments: &'a Arguments,
}

impl Target<'_> {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    fn driver_failed(&self, what: &'static str) -> impl FnOnce(CheckpointError) -> Failure {
        let pid = self.pid();
        move |source| Failure::Driver { what, pid, source }
    }

    fn freezing_failed(&self, what: &'static str) -> impl FnOnce(FreezingError) -> Failure {
        let pid = self.pid();
        move |source| Failure::Freezing { what, pid, source }
    }

    fn state(&self) -> Result<CudaState, Failure> {
        let state = self.driver.state(self.pid());
        state.map_err(self.driver_failed("get the state of"))
    }

    fn restore_thread(&self) -> Result<u32, Failure> {
        let thread = self.driver.restore_thread(self.pid());
        thread.map_err(self.driver_failed("find restore thread of"))
    }

    fn act(&self, action: Action) -> Result<(), Failure> {
        let failed = self.driver_failed(action.name());
        match action {
            Action::Lock => self.lock(),
            Action::Checkpoint => self.driver.checkpoint(self.pid()).map_err(failed),
            Action::Restore => {
                let devices = &self.arguments.devices;
                self.driver.restore(self.pid(), devices).map_err(failed)
            }
            Action::Unlock => self.unlock(),
        }
    }

    fn toggle(&self) -> Result<(), Failure> {
        match self.state()? {
            CudaState::Running => {
                self.lock()?;
                self.act(Action::Checkpoint).inspect_err(|_| {
                    // What went wrong first is what is told.
                    let _ = self.unlock();
                })
            }
            CudaState::Checkpointed => {
                self.act(Action::Restore)?;
                self.unlock()
            }
            state @ (CudaState::Locked | CudaState::Failed) => Err(Failure::Toggle {
                pid: self.pid(),
                state,
            }),
        }
    }

    /// Freezes first: behind the lock the process cannot.
    fn lock(&self) -> Result<(), Failure> {
        let timeout = self.arguments.timeout;
        let is_running = self.state()? == CudaState::Running;
        let frozen = match is_running {
            true => freezing::freeze(&self.process, timeout),
            false => Ok(None),
        };
        let frozen = frozen.map_err(self.freezing_failed("freeze"))?;
        let locked = self.driver.lock(self.pid(), timeout);
        if let (Err(_), Some(place)) = (&locked, frozen) {
            let undone = freezing::undo(&self.process, &place);
            undone.map_err(self.freezing_failed("lock or thaw"))?;
        }
        locked.map_err(self.driver_failed("lock"))
    }

    /// Thaws also what is running: a lock may have been killed before it locked.
    fn unlock(&self) -> Result<(), Failure> {
        let unlocked = self.driver.unlock(self.pid());
        let is_running = || matches!(self.driver.state(self.pid()), Ok(CudaState::Running));
        if unlocked.is_ok() || is_running() {
            let posted = freezing::post_thaw(&self.process);
            posted.map_err(self.freezing_failed("thaw"))?;
        }
        unlocked.map_err(self.driver_failed("unlock"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_fit_and_never_look_like_another_answer() {
        assert_eq!(exit_code(CUresult(304)), 48);
        assert_eq!(exit_code(CUresult(2)), 2);
        for code in [256, 257, 512, 1] {
            assert_eq!(exit_code(CUresult(code)), 255, "{code}");
        }
    }
}
