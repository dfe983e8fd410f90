//! The few settings that must be known before the core is opened, read without
//! allocating. The table of all settings is in `src/config`.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicU8, Ordering};

/// Folders of the distribution's own tools, which never use CUDA: a shell or
/// git that inherits the setting is not to hold a GPU.
const DISTRIBUTION: [&[u8]; 8] = [
    b"/bin/",
    b"/sbin/",
    b"/usr/bin/",
    b"/usr/sbin/",
    b"/lib",
    b"/usr/lib",
    b"/usr/libexec/",
    b"/usr/share/",
];

/// Commands that only start or watch others; they are passed over even when
/// named.
const LAUNCHERS: [&[u8]; 12] = [
    b"rewarm",
    b"cuda-checkpoint",
    b"sh",
    b"bash",
    b"dash",
    b"zsh",
    b"env",
    b"nohup",
    b"timeout",
    b"sudo",
    b"tini",
    b"dumb-init",
];

/// Whether the library must stay out of this process altogether.
pub(crate) fn switched_off() -> bool {
    // SAFETY: has no requirements.
    (unsafe { libc::getauxval(libc::AT_SECURE) }) != 0 || is_one(c"REWARM_DISABLE")
}

/// What [`freezable`] found: nothing yet, no, yes.
static FREEZABLE: AtomicU8 = AtomicU8::new(0);

/// Whether every function of the driver is led to the gate. First asked in this
/// library's constructor, unless a library that is initialised earlier uses the
/// driver from its own.
pub(crate) fn freezable() -> bool {
    match FREEZABLE.load(Ordering::Relaxed) {
        0 => {
            let freezable = is_one(c"REWARM_FREEZABLE");
            FREEZABLE.store(1 + u8::from(freezable), Ordering::Relaxed);
            freezable
        }
        found => found == 2,
    }
}

/// Whether this process prewarms by itself.
pub(crate) fn prewarm_wanted() -> bool {
    if !is_one(c"CRIU_CUDA_CONTEXT_POOL") {
        return false;
    }
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as said.
    let length = unsafe {
        libc::readlink(
            c"/proc/self/exe".as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    let Ok(length) = usize::try_from(length) else {
        return false;
    };
    let path = &buffer[..length];
    let name = file_name(path);
    if LAUNCHERS.contains(&name) {
        return false;
    }
    is_named_command()
        || name.starts_with(b"python")
        || !DISTRIBUTION.iter().any(|folder| path.starts_with(folder))
        || is_linked_with_cuda()
}

/// `rewarm run --prewarm` leaves its own pid, which the command keeps.
fn is_named_command() -> bool {
    let Some(text) = variable(c"REWARM_PREWARM_PID") else {
        return false;
    };
    let pid = text.to_bytes().iter().try_fold(0i64, |sum, &digit| {
        digit
            .is_ascii_digit()
            .then(|| sum.saturating_mul(10) + i64::from(digit - b'0'))
    });
    // SAFETY: has no requirements.
    pid == Some(i64::from(unsafe { libc::getpid() }))
}

fn is_linked_with_cuda() -> bool {
    // SAFETY: the callback needs nothing.
    unsafe { libc::dl_iterate_phdr(Some(is_cuda), core::ptr::null_mut()) != 0 }
}

unsafe extern "C" fn is_cuda(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: a string, or null for the program itself on some systems.
    let name = unsafe { (*info).dlpi_name };
    if name.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let path = unsafe { CStr::from_ptr(name) }.to_bytes();
    let name = file_name(path);
    c_int::from(name.starts_with(b"libcuda.so") || name.starts_with(b"libcudart.so"))
}

/// What follows the last slash.
fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

fn is_one(name: &CStr) -> bool {
    variable(name).is_some_and(|value| value.to_bytes() == b"1")
}

fn variable(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: called from the library's constructor, before other threads that
    // could change the environment exist.
    let value: *const c_char = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: a string of the environment.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}
