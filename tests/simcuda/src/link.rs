//! How long moving bytes takes.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// One direction of a link, or a staging engine: transfers pass one after the other.
pub struct Link {
    bytes_per_second: f64,
    free_at: Mutex<Option<Instant>>,
}

impl Link {
    /// A link of that rate; 0 means that it takes no time.
    pub fn new(gbps: f64) -> Self {
        let bytes_per_second = gbps * 1e9;
        let free_at = Mutex::new(None);
        Self {
            bytes_per_second,
            free_at,
        }
    }

    /// Sleeps for as long as `bytes` need, behind the transfers that came before.
    pub fn pass(&self, bytes: usize) {
        if self.bytes_per_second <= 0.0 || bytes == 0 {
            return;
        }
        let time = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        let now = Instant::now();
        let end = {
            let mut free_at = self.free_at.lock();
            let end = free_at.map_or(now, |at| at.max(now)) + time;
            *free_at = Some(end);
            end
        };
        std::thread::sleep(end.saturating_duration_since(now));
    }
}
