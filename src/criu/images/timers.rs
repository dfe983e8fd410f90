//! `files.img`: timers that CRIU would stop for ever.
//!
//! A periodic timer of timerfd_create(2) that has expired, and that nobody has read
//! since, tells no time to its next expiration. CRIU writes that down as 0, which
//! disarms the timer at the restore: whoever waits for it waits for ever.

use super::protobuf::{Field, Value, fields};
use super::{Entries, ImageError, ImageReason};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// `FILES_MAGIC`.
const MAGIC: u32 = 0x5630_3138;

/// Length of the head of the file, and of an entry's length, in bytes.
const HEAD: u64 = 8;
const LENGTH: u64 = 4;

/// Fields of `file_entry` (`images/fdinfo.proto`) and `timerfd_entry`
/// (`images/timerfd.proto`).
const TIMERFD: u32 = 12;
const TICKS: u32 = 5;
const SECONDS: u32 = 7;
const NANOSECONDS: u32 = 8;
const INTERVAL: [u32; 2] = [9, 10];

/// Has those timers expire once more right after the restore, and so go on. Returns
/// how many there are.
///
/// # Errors
/// If the image cannot be read, is none, or cannot be written.
pub fn rearm_timers(path: &Path) -> Result<usize, ImageError> {
    let mut entries = Entries::open(path, MAGIC)?;
    let mut places = Vec::new();
    let mut begin = HEAD;
    while let Some(entry) = entries.next()? {
        begin += LENGTH;
        let place = stopped(&entry).map_err(|reason| entries.was_wrong(reason))?;
        places.extend(place.map(|place| begin + place as u64));
        begin += entry.len() as u64;
    }
    let write = || -> io::Result<()> {
        let file = File::options().write(true).open(path)?;
        // 1 ns. A number below 128 is one byte, as 0 is.
        let mut places = places.iter();
        places.try_for_each(|place| file.write_all_at(&[1], *place))
    };
    if !places.is_empty() {
        write().map_err(|error| ImageError::new(path, error))?;
    }
    Ok(places.len())
}

/// Where in the entry of a file the nanoseconds of such a timer are.
fn stopped(entry: &[u8]) -> Result<Option<usize>, ImageReason> {
    for field in fields(entry) {
        let field = field?;
        if field.number == TIMERFD && field.value == Value::Bytes {
            let begin = field.at.start;
            let place = stopped_timer(&entry[field.at])?;
            return Ok(place.map(|place| begin + place));
        }
    }
    Ok(None)
}

fn stopped_timer(timer: &[u8]) -> Result<Option<usize>, ImageReason> {
    let (mut is_periodic, mut ticks, mut seconds, mut place) = (false, 0, 0, None);
    for field in fields(timer) {
        let Field { number, value, at } = field?;
        let Value::Number(value) = value else {
            continue;
        };
        match number {
            TICKS => ticks = value,
            SECONDS => seconds = value,
            NANOSECONDS => place = (value == 0 && at.len() == 1).then_some(at.start),
            number if INTERVAL.contains(&number) => is_periodic |= value != 0,
            _ => {}
        }
    }
    // Without an expiration it was stopped by its owner.
    Ok(place.filter(|_| is_periodic && ticks > 0 && seconds == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image with one timer.
    fn image(name: &str, ticks: u8, value: [u8; 2], interval: u8) -> std::path::PathBuf {
        let [seconds, nanoseconds] = value;
        let numbers = [
            (5, ticks),
            (7, seconds),
            (8, nanoseconds),
            (9, interval),
            (10, 0),
        ];
        let timer: Vec<u8> = numbers.iter().flat_map(|(n, v)| [n << 3, *v]).collect();
        let mut entry = vec![1 << 3, 17, 2 << 3, 5, 12 << 3 | 2, timer.len() as u8];
        entry.extend(timer);
        let mut bytes = 0x5456_4319u32.to_le_bytes().to_vec();
        bytes.extend(MAGIC.to_le_bytes());
        for entry in [&[1 << 3, 1][..], &entry] {
            bytes.extend((entry.len() as u32).to_le_bytes());
            bytes.extend(entry);
        }
        let path = std::env::temp_dir().join(format!("rewarm-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn only_periodic_timers_that_have_expired_are_armed_again() {
        let again = image("timer-expired", 1, [0, 0], 3);
        assert_eq!(rearm_timers(&again).unwrap(), 1);
        let wanted = image("timer-wanted", 1, [0, 1], 3);
        assert_eq!(
            std::fs::read(&again).unwrap(),
            std::fs::read(&wanted).unwrap()
        );
        for other in [
            wanted.clone(),
            again.clone(),
            image("timer-runs", 1, [2, 0], 3),
            image("timer-once", 1, [0, 0], 0),
            image("timer-stopped", 0, [0, 0], 3),
        ] {
            assert_eq!(rearm_timers(&other).unwrap(), 0);
            let _ = std::fs::remove_file(other);
        }
    }
}
