//! Which block is filled next: those that threads wait for, then all in the order
//! of the images.

use super::PagesError;
use super::task::Task;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Something to fill.
pub(super) struct Job {
    pub(super) task: Arc<Task>,
    pub(super) block: u64,
    /// The address that a thread waits for.
    pub(super) fault: Option<u64>,
    /// Whether all of the block is filled, or the page of the fault alone.
    pub(super) is_whole: bool,
}

#[derive(Default)]
struct State {
    /// Processes, and how far all before has been claimed.
    tasks: VecDeque<(Arc<Task>, u64)>,
    urgent: VecDeque<Job>,
    /// Blocks of all processes that are not done.
    open: u64,
    /// Whether CRIU has put everything at its place.
    is_restored: bool,
    /// Workers that may fill what nobody waits for.
    workers: usize,
    end: Option<Result<(), PagesError>>,
}

/// The work, shared by all threads.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub(super) fn new(workers: usize) -> Queue {
        Queue {
            state: Mutex::new(State {
                workers,
                ..State::default()
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn add(&self, task: Arc<Task>) {
        let mut state = self.state.lock();
        state.open += task.open_blocks();
        state.tasks.push_back((task, 0));
        self.changed.notify_all();
    }

    /// A child has ended: nothing of it is left to do.
    pub(super) fn abandon(&self, task: &Arc<Task>) {
        let mut state = self.state.lock();
        state.open -= task.abandon();
        state.tasks.retain(|(one, _)| !Arc::ptr_eq(one, task));
        if state.end_if_done() {
            self.changed.notify_all();
        }
    }

    /// From now on whole blocks may be filled: before, memory is not where it
    /// belongs.
    pub(super) fn restored(&self) {
        let mut state = self.state.lock();
        state.is_restored = true;
        state.end_if_done();
        self.changed.notify_all();
    }

    /// A thread waits for a page of a block.
    pub(super) fn urgent(&self, task: Arc<Task>, block: u64, address: u64) {
        let mut state = self.state.lock();
        state.urgent.push_back(Job {
            task,
            block,
            fault: Some(address),
            is_whole: false,
        });
        self.changed.notify_all();
    }

    /// How many workers may fill what nobody waits for.
    pub(super) fn allow(&self, workers: usize) {
        let mut state = self.state.lock();
        if state.workers != workers {
            state.workers = workers;
            self.changed.notify_all();
        }
    }

    /// What a worker shall do; waits until there is something. `None` when all is
    /// done.
    pub(super) fn next(&self, worker: usize) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.end.is_some() {
                return None;
            }
            if let Some(job) = state.next(worker) {
                return Some(job);
            }
            self.changed.wait(&mut state);
        }
    }

    /// A block that was claimed is done.
    pub(super) fn done(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        if state.end_if_done() {
            self.changed.notify_all();
        }
    }

    /// Ends everything.
    pub(super) fn fail(&self, error: PagesError) {
        self.state.lock().end.get_or_insert(Err(error));
        self.changed.notify_all();
    }

    /// Waits for the end, for so long; `None` if it is not there by then.
    pub(super) fn end(&self, limit: Duration) -> Option<Result<(), PagesError>> {
        let mut state = self.state.lock();
        let is_on = |state: &mut State| state.end.is_none();
        self.changed.wait_while_for(&mut state, is_on, limit);
        let end = state.end.take()?;
        // Nobody begins anything any more.
        state.end = Some(Ok(()));
        Some(end)
    }
}

impl State {
    fn next(&mut self, worker: usize) -> Option<Job> {
        while let Some(job) = self.urgent.pop_front() {
            if !self.is_restored {
                return Some(job);
            }
            if job.task.claim(job.block) {
                return Some(Job {
                    is_whole: true,
                    ..job
                });
            }
            // Somebody else is at it: the thread will look again, and be noted.
            if let Some(address) = job.fault {
                job.task.wake(address);
            }
        }
        if !self.is_restored || worker >= self.workers {
            return None;
        }
        while let Some((task, next)) = self.tasks.front_mut() {
            while *next < task.blocks() {
                let block = *next;
                *next += 1;
                if task.claim(block) {
                    return Some(Job {
                        task: task.clone(),
                        block,
                        fault: None,
                        is_whole: true,
                    });
                }
            }
            self.tasks.pop_front();
        }
        None
    }

    fn end_if_done(&mut self) -> bool {
        let is_done = self.is_restored && self.open == 0;
        if is_done {
            self.end.get_or_insert(Ok(()));
        }
        is_done
    }
}
