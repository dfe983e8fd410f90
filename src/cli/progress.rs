//! A progress bar, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(100);

const TEMPLATE: &str = "{prefix} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}";

/// Works, and shows meanwhile how many of the bytes are done. Leaves nothing on
/// the screen.
pub(super) fn during<T>(
    doing: &'static str,
    bytes: u64,
    done: &AtomicU64,
    work: impl FnOnce() -> T,
) -> T {
    if !stderr().is_terminal() {
        return work();
    }
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or(ProgressStyle::default_bar());
    let bar = ProgressBar::new(bytes).with_style(style).with_prefix(doing);
    let is_over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let draw = || {
            while !is_over.load(Relaxed) {
                bar.set_position(done.load(Relaxed));
                thread::park_timeout(PERIOD);
            }
        };
        // Without the thread there is no bar, and the work is done all the same.
        let drawing = thread::Builder::new().spawn_scoped(scope, draw);
        let result = work();
        is_over.store(true, Relaxed);
        if let Ok(drawing) = drawing {
            drawing.thread().unpark();
        }
        result
    });
    bar.finish_and_clear();
    result
}
