//! The driver library, opened by the command line.

use super::sys::c_void;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::ptr::NonNull;

/// There is no library, or it cannot be loaded: what the dynamic linker says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no CUDA driver: {0}")]
pub struct NoLibrary(pub String);

/// `libcuda.so.1`, open as long as this process runs.
#[derive(Clone, Copy, Debug)]
pub struct Library(NonNull<c_void>);

// SAFETY: a handle of the dynamic linker, which serves any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens it.
    ///
    /// # Errors
    /// If the dynamic linker does not find it, or cannot load it.
    pub fn open() -> Result<Library, NoLibrary> {
        // SAFETY: the driver's constructors are made to run in any process.
        let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        NonNull::new(handle)
            .map(Library)
            .ok_or_else(|| NoLibrary(last_error()))
    }

    /// The address of a function, or null.
    pub fn symbol(self, name: &CStr) -> *const c_void {
        // SAFETY: an open library and a string.
        unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) }
    }

    /// Its file.
    pub fn path(self) -> Option<PathBuf> {
        let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: filled by the call; an unknown address returns 0.
        let known = unsafe { libc::dladdr(self.symbol(c"cuInit"), found.as_mut_ptr()) } != 0;
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
