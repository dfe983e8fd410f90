//! The program `criu`.
//!
//! It runs in a session of its own, so that Ctrl-C at the terminal does not reach it,
//! with an empty folder of plugins, so that none of its own drives the GPU meanwhile,
//! and never longer than it is given.

mod error;
mod running;
mod version;

pub use error::CriuError;
pub use running::Running;
pub use version::Version;

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

/// Names the program, where it is not the one on the path.
pub const VARIABLE: &str = "REWARM_CRIU";

/// What works with images of today's kernels.
const OLDEST: Version = Version(4, 0, 0);

/// How long it may take to say something about itself.
const ASKED: Duration = Duration::from_secs(20);

/// A CRIU that is new enough.
#[derive(Clone, Debug)]
pub struct Criu {
    path: PathBuf,
    version: Version,
}

/// What `criu dump` is to do.
#[derive(Clone, Debug)]
pub struct Dump<'a> {
    /// First process of the tree.
    pub pid: u32,
    /// Folder of the images.
    pub images: &'a Path,
    /// Folder of the log, with an empty folder [`NO_PLUGINS`].
    pub work: &'a Path,
    /// Options that the tree needs.
    pub options: &'a [String],
    /// What is started at each stage.
    pub script: Script<'a>,
    /// Descriptors that it gets under the same numbers.
    pub descriptors: &'a [RawFd],
}

/// A program that CRIU starts at each stage of its work, see criu(8),
/// `--action-script`.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its environment.
    pub environment: &'a [(&'static str, OsString)],
}

impl Script<'_> {
    fn add_to(&self, command: &mut Command) {
        command
            .arg("--action-script")
            .arg(self.program)
            .envs(self.environment.iter().cloned());
    }
}

/// What `criu restore` is to do. The tree becomes a child of this process, if it is a
/// subreaper.
#[derive(Clone, Debug)]
pub struct Restore<'a> {
    /// Folder of the images.
    pub images: &'a Path,
    /// Folder of the log and of `lazy-pages.socket`, with an empty folder
    /// [`NO_PLUGINS`].
    pub work: &'a Path,
    /// Options that the tree needs, and those that restoring has of its own, such as
    /// `--lazy-pages`.
    pub options: &'a [String],
    /// What is started at each stage, if anything is.
    pub script: Option<Script<'a>>,
}

/// Folder in the work folder in which CRIU looks for plugins.
pub const NO_PLUGINS: &str = "no-plugins";

/// Log of `criu dump` in the work folder.
pub const DUMP_LOG: &str = "dump.log";
/// Log of `criu restore` in the work folder.
pub const RESTORE_LOG: &str = "restore.log";
/// File in the work folder with the pid of the first restored process.
pub const PID_FILE: &str = "restored.pid";

impl Criu {
    /// Finds the program: the one given, else [`VARIABLE`]'s, else the one on the path.
    ///
    /// # Errors
    /// If there is none, it does not start, or it is older than 4.0.
    pub fn find(given: Option<&Path>) -> Result<Criu, CriuError> {
        let variable = || env::var_os(VARIABLE).filter(|name| !name.is_empty());
        let named = given.map(Path::to_owned);
        let named = named.or_else(|| variable().map(PathBuf::from));
        let path = named.or_else(on_path).ok_or(CriuError::Absent)?;
        let mut command = Command::new(&path);
        let output = running::answer(command.arg("--version"), ASKED)
            .map_err(|error| CriuError::start(&path, error))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(version) = Version::told(&text) else {
            return Err(CriuError::NotCriu { path });
        };
        if version < OLDEST {
            return Err(CriuError::TooOld { path, version });
        }
        Ok(Criu { path, version })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether `criu check --feature` says that the kernel has a feature, such as
    /// `uffd-noncoop`.
    pub fn check(&self, feature: &str) -> bool {
        let mut command = Command::new(&self.path);
        let output = running::answer(command.args(["check", "--feature", feature]), ASKED);
        output.is_ok_and(|output| output.status.success())
    }

    /// Whether `criu check` finds all that it needs here.
    ///
    /// # Errors
    /// What it says is missing.
    pub fn check_all(&self) -> Result<(), CriuError> {
        let mut command = Command::new(&self.path);
        let output = running::answer(command.arg("check"), ASKED)
            .map_err(|error| CriuError::start(&self.path, error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(CriuError::Check {
            path: self.path.clone(),
            said: error::worst_lines(&said).join("; "),
        })
    }

    /// Starts `criu dump`.
    ///
    /// # Errors
    /// If it does not start.
    pub fn dump(&self, dump: &Dump) -> Result<Running, CriuError> {
        let mut command = Command::new(&self.path);
        command
            .args(["dump", "--tree"])
            .arg(dump.pid.to_string())
            .args(dump.options);
        dump.script.add_to(&mut command);
        self.start(
            command,
            "dump",
            dump.images,
            dump.work,
            DUMP_LOG,
            dump.descriptors,
        )
    }

    /// Starts `criu restore --restore-detached`. Its log, and [`PID_FILE`], come to
    /// the work folder.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restore(&self, restore: &Restore) -> Result<Running, CriuError> {
        let mut command = Command::new(&self.path);
        command
            .args(["restore", "--restore-detached", "--pidfile"])
            .arg(restore.work.join(PID_FILE))
            .args(restore.options);
        if let Some(script) = &restore.script {
            script.add_to(&mut command);
        }
        self.start(
            command,
            "restore",
            restore.images,
            restore.work,
            RESTORE_LOG,
            &[],
        )
    }

    fn start(
        &self,
        mut command: Command,
        doing: &'static str,
        images: &Path,
        work: &Path,
        log: &str,
        descriptors: &[RawFd],
    ) -> Result<Running, CriuError> {
        let (plugins, log) = (work.join(NO_PLUGINS), work.join(log));
        fs::create_dir_all(&plugins).map_err(|error| CriuError::start(&plugins, error))?;
        command
            .arg("--images-dir")
            .arg(images)
            .arg("--work-dir")
            .arg(work)
            .arg("--libdir")
            .arg(&plugins)
            .arg("--log-file")
            .arg(&log)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Running::start(command, &self.path, doing, log, descriptors)
    }
}

fn on_path() -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    // Where the root user's path does not go.
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&folders)
        .chain(system)
        .map(|folder| folder.join("criu"))
        .find(|path| path.is_file())
}
