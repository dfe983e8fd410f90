//! What kind of memory a range of this process's address space is.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;

/// Memory that may be registered where it lies, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registrable {
    /// Private anonymous memory that is writable: an ordinary buffer.
    Anonymous,
    /// A shared mapping of a file that this process can only read.
    SharedReadOnly,
}

/// Classifies a range, `None` if it is mixed, not wholly mapped, or of a kind
/// that must not be registered: pinning a private mapping of a file copies every
/// page first.
pub(super) fn registrable(range: Range<usize>) -> Option<Registrable> {
    classify(BufReader::new(File::open("/proc/self/maps").ok()?), range)
}

fn classify(maps: impl BufRead, range: Range<usize>) -> Option<Registrable> {
    let mut at = range.start;
    let mut kind = None;
    for line in maps.lines() {
        let line = line.ok()?;
        let mapping = Mapping::parse(&line)?;
        if mapping.range.end <= at {
            continue;
        }
        if mapping.range.start > at {
            return None;
        }
        let this = mapping.registrable()?;
        if *kind.get_or_insert(this) != this {
            return None;
        }
        at = mapping.range.end;
        if at >= range.end {
            return kind;
        }
    }
    None
}

struct Mapping<'a> {
    range: Range<usize>,
    rights: &'a str,
    inode: &'a str,
    path: &'a str,
}

impl Mapping<'_> {
    /// A line of `/proc/PID/maps`, see proc_pid_maps(5).
    fn parse(line: &str) -> Option<Mapping<'_>> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?;
        let inode = fields.nth(2)?;
        Some(Mapping {
            range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
            rights,
            inode,
            path: fields.next().unwrap_or("").trim_start(),
        })
    }

    fn registrable(&self) -> Option<Registrable> {
        match self.rights {
            "rw-p" if self.inode == "0" && (self.path.is_empty() || self.path == "[heap]") => {
                Some(Registrable::Anonymous)
            }
            "r--s" if self.inode != "0" && !self.path.starts_with("/dev/nvidia") => {
                Some(Registrable::SharedReadOnly)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00001000-00003000 rw-p 00000000 00:00 0                          [heap]
00003000-00005000 rw-p 00000000 00:00 0 
00005000-00007000 r--s 00000000 08:01 42                         /weights.safetensors
00007000-00009000 rw-p 00000000 08:01 42                         /weights.safetensors
0000b000-0000c000 r--p 00000000 00:00 0 
";

    fn kind(range: Range<usize>) -> Option<Registrable> {
        classify(MAPS.as_bytes(), range)
    }

    #[test]
    fn buffers_and_shared_files_can_be_registered() {
        assert_eq!(kind(0x1800..0x2800), Some(Registrable::Anonymous));
        assert_eq!(kind(0x2000..0x5000), Some(Registrable::Anonymous));
        assert_eq!(kind(0x5000..0x6000), Some(Registrable::SharedReadOnly));
    }

    #[test]
    fn anything_else_is_left_alone() {
        assert_eq!(kind(0x4000..0x6000), None, "two kinds");
        assert_eq!(kind(0x7000..0x8000), None, "private mapping of a file");
        assert_eq!(kind(0x8000..0xb800), None, "a hole");
        assert_eq!(kind(0xb000..0xc000), None, "not writable");
        assert_eq!(kind(0xb000..0xd000), None, "beyond the last mapping");
    }

    #[test]
    fn this_process_is_read() {
        let buffer = vec![1u8; 1 << 22];
        let start = buffer.as_ptr() as usize;
        assert_eq!(
            registrable(start..start + buffer.len()),
            Some(Registrable::Anonymous)
        );
    }
}
