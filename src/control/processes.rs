//! Finding processes that listen, from their pid alone.

use super::client::PATIENCE;
use super::elsewhere::{Files, as_known_user};
use super::{Client, ControlError, socket};
use crate::config::{Settings, effective_uid, run_dirs_of};
use crate::proc::{descendants, parents, status_line};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{self, Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

/// In the maps of every process that uses CUDA under rewarm.
pub const CORE: &str = "/librewarm_core.so";

/// Why a process, or some process of a tree, cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No process has the pid.
    #[error("there is no process {pid}")]
    Gone {
        /// The pid.
        pid: u32,
    },
    /// Only its parent has not taken note yet.
    #[error("process {pid} has ended")]
    Ended {
        /// The pid.
        pid: u32,
    },
    /// It belongs to another user, who is not told to us.
    #[error("process {pid} belongs to user {uid}: ask as that user or as root")]
    Foreign {
        /// The process.
        pid: u32,
        /// Its user.
        uid: u32,
    },
    /// It does not listen, and what is in it cannot be seen.
    #[error("{0}; whether it runs under rewarm cannot be seen from here")]
    Hidden(ControlError),
    /// It has the core, and does not listen.
    #[error("{0}; it runs under rewarm, but could make no control socket (see its REWARM_LOG)")]
    NoSocket(ControlError),
    /// It has the front alone.
    #[error(
        "process {pid} runs under rewarm, but has not used CUDA yet (or REWARM_DISABLE=1 is set)"
    )]
    NotActive {
        /// The process.
        pid: u32,
    },
    /// It has nothing of rewarm in it.
    #[error("process {pid} runs without rewarm: start it with `rewarm run -- …` or LD_PRELOAD")]
    Plain {
        /// The process.
        pid: u32,
    },
    /// Nobody in a tree has the core.
    #[error(
        "neither process {pid} nor a descendant of it uses CUDA under rewarm: start it with `rewarm run --freezable -- …`"
    )]
    PlainTree {
        /// The root.
        pid: u32,
    },
    /// A folder was named as only a process of this container could.
    #[error(
        "the process sees other files than this command (it is in a container): name the folder by its absolute path there"
    )]
    RelativeFolder,
    /// There is no current folder.
    #[error("cannot find the current folder: {0}")]
    NoCurrentFolder(#[source] io::Error),
    /// The conversation failed.
    #[error(transparent)]
    Control(#[from] ControlError),
}

type Result<T, E = ProcessError> = std::result::Result<T, E>;

/// A process, by its pid as seen from here.
#[derive(Debug)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its folder in `/proc`.
    folder: PathBuf,
}

