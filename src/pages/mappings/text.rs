//! The text of `/proc/self/maps`, for kernels that cannot be asked.

use super::NotAFile;
use super::query::{FileId, Vma};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// One `read` gives no more.
const AT_ONCE: usize = 4096;

/// What readings may cost.
///
/// One costs 0.2 µs for each mapping: 10 µs in a small process, 5 ms with
/// 20,000.
pub(super) struct Cost {
    /// What the last one took, in nanoseconds; 0: there was none.
    last: AtomicU64,
    /// For a range of so many bytes, a reading may take a nanosecond.
    bytes_per_nanosecond: u64,
    /// The first reading is for a range of at least so many bytes.
    trial_bytes: usize,
}

impl Default for Cost {
    /// 1 % of a copy at 50 GB/s.
    fn default() -> Cost {
        Cost {
            last: AtomicU64::new(0),
            bytes_per_nanosecond: 5000,
            trial_bytes: 64 << 20,
        }
    }
}

impl Cost {
    #[cfg(test)]
    pub(super) fn unlimited() -> Cost {
        Cost {
            bytes_per_nanosecond: 0,
            trial_bytes: 0,
            ..Cost::default()
        }
    }

    /// Reads, if the range is worth what the last reading cost.
    pub(super) fn measure<T>(
        &self,
        bytes: usize,
        read: impl FnOnce() -> Result<T, NotAFile>,
    ) -> Result<T, NotAFile> {
        let allowed = match self.last.load(Ordering::Relaxed) {
            0 => bytes >= self.trial_bytes,
            last => bytes as u64 >= last.saturating_mul(self.bytes_per_nanosecond),
        };
        if !allowed {
            return Err(NotAFile::TooCostly);
        }
        let begun = Instant::now();
        let result = read();
        let cost = begun.elapsed().as_nanos() as u64;
        self.last.store(cost.max(1), Ordering::Relaxed);
        result
    }
}

/// Shows every mapping of the range, in order, until the first error.
pub(super) fn walk(
    memory: &Range<usize>,
    visit: impl FnMut(&Vma<'_>) -> Result<(), NotAFile>,
) -> Result<(), NotAFile> {
    let maps = File::open("/proc/self/maps").map_err(|_| NotAFile::Unreadable)?;
    walk_text(BufReader::with_capacity(AT_ONCE, maps), memory, visit)
}

fn walk_text(
    mut maps: impl BufRead,
    memory: &Range<usize>,
    mut visit: impl FnMut(&Vma<'_>) -> Result<(), NotAFile>,
) -> Result<(), NotAFile> {
    let mut at = memory.start;
    let mut line = Vec::new();
    let mut name = Vec::new();
    while at < memory.end {
        line.clear();
        let read = maps.read_until(b'\n', &mut line);
        if read.map_err(|_| NotAFile::Unreadable)? == 0 {
            return Err(NotAFile::Unmapped);
        }
        let vma =
            parse(line.strip_suffix(b"\n").unwrap_or(&line), &mut name).ok_or(NotAFile::Unknown)?;
        if vma.range.end <= at {
            continue;
        }
        if vma.range.start > at {
            return Err(NotAFile::Unmapped);
        }
        visit(&vma)?;
        at = vma.range.end;
    }
    Ok(())
}

/// A line of `/proc/PID/maps`, see proc_pid_maps(5).
fn parse<'a>(line: &[u8], name: &'a mut Vec<u8>) -> Option<Vma<'a>> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut text = || str::from_utf8(fields.next()?).ok();
    let (start, end) = text()?.split_once('-')?;
    let rights = text()?.as_bytes();
    let offset = text()?;
    let (major, minor) = text()?.split_once(':')?;
    let inode = text()?.parse().ok()?;
    let hexadecimal = |digits| u64::from_str_radix(digits, 16).ok();
    unescape(fields.next().unwrap_or_default().trim_ascii_start(), name);
    Some(Vma {
        range: hexadecimal(start)? as usize..hexadecimal(end)? as usize,
        readable: rights.first() == Some(&b'r'),
        writable: rights.get(1) == Some(&b'w'),
        shared: rights.get(3) == Some(&b's'),
        huge_pages: false,
        offset: hexadecimal(offset)?,
        id: FileId {
            device: (
                u32::from_str_radix(major, 16).ok()?,
                u32::from_str_radix(minor, 16).ok()?,
            ),
            inode,
        },
        name,
    })
}

/// Newlines are written as `\012`, and nothing else is escaped.
fn unescape(mut shown: &[u8], name: &mut Vec<u8>) {
    name.clear();
    while let Some((&first, rest)) = shown.split_first() {
        match shown.strip_prefix(b"\\012") {
            Some(rest) => {
                name.push(b'\n');
                shown = rest;
            }
            None => {
                name.push(first);
                shown = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::mappings::Registrable;

    const MAPS: &[u8] = b"\
00001000-00003000 rw-p 00000000 00:00 0                          [heap]
00003000-00005000 rw-p 00000000 00:00 0 
00005000-00007000 r--s 00000000 08:01 42                         /weights.safetensors
00007000-00009000 rw-p 00002000 fe:1f 42                         /a b\\012c\xff (deleted)
0000b000-0000c000 r--p 00000000 00:00 0 
";

    fn kinds(range: Range<usize>) -> Result<Vec<Option<Registrable>>, NotAFile> {
        let mut kinds = Vec::new();
        walk_text(MAPS, &range, |vma| {
            kinds.push(vma.registrable());
            Ok(())
        })?;
        Ok(kinds)
    }

    #[test]
    fn buffers_and_shared_files_can_be_registered() {
        let buffer = Some(Registrable::Anonymous);
        let file = Some(Registrable::SharedReadOnly);
        assert_eq!(kinds(0x1800..0x2800), Ok(vec![buffer]));
        assert_eq!(kinds(0x2000..0x5000), Ok(vec![buffer, buffer]));
        assert_eq!(kinds(0x4000..0x6000), Ok(vec![buffer, file]));
        assert_eq!(kinds(0x7000..0x8000), Ok(vec![None]), "private file");
        assert_eq!(kinds(0xb000..0xc000), Ok(vec![None]), "not writable");
    }

    #[test]
    fn holes_are_noticed() {
        for range in [0x0..0x2000, 0x8000..0xb800, 0xb000..0xd000, 0xd000..0xe000] {
            assert_eq!(kinds(range), Err(NotAFile::Unmapped));
        }
    }

    #[test]
    fn every_field_is_read() {
        walk_text(MAPS, &(0x7000..0x9000), |vma| {
            assert_eq!(vma.range, 0x7000..0x9000);
            assert_eq!(
                (vma.readable, vma.writable, vma.shared),
                (true, true, false)
            );
            assert_eq!(vma.offset, 0x2000);
            assert_eq!((vma.id.device, vma.id.inode), ((0xfe, 0x1f), 42));
            assert_eq!(vma.name, b"/a b\nc\xff (deleted)");
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn readings_that_cost_too_much_are_left_out() {
        let cost = Cost::default();
        let lookup = |bytes| cost.measure(bytes, || Ok(()));
        assert_eq!(lookup(2 << 20), Err(NotAFile::TooCostly), "not known yet");
        assert_eq!(lookup(64 << 20), Ok(()), "the trial");
        cost.last.store(10_000, Ordering::Relaxed);
        assert_eq!(lookup(49_999_999), Err(NotAFile::TooCostly));
        assert_eq!(lookup(50_000_000), Ok(()));
    }
}
