//! Whether a library can be preloaded into a program at all.

use std::env;
use std::ffi::{OsStr, c_void};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the dynamic linker would ignore our library in a command, if it would.
/// `None` also if that cannot be found out.
pub(super) fn obstacle(command: &OsStr) -> Option<&'static str> {
    let path = find(command)?;
    privileges(&path).or_else(|| format(&path))
}

/// Where execvp(3) finds a command.
fn find(command: &OsStr) -> Option<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Some(command.into());
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(command))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn privileges(path: &Path) -> Option<&'static str> {
    let found = fs::metadata(path).ok()?;
    // SAFETY: neither has requirements.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let changes_user = found.mode() & libc::S_ISUID != 0 && found.uid() != uid;
    let changes_group = found.mode() & libc::S_ISGID != 0 && found.gid() != gid;
    if changes_user || changes_group {
        Some("it is setuid or setgid, and such programs take no preloaded library")
    } else if uid != 0 && has_capabilities(path) {
        Some("it has file capabilities, and such programs take no preloaded library")
    } else {
        None
    }
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let name = c"security.capability";
    // SAFETY: two strings; with size 0 nothing is written.
    unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            std::ptr::null_mut::<c_void>(),
            0,
        ) > 0
    }
}

fn format(path: &Path) -> Option<&'static str> {
    let file = File::open(path).ok()?;
    let mut head = Vec::new();
    (&file).take(256).read_to_end(&mut head).ok()?;
    match head.strip_prefix(b"#!") {
        Some(line) => format(&interpreter(line)?),
        None => elf_obstacle(&file, &head),
    }
}

/// The program that runs a script, unless it is a script itself.
fn interpreter(line: &[u8]) -> Option<PathBuf> {
    let line = line.split(|&byte| byte == b'\n').next()?.trim_ascii();
    let path = PathBuf::from(OsStr::from_bytes(
        line.split(|byte| byte.is_ascii_whitespace()).next()?,
    ));
    let mut start = [0; 4];
    File::open(&path).ok()?.read_exact(&mut start).ok()?;
    (start == *b"\x7fELF").then_some(path)
}

/// What an ELF header says (elf(5), 64 bits, little endian).
fn elf_obstacle(file: &File, head: &[u8]) -> Option<&'static str> {
    const CLASS_64: u8 = 2;
    const X86_64: u16 = 62;
    const INTERPRETER: u32 = 3;
    if head.len() < 64 || !head.starts_with(b"\x7fELF") {
        return None;
    }
    if head[4] != CLASS_64 || u16_at(head, 18) != X86_64 {
        return Some("it is not an x86-64 program");
    }
    let (offset, size, count) = (
        u64_at(head, 32),
        u64::from(u16_at(head, 54)),
        u16_at(head, 56),
    );
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        let at = offset.checked_add(index * size)?;
        file.read_exact_at(&mut entry, at).ok()?;
        if u32::from_le_bytes(entry[..4].try_into().ok()?) == INTERPRETER {
            let mut name = vec![0; u64_at(&entry, 32).min(256) as usize];
            file.read_exact_at(&mut name, u64_at(&entry, 8)).ok()?;
            let is_musl = name.windows(7).any(|part| part == b"ld-musl");
            return is_musl.then_some("it uses musl, and rewarm needs the GNU C library");
        }
    }
    Some("it is statically linked, and such programs take no preloaded library")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file<T>(name: &str, bytes: &[u8], check: impl FnOnce(&Path) -> T) -> T {
        let path = env::temp_dir().join(format!("rewarm-target-{name}-{}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        let result = check(&path);
        fs::remove_file(&path).unwrap();
        result
    }

    fn header(class: u8, machine: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..4].copy_from_slice(b"\x7fELF");
        head[4] = class;
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head
    }

    #[test]
    fn ordinary_programs_and_scripts_have_no_obstacle() {
        assert_eq!(obstacle("sh".as_ref()), None);
        assert_eq!(obstacle("/bin/sh".as_ref()), None);
        let script = b"#!/usr/bin/env python3\nprint()\n";
        assert_eq!(
            with_file("script", script, |path| obstacle(path.as_os_str())),
            None
        );
    }

    #[test]
    fn what_cannot_be_found_or_read_is_no_obstacle() {
        assert_eq!(obstacle("no-such-command".as_ref()), None);
        assert_eq!(
            with_file("empty", b"", |path| obstacle(path.as_os_str())),
            None
        );
        assert_eq!(
            with_file("text", b"#!", |path| obstacle(path.as_os_str())),
            None
        );
    }

    #[test]
    fn programs_that_take_no_library_are_recognised() {
        let reason =
            |name, bytes: Vec<u8>| with_file(name, &bytes, |path| obstacle(path.as_os_str()));
        assert!(
            reason("static", header(2, 62))
                .unwrap()
                .contains("statically")
        );
        assert!(reason("arm", header(2, 183)).unwrap().contains("x86-64"));
        assert!(reason("32", header(1, 3)).unwrap().contains("x86-64"));
    }
}