impl Process {
    /// Finds a process that has not ended.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(pid: u32) -> Result<Process> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        if !folder.exists() {
            return Err(ProcessError::Gone { pid });
        }
        let process = Process { pid, folder };
        if process.has_ended() {
            return Err(ProcessError::Ended { pid });
        }
        Ok(process)
    }

    /// Finds the process that a thread belongs to.
    ///
    /// # Errors
    /// As [`Process::find`].
    pub fn of_thread(tid: u32) -> Result<Process> {
        let process = Process::find(tid)?;
        let pid = status_line(tid, "Tgid:").and_then(|pid| pid.trim().parse().ok());
        match pid {
            Some(pid) if pid != tid => Process::find(pid),
            _ => Ok(process),
        }
    }

    /// Whether it is gone, but for its parent to take note.
    pub fn has_ended(&self) -> bool {
        match status_line(self.pid, "State:") {
            Some(state) => state.trim_start().starts_with(['Z', 'X']),
            None => true,
        }
    }

    /// Whether it has ended, or is just about to: its files are closed first.
    pub fn ends(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(1);
        const PAUSE: Duration = Duration::from_millis(10);
        let begun = Instant::now();
        while !self.has_ended() {
            if begun.elapsed() > PATIENCE {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }

    /// A folder as the process sees it, named from here.
    ///
    /// # Errors
    /// If only the process knows what a relative name means.
    pub fn folder_named(&self, folder: &Path) -> Result<PathBuf> {
        if self.is_elsewhere() && folder.is_relative() {
            return Err(ProcessError::RelativeFolder);
        }
        path::absolute(folder).map_err(ProcessError::NoCurrentFolder)
    }

    /// Whether there is something under a name, as the process sees it.
    pub fn has(&self, path: &Path) -> bool {
        let reached = self.files().and_then(|files| files.reach(path));
        reached.is_ok_and(|reached| reached.path().symlink_metadata().is_ok())
    }

    /// What somebody should know whose folder could not be written to.
    pub fn who_writes(&self) -> String {
        match (self.is_elsewhere(), self.foreign_owner()) {
            (true, _) => " (the process writes it itself, in its container)".into(),
            (false, Some(uid)) => format!(" (the process writes it itself, as user {uid})"),
            (false, None) => String::new(),
        }
    }

    /// Connects to it. Works while the process is stopped.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn connect(&self) -> Result<Client> {
        self.try_connect().map_err(|error| match error {
            ControlError::NotListening { .. } => self.why_silent(error),
            error => self.why_not(error),
        })
    }

    /// This process and its descendants, those that use CUDA under rewarm, by pid.
    ///
    /// # Errors
    /// If one of them does but cannot be asked, or none does.
    pub fn tree(self) -> Result<Vec<Process>> {
        let pid = self.pid;
        let mut found = Vec::new();
        for pid in descendants(pid, &parents()) {
            // One may end at any time.
            let Ok(process) = Process::find(pid) else {
                continue;
            };
            match process.try_connect() {
                Ok(_) => found.push(process),
                Err(error @ ControlError::NotListening { .. }) => {
                    if process.maps().is_ok_and(|maps| maps.contains(CORE)) {
                        return Err(process.why_silent(error));
                    }
                }
                Err(error) => return Err(process.why_not(error)),
            }
        }
        if found.is_empty() {
            return Err(ProcessError::PlainTree { pid });
        }
        Ok(found)
    }

    fn try_connect(&self) -> Result<Client, ControlError> {
        let own_pid = self.own_pid().unwrap_or(self.pid);
        let absent = |folders| ControlError::NotListening {
            pid: own_pid,
            folders,
        };
        let files = self.files().map_err(|_| absent(Vec::new()))?;
        let folders = self.run_dirs(&files);
        let client = Client::connect_by(&folders, own_pid, |path| {
            let reached = files.reach(path)?;
            as_known_user(&self.folder, self.uid(), || {
                socket::connect(reached.path(), PATIENCE)
            })
        })?;
        // Links in its folders may lead to sockets of others: what root asks of one
        // user's process must not be done to another's.
        if client.peer_pid().ok() != Some(self.pid) {
            return Err(absent(folders));
        }
        Ok(client)
    }

    /// What its names of files mean.
    fn files(&self) -> io::Result<Files> {
        match self.is_elsewhere() {
            true => Files::elsewhere(&self.folder),
            false => Ok(Files::Here),
        }
    }

    /// Where the process would listen, by the names that it has for that.
    fn run_dirs(&self, files: &Files) -> Vec<PathBuf> {
        let mut folders = match self.variable("REWARM_RUN_DIR") {
            Some(folder) => vec![PathBuf::from(folder)],
            None => run_dirs_of(self.uid(), self.variable("XDG_RUNTIME_DIR").as_deref()),
        };
        folders.extend(match files {
            Files::Here => Settings::from_env().0.run_dirs,
            // Its user may well be another there.
            Files::Elsewhere(_) => run_dirs_of(0, None),
        });
        folders.extend(self.folders_of_listeners());
        let mut seen = Vec::new();
        folders.retain(|folder| {
            let fresh = !seen.contains(folder) && self.is_trusted(files, folder);
            seen.push(folder.clone());
            fresh
        });
        folders
    }

    /// Where somebody listens under its pid. Its environment cannot always be read:
    /// not while a page server fills the process.
    fn folders_of_listeners(&self) -> Vec<PathBuf> {
        /// `__SO_ACCEPTCON` of Linux, as `/proc/net/unix` prints it.
        const LISTENING: &str = "00010000";
        let name = format!("/{}.sock", self.own_pid().unwrap_or(self.pid));
        let sockets = fs::read_to_string(self.folder.join("net/unix")).unwrap_or_default();
        let folder = |line: &str| {
            let mut fields = line.split_whitespace();
            let is_listening = fields.nth(3)? == LISTENING;
            let path = fields.nth(3)?.strip_suffix(&name)?;
            let is_absolute = path.starts_with('/');
            (is_listening && is_absolute).then(|| PathBuf::from(path))
        };
        sockets.lines().filter_map(folder).collect()
    }

    /// Whether nobody could answer there in place of the process but its user, or ours.
    fn is_trusted(&self, files: &Files, folder: &Path) -> bool {
        files.owner(folder).map_or(true, |owner| {
            owner == self.uid() || owner == effective_uid()
        })
    }

    /// Whether it sees other files than this process: it is in a container.
    pub fn is_elsewhere(&self) -> bool {
        let differs = |name: &str| {
            let link = |process: &Path| fs::read_link(process.join(name)).ok();
            let (its, own) = (link(&self.folder), link(Path::new("/proc/self")));
            its.is_some() && its != own
        };
        differs("ns/mnt") || differs("root")
    }

    /// Its pid as it sees it itself.
    pub fn own_pid(&self) -> Option<u32> {
        let pids = status_line(self.pid, "NSpid:")?;
        pids.split_whitespace().last()?.parse().ok()
    }

    /// A variable of the environment that it was started with, if that can be read.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let environment = fs::read(self.folder.join("environ")).ok()?;
        let value = environment
            .split(|&byte| byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        (!value.is_empty()).then(|| OsString::from_vec(value.to_vec()))
    }

    /// Its effective user.
    pub fn uid(&self) -> u32 {
        uid_of(self.pid)
    }

    /// The user it belongs to, if that is not ours.
    pub fn foreign_owner(&self) -> Option<u32> {
        Some(self.uid()).filter(|uid| *uid != effective_uid())
    }

    /// The user it belongs to, if that is not ours and we may not ask.
    fn closed_owner(&self) -> Option<u32> {
        self.foreign_owner().filter(|_| effective_uid() != 0)
    }

    fn why_not(&self, error: ControlError) -> ProcessError {
        match self.closed_owner() {
            Some(uid) => ProcessError::Foreign { pid: self.pid, uid },
            None => error.into(),
        }
    }

    fn maps(&self) -> io::Result<String> {
        fs::read_to_string(self.folder.join("maps"))
    }

    fn why_silent(&self, error: ControlError) -> ProcessError {
        let pid = self.pid;
        if let Some(uid) = self.closed_owner() {
            return ProcessError::Foreign { pid, uid };
        }
        match self.maps() {
            Err(_) => ProcessError::Hidden(error),
            Ok(maps) if maps.contains(CORE) => ProcessError::NoSocket(error),
            Ok(maps) if maps.contains("/librewarm.so") => ProcessError::NotActive { pid },
            Ok(_) => ProcessError::Plain { pid },
        }
    }
}

/// Who owns `/proc/PID` does not tell: that is root, where a process is protected.
fn uid_of(pid: u32) -> u32 {
    let users = status_line(pid, "Uid:").unwrap_or_default();
    let effective = users.split_whitespace().nth(1);
    effective.and_then(|uid| uid.parse().ok()).unwrap_or(0)
}
