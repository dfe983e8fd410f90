//! Locks of files: `/proc/locks`, see proc_locks(5).

use std::collections::HashSet;
use std::fs;

/// Inodes of the files that processes hold locks of. Locks of open files (OFD) name
/// no process: those of files that they have open are counted.
pub(super) fn held(pids: &[u32], open: &HashSet<u64>) -> HashSet<u64> {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    text.lines()
        .filter_map(parse)
        .filter(|(pid, inode)| match pid {
            Some(pid) => pids.contains(pid),
            None => open.contains(inode),
        })
        .map(|(_, inode)| inode)
        .collect()
}

/// The holder, if it is told, and the file's inode.
fn parse(line: &str) -> Option<(Option<u32>, u64)> {
    let mut fields = line.split_whitespace().skip(1);
    let kind = fields.next()?;
    // "->": somebody who waits for the lock above.
    if kind == "->" || kind == "DELEG" {
        return None;
    }
    let pid = fields.nth(2)?.parse().ok();
    let inode = fields.next()?.rsplit(':').next()?.parse().ok()?;
    Some((pid, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let line = "1: FLOCK  ADVISORY  WRITE 708 00:13:16821 0 EOF";
        assert_eq!(parse(line), Some((Some(708), 16821)));
        let line = "2: OFDLCK ADVISORY  READ -1 00:06:1028 0 EOF";
        assert_eq!(parse(line), Some((None, 1028)));
        assert_eq!(
            parse("1: -> FLOCK  ADVISORY  WRITE 709 00:13:16821 0 EOF"),
            None
        );
        assert_eq!(parse("x"), None);
    }
}
