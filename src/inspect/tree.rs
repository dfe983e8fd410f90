//! A folder: its files are reached from the open folder, by one plain name after
//! another. Links are not followed, and only regular files are opened.

use super::report::Report;
use super::survey::Survey;
use super::tar::Source;
use super::{InspectError, Options, limits, sample, shown};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, fstatfs, openat, statat};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Without O_NONBLOCK, opening a pipe would wait for its other end.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// An open folder.
pub(super) struct Tree {
    root: OwnedFd,
    device: u64,
}

impl Tree {
    /// Opens a folder. A link in the path that is given is followed.
    fn open_at(path: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        let device = fstat(&root)?.st_dev;
        Ok(Tree { root, device })
    }

    /// Opens a regular file below by its plain path.
    pub(super) fn open(&self, path: &[u8]) -> io::Result<File> {
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        let mut folder = None;
        while let Some(part) = parts.next() {
            let name = CString::new(part)?;
            let from = folder.as_ref().unwrap_or(&self.root);
            if parts.peek().is_none() {
                return open_file(from, &name);
            }
            folder = Some(open_folder(from, &name)?);
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Gives all files below to a survey.
    fn walk(&self, survey: &mut Survey) -> io::Result<()> {
        let mut walk = Walk {
            tree: self,
            survey,
            left: limits::ENTRIES,
        };
        walk.folder(&self.root, &mut Vec::new(), 0)
    }

    fn is_in_memory(&self) -> bool {
        is_in_memory(&self.root)
    }
}

/// Whether a file is on a RAM disk.
pub(super) fn is_in_memory(file: impl AsFd) -> bool {
    /// `TMPFS_MAGIC` and `RAMFS_MAGIC`.
    const KINDS: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    fstatfs(file).is_ok_and(|found| KINDS.contains(&found.f_type))
}

fn open_folder(from: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    Ok(openat(from, name, READ | OFlags::DIRECTORY, Mode::empty())?)
}

fn open_file(from: &OwnedFd, name: &CStr) -> io::Result<File> {
    let file = openat(from, name, READ, Mode::empty())?;
    // It may have been replaced since it was looked at.
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(io::Error::other("not a regular file any more")),
    }
}

/// A file that is opened if it is read: one that nobody reads may be unreadable.
struct Unopened<'a> {
    folder: &'a OwnedFd,
    name: &'a CStr,
    file: Option<File>,
}

impl Unopened<'_> {
    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            self.file = Some(open_file(self.folder, self.name)?);
        }
        self.file.as_mut().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Read for Unopened<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.open()?.read(to)
    }
}

impl Source for Unopened<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        self.open()?.skip(bytes)
    }
}

struct Walk<'a, 'b, 'c> {
    tree: &'a Tree,
    survey: &'b mut Survey<'c>,
    /// How many more files and folders are looked at.
    left: u64,
}

impl Walk<'_, '_, '_> {
    fn folder(&mut self, folder: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let Some(left) = self.left.checked_sub(1) else {
                self.survey
                    .pass_over(path, "more files than are looked into");
                return Ok(());
            };
            self.left = left;
            if let Err(error) = self.entry(folder, name, path, depth) {
                self.survey.problems.add(path, error);
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        path: &mut Vec<u8>,
        depth: usize,
    ) -> io::Result<()> {
        let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let reason = match FileType::from_raw_mode(found.st_mode) {
            _ if path.len() > limits::PATH => "a path of more than 4096 bytes",
            _ if found.st_dev != self.tree.device => "another file system is mounted there",
            FileType::RegularFile => {
                let bytes = found.st_size.max(0) as u64;
                let file = None;
                self.survey
                    .add(path, bytes, &mut Unopened { folder, name, file });
                return Ok(());
            }
            FileType::Directory if depth < limits::DEPTH => {
                return self.folder(&open_folder(folder, name)?, path, depth + 1);
            }
            FileType::Directory => "too many folders in folders",
            FileType::Symlink => "a link, which is not followed",
            FileType::Fifo => "a pipe",
            FileType::Socket => "a socket",
            _ => "a device",
        };
        self.survey.not_looked_into.add(path, reason);
        Ok(())
    }
}

/// A checkpoint's folder of which the files were looked at, but not the pages.
pub struct Folder<'a> {
    name: String,
    tree: Tree,
    survey: Survey<'a>,
    page_files: Vec<(Vec<u8>, u64)>,
    options: &'a Options,
}

impl<'a> Folder<'a> {
    /// Looks at all files below a folder.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn look(path: &Path, options: &'a Options) -> Result<Folder<'a>, InspectError> {
        let name = shown(path.as_os_str().as_bytes());
        let tree = Tree::open_at(path).map_err(InspectError::io(&name, "open the folder"))?;
        let mut survey = Survey::new(options, false);
        let walked = tree.walk(&mut survey);
        walked.map_err(InspectError::io(&name, "list the folder"))?;
        let page_files = survey.page_files();
        Ok(Folder {
            name,
            tree,
            survey,
            page_files,
            options,
        })
    }

    /// Bytes of pages, of which all or a sample are read.
    pub fn page_bytes(&self) -> u64 {
        self.page_files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Reads the pages, and tells what is there.
    ///
    /// # Errors
    /// If it holds no checkpoint.
    pub fn report(mut self) -> Result<Report, InspectError> {
        let Options { full, done, .. } = self.options;
        let (pages, failure) = sample::read(&self.tree, &self.page_files, *full, done);
        if let Some((path, error)) = failure {
            self.survey.problems.add(&path, error);
        }
        if self.name.trim_end_matches('/').ends_with(".partial") {
            let what = "the checkpoint was never finished";
            self.survey.problems.add(b"", what);
        }
        let is_in_memory = self.tree.is_in_memory();
        self.survey.finish(&self.name, None, pages, is_in_memory)
    }
}
