//! Progress bars, on a terminal only.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rewarm::control::{Phase, Progress};
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
    let bar = self::bytes(doing);
    bar.set_length(bytes);
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

/// A bar for a number of bytes, on a terminal only.
pub(super) fn bytes(doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or(ProgressStyle::default_bar());
    let target = if stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    ProgressBar::with_draw_target(None, target)
        .with_style(style)
        .with_prefix(doing)
}

/// One bar for each of several processes, on a terminal only.
pub(super) struct Bars(MultiProgress);

impl Bars {
    pub(super) fn new() -> Bars {
        let target = if stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Bars(MultiProgress::with_draw_target(target))
    }

    pub(super) fn add(&self, name: String) -> Bar {
        let bar = self.0.add(ProgressBar::new_spinner().with_prefix(name));
        Bar { bar, shown: None }
    }
}

/// A bar of [`Bars`]. Leaves nothing on the screen.
pub(super) struct Bar {
    bar: ProgressBar,
    /// The phase, and whether it is counted.
    shown: Option<(Phase, bool)>,
}

impl Bar {
    pub(super) fn show(&mut self, progress: Progress) {
        let shown = (progress.phase, progress.total > 0);
        if self.shown.replace(shown) != Some(shown) {
            self.begin(progress);
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
    }

    fn begin(&self, progress: Progress) {
        let template = if progress.total > 0 { PHASE } else { UNCOUNTED };
        let style = ProgressStyle::with_template(template);
        self.bar
            .set_style(style.unwrap_or(ProgressStyle::default_bar()));
        self.bar.set_message(name(progress.phase));
        self.bar.reset_eta();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

const PHASE: &str = "{prefix}: {msg} {wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}";
const UNCOUNTED: &str = "{prefix}: {msg} {spinner}";

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "making room",
        Phase::Draining => "waiting for calls and streams",
        Phase::Scanning => "looking for what changed",
        Phase::Storing => "storing",
        Phase::Committing => "committing",
        Phase::Waiting => "waiting for free GPU memory",
        Phase::Loading => "loading",
        Phase::Verifying => "verifying",
    }
}
