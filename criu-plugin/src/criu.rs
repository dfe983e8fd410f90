//! CRIU's side of the interface: `criu/include/criu-plugin.h`, `criu/include/log.h`.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::ptr::null;

/// Version 0.2.0 of the interface, which CRIU has had since 2.0. It refuses newer ones
/// than its own.
const VERSION: c_uint = 2 << 8;

/// What CRIU is about to do (`CR_PLUGIN_STAGE__*`).
pub(crate) struct Stage;

impl Stage {
    pub(crate) const RESTORE: c_int = 2;
}

/// Where a message belongs (`LOG_*` of `log.h`).
#[derive(Clone, Copy)]
pub(crate) enum Level {
    Error = 1,
    Info = 3,
}

/// `cr_plugin_desc_t`. Its array of hooks is as long as `max_hooks` says: empty.
#[repr(C)]
pub struct Description {
    name: *const c_char,
    init: extern "C" fn(c_int) -> c_int,
    exit: *const c_void,
    version: c_uint,
    max_hooks: c_uint,
}

// SAFETY: it points to constants only.
unsafe impl Sync for Description {}

impl Description {
    pub(crate) const fn new(name: &'static CStr, init: extern "C" fn(c_int) -> c_int) -> Self {
        Description {
            name: name.as_ptr(),
            init,
            exit: null(),
            version: VERSION,
            max_hooks: 0,
        }
    }
}

// Of the program that opens this library.
unsafe extern "C" {
    fn criu_get_image_dir() -> c_int;
    fn print_on_level(level: c_uint, format: *const c_char, ...);
}

/// The folder of the images.
pub(crate) fn images() -> io::Result<PathBuf> {
    // SAFETY: it returns a number, and takes nothing.
    let folder = unsafe { criu_get_image_dir() };
    fs::read_link(format!("/proc/self/fd/{folder}"))
}

/// Writes a line to CRIU's log.
pub(crate) fn log(level: Level, text: &str) {
    let prefix = match level {
        Level::Error => "Error (rewarm): ",
        Level::Info => "rewarm: ",
    };
    for line in text.lines() {
        // A text with a zero in it is not ours.
        let Ok(line) = CString::new(format!("{prefix}{line}\n")) else {
            continue;
        };
        // SAFETY: a format for one string, and that string.
        unsafe { print_on_level(level as c_uint, c"%s".as_ptr(), line.as_ptr()) };
    }
}
