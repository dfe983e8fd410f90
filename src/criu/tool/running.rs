//! A running CRIU.

use super::CriuError;
use super::error::Said;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{fs::File, thread};

/// How often it is looked after.
const PAUSE: Duration = Duration::from_millis(2);

/// How long it has to end by itself when it is asked to.
const GRACE: Duration = Duration::from_secs(2);

/// The end of a log that is read, in bytes.
const LOG_BYTES: u64 = 256 << 10;

/// CRIU at work. Killed when it is dropped before it has ended.
#[derive(Debug)]
pub struct Running {
    child: Child,
    doing: &'static str,
    log: PathBuf,
    end: Option<ExitStatus>,
}

impl Running {
    pub(super) fn start(
        mut command: Command,
        program: &Path,
        doing: &'static str,
        log: PathBuf,
        descriptors: &[RawFd],
    ) -> Result<Running, CriuError> {
        let descriptors = descriptors.to_owned();
        // SAFETY: system calls alone, after the fork; the list was made before it.
        unsafe {
            command.pre_exec(move || {
                libc::setsid();
                for descriptor in &descriptors {
                    if libc::fcntl(*descriptor, libc::F_SETFD, 0) != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn();
        let child = child.map_err(|error| CriuError::start(program, error))?;
        Ok(Running {
            child,
            doing,
            log,
            end: None,
        })
    }

    /// Its pid, which is also its session's and process group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        if self.end.is_none() {
            self.end = self.child.try_wait().ok().flatten();
        }
        self.end
    }

    /// Waits until it has done its work. At `stop`, or when the time is over, it is
    /// killed. `meanwhile` is called again and again; the time that takes is not
    /// counted, as CRIU may be waiting for it.
    ///
    /// # Errors
    /// If it fails, with the end of its log, or is killed.
    pub fn wait(
        &mut self,
        limit: Duration,
        stop: &AtomicBool,
        mut meanwhile: impl FnMut(),
    ) -> Result<(), CriuError> {
        let mut begun = Instant::now();
        let doing = self.doing;
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            if stop.load(Relaxed) {
                self.kill();
                return Err(CriuError::Stopped { doing });
            }
            if begun.elapsed() > limit {
                self.kill();
                return Err(CriuError::Late {
                    doing,
                    seconds: limit.as_secs(),
                    said: self.said(),
                });
            }
            let time = Instant::now();
            meanwhile();
            begun += time.elapsed();
            thread::sleep(PAUSE);
        };
        if status.success() {
            return Ok(());
        }
        Err(CriuError::Failed {
            doing,
            status,
            said: self.said(),
        })
    }

    /// Ends it and all that it has started, and waits until it has ended.
    pub fn kill(&mut self) {
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let begun = Instant::now();
            while self.ended().is_none() && begun.elapsed() < GRACE {
                // SAFETY: no pointers; our child, not yet waited for, leads the group.
                unsafe { libc::kill(-(self.child.id() as i32), signal) };
                thread::sleep(PAUSE);
            }
        }
        if self.end.is_none() {
            self.end = self.child.wait().ok();
        }
    }

    /// What its log says.
    pub fn said(&self) -> Said {
        Said::of(&tail(&self.log).unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(LOG_BYTES)))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// What a command prints that answers at once.
pub(super) fn answer(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it does not answer for {} s", limit.as_secs()),
            ));
        }
        thread::sleep(PAUSE);
    }
    child.wait_with_output()
}
