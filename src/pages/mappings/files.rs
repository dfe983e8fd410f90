//! The files that mappings name, opened and recognised.
//!
//! A mapping says a name, and a device and an inode that `stat` need not agree
//! with (btrfs, overlayfs). So a file opened by that name is mapped in turn: it
//! is the right one if the kernel says the same of both mappings.

use super::query::{FileId, View, Vma};
use super::{NotAFile, PAGE, kinds, locks};
use crate::descriptors::out_of_the_way;
use crate::pages::PageFile;
use parking_lot::Mutex;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// Files that are remembered, open or not.
const MOST: usize = 8;

/// The files that were looked up.
#[derive(Default)]
pub(super) struct Files {
    /// Oldest first.
    known: Mutex<Vec<Arc<Known>>>,
    /// No longer known, but to be closed later.
    retired: Mutex<Vec<Arc<Known>>>,
}

/// A file as its mappings name it.
pub(super) struct Named {
    pub(super) id: FileId,
    /// Needed too: inode numbers repeat in the subvolumes of btrfs.
    pub(super) name: Vec<u8>,
    /// Where it is mapped.
    pub(super) address: usize,
}

impl Named {
    pub(super) fn is_of(&self, vma: &Vma<'_>) -> bool {
        self.id == vma.id && self.name == vma.name
    }
}

/// What is known of such a file.
struct Known {
    id: FileId,
    name: Vec<u8>,
    file: Result<Open, NotAFile>,
}

struct Open {
    file: Arc<PageFile>,
    stamp: Stamp,
}

/// Differs when the file was written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(status: &Metadata) -> Stamp {
        Stamp {
            size: status.size(),
            modified: (status.mtime(), status.mtime_nsec()),
            changed: (status.ctime(), status.ctime_nsec()),
        }
    }
}

impl Known {
    /// The open file, and its size in bytes.
    fn file(&self) -> Result<(Arc<PageFile>, u64), NotAFile> {
        let open = self.file.as_ref().map_err(|&reason| reason)?;
        Ok((Arc::clone(&open.file), open.stamp.size))
    }

    fn has_changed(&self) -> bool {
        self.file.as_ref().is_ok_and(|open| {
            let status = open.file.file().metadata();
            !status.is_ok_and(|status| Stamp::of(&status) == open.stamp)
        })
    }

    /// Whether nobody uses it, and closing its file has no effect on the
    /// application's locks.
    fn can_be_closed(self: &Arc<Known>) -> bool {
        let unused = |open: &Open| Arc::strong_count(&open.file) == 1;
        Arc::strong_count(self) == 1
            && !self
                .file
                .as_ref()
                .is_ok_and(|open| !unused(open) || locks::are_held(self.id))
    }
}

impl Files {
    /// The open file and its size in bytes, opened if need be.
    pub(super) fn find(
        &self,
        view: &View,
        named: &Named,
    ) -> Result<(Arc<PageFile>, u64), NotAFile> {
        if let Some(known) = self.known(named) {
            if known.has_changed() {
                self.remove(known);
                return Err(NotAFile::Changed);
            }
            return known.file();
        }
        let known = Arc::new(Known {
            id: named.id,
            name: named.name.clone(),
            file: open(view, named),
        });
        let oldest = {
            let mut files = self.known.lock();
            let oldest = (files.len() >= MOST).then(|| files.remove(0));
            files.push(Arc::clone(&known));
            oldest
        };
        self.let_go(oldest);
        known.file()
    }

    /// Closes all files that can be closed.
    pub(super) fn close(&self) {
        let known = std::mem::take(&mut *self.known.lock());
        self.let_go(known);
    }

    fn known(&self, named: &Named) -> Option<Arc<Known>> {
        let same = |known: &&Arc<Known>| known.id == named.id && known.name == named.name;
        self.known.lock().iter().find(same).cloned()
    }

    fn remove(&self, known: Arc<Known>) {
        let mut files = self.known.lock();
        let place = files.iter().position(|other| Arc::ptr_eq(other, &known));
        let removed = place.map(|place| files.remove(place));
        drop(files);
        drop(known);
        self.let_go(removed);
    }

    /// Closes what is no longer known, and what could not be closed before.
    fn let_go(&self, files: impl IntoIterator<Item = Arc<Known>>) {
        let mut retired = std::mem::take(&mut *self.retired.lock());
        retired.extend(files);
        retired.retain(|known| !known.can_be_closed());
        self.retired.lock().append(&mut retired);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.close();
        // Not to be closed: the descriptors end with the process.
        let retired = self.retired.get_mut().drain(..);
        retired.for_each(std::mem::forget);
    }
}

fn open(view: &View, wanted: &Named) -> Result<Open, NotAFile> {
    let name = OsStr::from_bytes(&wanted.name);
    let named = named_file(name)?;
    if locks::are_held(wanted.id) {
        return Err(NotAFile::Locked);
    }
    let path = format!("/proc/self/fd/{}", named.as_raw_fd());
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|_| NotAFile::Unreadable)?;
    let file = File::from(out_of_the_way(file.into()));
    if !is_mapped(view, wanted, &file)? {
        return Err(NotAFile::Replaced);
    }
    let status = file.metadata().map_err(|_| NotAFile::Unreadable)?;
    kinds::check_content(&file, &status)?;
    let file = PageFile::from_file(file, PathBuf::from(name));
    Ok(Open {
        file: file.map_err(|_| NotAFile::Unreadable)?,
        stamp: Stamp::of(&status),
    })
}

/// The file of a name, located but not opened: that would wait for the other
/// end of a pipe, or wake a device.
fn named_file(name: &OsStr) -> Result<File, NotAFile> {
    // Memory that the kernel names has no path.
    if !name.as_bytes().starts_with(b"/") {
        return Err(NotAFile::Special);
    }
    let named = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(name)
        .map_err(|_| NotAFile::Replaced)?;
    let status = named.metadata().map_err(|_| NotAFile::Unreadable)?;
    if !status.is_file() {
        return Err(NotAFile::Special);
    }
    kinds::check_file_system(&named)?;
    Ok(named)
}

/// Whether the open file is what the mapping is of.
///
/// The mapping is looked at again last: opening a file by its name makes a
/// network file system notice that another has that name now, even if its inode
/// number is the same.
fn is_mapped(view: &View, wanted: &Named, file: &File) -> Result<bool, NotAFile> {
    let page = MappedPage::new(file).ok_or(NotAFile::Unreadable)?;
    let opened = view.at(page.0 as usize, |vma| vma.id)?;
    Ok(opened == wanted.id && view.at(wanted.address, |vma| wanted.is_of(vma))?)
}

/// The first page of a file, mapped, not read.
struct MappedPage(*mut libc::c_void);

impl MappedPage {
    fn new(file: &File) -> Option<MappedPage> {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        (page != libc::MAP_FAILED).then_some(MappedPage(page))
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing refers to it.
        unsafe { libc::munmap(self.0, PAGE) };
    }
}
