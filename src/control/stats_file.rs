//! The report in a file, for `rewarm run --stats FILE`.
//!
//! A command may start many processes. `rewarm run` puts an empty report (pid 0)
//! into FILE; the first process of the command that uses CUDA claims it, later
//! ones write `FILE.<pid>`. The file is replaced whole each time, so whoever
//! reads it sees one report or the next.

use super::{ControlError, ProcessReport, REPORT_VERSION};
use parking_lot::Mutex;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::thread::sleep;
use std::time::Duration;

/// How often and how long a claim waits for another process's claim.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// A file that this process keeps its report in.
#[derive(Debug)]
pub struct StatsFile {
    path: PathBuf,
    written: Mutex<Option<ProcessReport>>,
}

impl StatsFile {
    /// Puts an empty report into the file, for a command that is about to start.
    ///
    /// # Errors
    /// If it cannot be written, or holds something that is not a report.
    pub fn place(path: &Path) -> Result<(), ControlError> {
        match Holder::of(path)? {
            Holder::Nobody | Holder::Process(_) => replace(path, &empty_report(0)),
            Holder::Other => Err(unusable(
                path,
                "it holds something that is not a report of rewarm",
            )),
        }
    }

    /// Claims the file for this process, or one beside it if another process
    /// has it.
    ///
    /// # Errors
    /// If neither can be written.
    pub fn claim(path: &Path) -> Result<StatsFile, ControlError> {
        let pid = process::id();
        let lock = lock_folder(path);
        let free = lock.is_some()
            && match Holder::of(path)? {
                Holder::Nobody => true,
                Holder::Process(holder) => holder == pid,
                Holder::Other => false,
            };
        let path = if free {
            path.to_owned()
        } else {
            beside(path, pid)
        };
        replace(&path, &empty_report(pid))?;
        Ok(StatsFile {
            path,
            written: Mutex::new(None),
        })
    }

    /// The file that this process writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the report, unless nothing has changed since the last time.
    ///
    /// # Errors
    /// If it cannot be written; the one before stays.
    pub fn write(&self, report: &ProcessReport) -> Result<(), ControlError> {
        let mut written = self.written.lock();
        if written.as_ref() != Some(report) {
            replace(&self.path, report)?;
            *written = Some(report.clone());
        }
        Ok(())
    }
}

/// Whose report a file holds.
enum Holder {
    /// No file, or the empty report.
    Nobody,
    /// The report of a process.
    Process(u32),
    /// Something else, not ours to overwrite.
    Other,
}

impl Holder {
    fn of(path: &Path) -> Result<Holder, ControlError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
            Err(error) => return Err(ControlError::io("look at", path)(error)),
            Ok(found) if !found.is_file() => {
                return Err(unusable(path, "it is not a regular file"));
            }
            Ok(found) if found.len() == 0 => return Ok(Holder::Nobody),
            Ok(_) => {}
        }
        let text = fs::read(path).map_err(ControlError::io("read", path))?;
        Ok(match serde_json::from_slice::<ProcessReport>(&text) {
            Ok(ProcessReport { pid: 0, .. }) => Holder::Nobody,
            Ok(report) => Holder::Process(report.pid),
            Err(_) => Holder::Other,
        })
    }
}

fn empty_report(pid: u32) -> ProcessReport {
    ProcessReport {
        version: REPORT_VERSION,
        rewarm: env!("CARGO_PKG_VERSION").to_owned(),
        pid,
        ..ProcessReport::default()
    }
}

fn unusable(path: &Path, problem: &'static str) -> ControlError {
    ControlError::Unusable {
        path: path.to_owned(),
        problem,
    }
}

fn beside(path: &Path, pid: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{pid}"));
    name.into()
}

/// Keeps other processes' claims in the same folder away while it lives. `None`
/// if the folder cannot be locked.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = File::open(folder_of(path)).ok()?;
    for _ in 0..TRIES {
        // SAFETY: an open descriptor; the lock ends when it is closed.
        if unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Some(folder);
        }
        sleep(PAUSE);
    }
    None
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Writes beside and renames.
fn replace(path: &Path, report: &ProcessReport) -> Result<(), ControlError> {
    let mut name = OsString::from(".");
    name.push(
        path.file_name()
            .ok_or_else(|| unusable(path, "it has no file name"))?,
    );
    name.push(format!(".{}.new", process::id()));
    let beside = folder_of(path).join(name);
    write_new(&beside, report)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| {
            let _ = fs::remove_file(&beside);
            ControlError::io("write", path)(error)
        })
}

fn write_new(path: &Path, report: &ProcessReport) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    file.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("rewarm-stats-{name}-{}", process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("stats.json")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn read(path: &Path) -> ProcessReport {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn the_first_process_claims_the_placeholder() {
        let folder = Folder::new("claim");
        StatsFile::place(&folder.file()).unwrap();
        assert_eq!(read(&folder.file()).pid, 0);
        assert_eq!(
            fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let stats = StatsFile::claim(&folder.file()).unwrap();
        assert_eq!(stats.path(), folder.file());
        assert_eq!(read(&folder.file()).pid, process::id());
        assert_eq!(
            StatsFile::claim(&folder.file()).unwrap().path(),
            folder.file(),
            "again"
        );
        let report = ProcessReport {
            executable: "/bin/x".into(),
            ..empty_report(process::id())
        };
        stats.write(&report).unwrap();
        assert_eq!(read(&folder.file()), report);
        assert_eq!(
            fs::read_dir(&folder.0).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn a_later_process_writes_beside() {
        let folder = Folder::new("later");
        replace(&folder.file(), &empty_report(1)).unwrap();
        let stats = StatsFile::claim(&folder.file()).unwrap();
        assert_eq!(stats.path(), beside(&folder.file(), process::id()));
        assert_eq!(read(&folder.file()).pid, 1);
        assert_eq!(read(stats.path()).pid, process::id());
    }

    #[test]
    fn a_file_that_is_not_a_report_is_left_alone() {
        let folder = Folder::new("other");
        fs::write(folder.file(), "print('my program')").unwrap();
        let error = StatsFile::place(&folder.file()).unwrap_err();
        assert!(error.to_string().contains("not a report"), "{error}");
        let stats = StatsFile::claim(&folder.file()).unwrap();
        assert_ne!(stats.path(), folder.file());
        assert_eq!(
            fs::read_to_string(folder.file()).unwrap(),
            "print('my program')"
        );
    }

    #[test]
    fn devices_and_links_are_refused() {
        let folder = Folder::new("link");
        let error = StatsFile::place(Path::new("/dev/null")).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        symlink("/dev/null", folder.file()).unwrap();
        assert!(StatsFile::place(&folder.file()).is_err());
        assert!(StatsFile::claim(&folder.file()).is_err());
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = StatsFile::place(Path::new("/nonexistent/stats.json")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/stats.json"),
            "{error}"
        );
    }
}
