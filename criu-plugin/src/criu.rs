//! CRIU's side of the interface: `criu/include/criu-plugin.h`, `criu/include/log.h`.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

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
    Warning = 2,
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

/// `PARSING_RPC_CONF` of `cr_options.h`: the file is the one that `rpc_cfg_file` names,
/// and nothing is read after it.
const OF_REQUEST: c_int = 6;

/// Has CRIU come back for pages later, as `lazy-pages` in its configuration does. There
/// it would be for dumps, too, which then write no pages.
///
/// # Errors
/// If this CRIU cannot be told so.
pub(crate) fn restore_lazily() -> Result<(), &'static str> {
    type Parse = unsafe extern "C" fn(c_int, *mut c_void, *mut bool, *mut bool, c_int) -> c_int;
    let parse = symbol(c"parse_options");
    let name = symbol(c"rpc_cfg_file").cast::<*mut c_char>();
    if parse.is_null() || name.is_null() {
        return Err("it has no parse_options or rpc_cfg_file");
    }
    // SAFETY: `config.c` declares it so, since 3.13.
    let parse: Parse = unsafe { std::mem::transmute(parse) };
    let failed = "a file for its options cannot be made";
    let file = file_of(b"lazy-pages\n").map_err(|_| failed)?;
    let own = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|_| failed)?;
    let (mut usage, mut command) = (false, false);
    // SAFETY: CRIU has one thread. It keeps neither of the names.
    let status = unsafe {
        let before = name.replace(own.as_ptr().cast_mut());
        let status = parse(0, null_mut(), &raw mut usage, &raw mut command, OF_REQUEST);
        name.write(before);
        status
    };
    match status {
        0 => Ok(()),
        _ => Err("it does not know the option lazy-pages"),
    }
}

/// Something that CRIU exports in some versions.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: a name.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

fn file_of(text: &[u8]) -> io::Result<File> {
    // SAFETY: a name and flags.
    let file = unsafe { libc::memfd_create(c"options".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fresh, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(file) };
    file.write_all(text)?;
    Ok(file)
}

/// Writes a line to CRIU's log.
pub(crate) fn log(level: Level, text: &str) {
    let prefix = match level {
        Level::Error => "Error (rewarm): ",
        Level::Warning => "Warn  (rewarm): ",
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
