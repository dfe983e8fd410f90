//! The threads behind the lanes, and the queue that they take copies from.

use super::job::Job;
use super::lane::Lane;
use super::mapped_file::SourceFiles;
use super::staging::Staging;
use super::streams::Streams;
use crate::driver::Driver;
use crate::driver::sys::{CU_STREAM_CAPTURE_MODE_RELAXED, CUcontext};
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
// The standard condition variable wakes all its waiters at once; parking_lot's
// wakes one after the other, which on a virtual machine takes longer than a
// small copy.
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Chunks of one copy that a worker takes before it looks at the next copy, so
/// that a small copy does not wait for a large one of another thread.
const TURN: usize = 4;

/// How long a worker looks for more work before it sleeps. Being woken takes
/// longer than staging a chunk, so within a series of copies workers stay awake;
/// after a single copy they do not.
const SPIN_IN_SERIES: Duration = Duration::from_millis(1);
const SPIN: Duration = Duration::from_micros(50);

/// How long the files behind sources stay open after the last copy.
const FILES_STAY_OPEN: Duration = Duration::from_secs(1);

/// What all threads of a lane set share.
pub(super) struct Shared {
    pub(super) driver: Driver,
    pub(super) context: CUcontext,
    pub(super) staging: Staging,
    pub(super) streams: Streams,
    pub(super) files: SourceFiles,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Goes up whenever the queue gets something to look at.
    news: AtomicU64,
}

// SAFETY: the context is a handle that may be made current in any thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Arc<Job>>,
    stopping: bool,
}

impl Shared {
    pub(super) fn new(
        driver: Driver,
        context: CUcontext,
        staging: Staging,
        streams: Streams,
        files: SourceFiles,
    ) -> Shared {
        Shared {
            driver,
            context,
            staging,
            streams,
            files,
            queue: Mutex::default(),
            wake: Condvar::new(),
            news: AtomicU64::new(0),
        }
    }

    /// Has sleeping workers look for a copy, which will be offered soon: waking
    /// takes as long as waiting for a stream.
    pub(super) fn alert(&self) {
        // Under the lock, so that no worker falls asleep between its look and
        // this.
        let queue = self.lock();
        self.news.fetch_add(1, Ordering::Release);
        drop(queue);
        self.wake.notify_all();
    }

    /// Puts a copy before the workers.
    pub(super) fn offer(&self, job: &Arc<Job>) {
        self.lock().jobs.push_back(job.clone());
        self.alert();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic ends the process; nothing is left half done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next copy to work on, the one that waited longest for a turn.
    /// `in_series` says whether copies have been following each other.
    fn next(&self, in_series: &mut bool) -> Option<Arc<Job>> {
        let idle_since = Instant::now();
        loop {
            let mut queue = self.lock();
            let seen = self.news.load(Ordering::Acquire);
            while let Some(job) = queue.jobs.pop_front() {
                if !job.is_exhausted() {
                    queue.jobs.push_back(job.clone());
                    *in_series = idle_since.elapsed() < SPIN_IN_SERIES;
                    return Some(job);
                }
            }
            if queue.stopping {
                return None;
            }
            drop(queue);
            self.wait_for_news(seen, if *in_series { SPIN_IN_SERIES } else { SPIN });
        }
    }

    fn wait_for_news(&self, seen: u64, spin: Duration) {
        let is_old = || self.news.load(Ordering::Acquire) == seen;
        let begun = Instant::now();
        while is_old() && begun.elapsed() < spin {
            std::hint::spin_loop();
        }
        let mut queue = self.lock();
        while is_old() {
            queue = self.sleep(queue);
        }
    }

    /// Sleeps until woken, or until it is time to give descriptors back.
    fn sleep<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        if !self.files.are_open() {
            let woken = self.wake.wait(queue);
            return woken.unwrap_or_else(PoisonError::into_inner);
        }
        let woken = self.wake.wait_timeout(queue, FILES_STAY_OPEN);
        let (queue, slept) = woken.unwrap_or_else(PoisonError::into_inner);
        if slept.timed_out() {
            self.files.close();
        }
        queue
    }

    fn stop(&self) {
        self.lock().stopping = true;
        self.alert();
    }
}

/// The threads of a lane set; each owns one lane.
pub(super) struct Crew(Vec<JoinHandle<Lane>>);

impl Crew {
    /// Starts a thread for each lane. Lanes whose thread cannot start are
    /// returned: the set works without them.
    pub(super) fn start(shared: &Arc<Shared>, lanes: Vec<Lane>) -> (Crew, Vec<Lane>) {
        let mut threads = Vec::new();
        let mut left = Vec::new();
        let signals = SignalsBlocked::new();
        for lane in lanes {
            let place = Arc::new(parking_lot::Mutex::new(Some(lane)));
            let (shared, taken) = (shared.clone(), place.clone());
            let thread = Builder::new()
                .name("rewarm-lane".into())
                .stack_size(256 << 10)
                .spawn(move || {
                    let mut lane = taken.lock().take().expect("the lane is put there once");
                    work(&shared, &mut lane);
                    lane
                });
            match thread {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    tracing::warn!(%error, "a lane's thread did not start");
                    left.extend(place.lock().take());
                }
            }
        }
        drop(signals);
        (Crew(threads), left)
    }

    /// Number of threads.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Ends the threads and takes their lanes back.
    pub(super) fn stop(&mut self, shared: &Shared) -> Vec<Lane> {
        shared.stop();
        self.0
            .drain(..)
            .filter_map(|thread| thread.join().ok())
            .collect()
    }
}

fn work(shared: &Shared, lane: &mut Lane) {
    let mut mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the context outlives the crew. Our calls must not invalidate a
    // capture of the application's, hence the mode.
    let ready = unsafe {
        shared
            .driver
            .set_current_context(shared.context)
            .and_then(|()| shared.driver.exchange_capture_mode(&mut mode))
    };
    if let Err(error) = ready {
        tracing::warn!(%error, "a lane's thread has no context");
        return;
    }
    let mut in_series = false;
    while let Some(job) = shared.next(&mut in_series) {
        lane.run(&shared.driver, &shared.staging, &job, TURN);
    }
}

const FAULTS: [libc::c_int; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
];

/// Blocks signals of the calling thread while it lives: threads started
/// meanwhile inherit that, and are never chosen to run a handler of the
/// application's. Faults stay deliverable: lanes touch the application's memory,
/// and some applications map theirs in a handler.
pub struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    /// Blocks all but faults.
    #[allow(clippy::new_without_default)]
    pub fn new() -> SignalsBlocked {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: each set is filled before it is used.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            for fault in FAULTS {
                libc::sigdelset(all.as_mut_ptr(), fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            SignalsBlocked(before.assume_init())
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set that `new` was given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}
