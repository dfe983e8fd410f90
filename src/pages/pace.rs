//! A limit on how fast a reading goes.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// A rate that all workers of a reading keep to together.
///
/// Bytes are spread evenly in time: each request is given the moment at which the
/// ones before it are through, so there is no burst to save up.
pub(super) struct Pace {
    bytes_per_second: f64,
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Pace {
        Pace {
            bytes_per_second: bytes_per_second.max(1) as f64,
            next: Mutex::new(Instant::now()),
        }
    }

    /// How long to wait before reading so many bytes.
    fn turn(&self, bytes: usize, now: Instant) -> Duration {
        let mut next = self.next.lock();
        let begin = (*next).max(now);
        *next = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        begin - now
    }

    /// Waits until so many bytes may be read.
    pub(super) fn wait(&self, bytes: usize) {
        let pause = self.turn(bytes, Instant::now());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_evenly() {
        let pace = Pace::new(1000);
        let now = *pace.next.lock();
        let waits: Vec<_> = (0..4).map(|_| pace.turn(100, now).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 300]);
        let later = now + Duration::from_secs(10);
        assert_eq!(pace.turn(100, later).as_millis(), 0, "nothing is saved up");
        assert_eq!(pace.turn(100, later).as_millis(), 100);
    }
}
