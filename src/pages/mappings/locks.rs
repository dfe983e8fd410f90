//! POSIX locks. A process that closes any descriptor of a file loses its locks
//! on that file (fcntl(2)), so a file that is locked is neither opened nor
//! closed here.

use super::query::FileId;
use std::fs::File;
use std::io::{BufRead, BufReader};

/// Whether a process holds a POSIX lock on the file. Where that cannot be
/// known, it is assumed.
pub(super) fn are_held(file: FileId) -> bool {
    match File::open("/proc/locks") {
        Ok(locks) => any_on(BufReader::new(locks), file),
        Err(_) => true,
    }
}

fn any_on(locks: impl BufRead, file: FileId) -> bool {
    let (major, minor) = file.device;
    let file = format!("{major:02x}:{minor:02x}:{}", file.inode);
    locks.lines().any(|line| match line {
        Ok(line) => {
            let mut words = line
                .split_ascii_whitespace()
                .skip_while(|&word| word != "POSIX");
            words.next().is_some() && words.any(|word| word == file)
        }
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKS: &str = "\
1: FLOCK  ADVISORY  WRITE 1080 00:2a:7 0 EOF
2: POSIX  ADVISORY  READ  2000 fe:00:42 128 128
2: -> POSIX  ADVISORY  WRITE 2001 fe:01:9 0 EOF
3: OFDLCK ADVISORY  WRITE -1 fe:00:8 0 EOF
";

    #[test]
    fn only_posix_locks_count() {
        for (device, inode, held) in [
            ((0xfe, 0), 42, true),
            ((0xfe, 1), 9, true),
            ((0xfe, 0), 8, false),
            ((0, 0x2a), 7, false),
            ((0xfe, 1), 42, false),
        ] {
            let file = FileId { device, inode };
            assert_eq!(any_on(LOCKS.as_bytes(), file), held, "{file:?}");
        }
    }
}
