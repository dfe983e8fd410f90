//! What processes say: faults, and changes of their address spaces.

use super::PagesError;
use super::fill::Filling;
use super::task::{Place, Task};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Events that are taken from epoll(7) at once.
const BATCH: usize = 64;

/// How long one sleeps who is not to listen.
const PAUSE: Duration = Duration::from_millis(10);

/// Most processes of one restore.
const MOST_TASKS: usize = 1 << 16;

/// All processes, and who listens to them.
pub(super) struct Tasks {
    /// By the number that epoll(7) tells.
    all: Mutex<All>,
    epoll: OwnedFd,
    filling: Arc<Filling>,
    /// Held while something that a process says is taken in; whether that is over.
    is_silent: Mutex<bool>,
}

#[derive(Default)]
struct All {
    tasks: HashMap<u64, Arc<Task>>,
    /// How many there were.
    count: u64,
}

impl Tasks {
    /// # Errors
    /// The system's.
    pub(super) fn new(filling: Arc<Filling>) -> io::Result<Tasks> {
        // SAFETY: a system call with an integer.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Tasks {
            all: Mutex::default(),
            // SAFETY: fresh, and nobody else's.
            epoll: unsafe { OwnedFd::from_raw_fd(epoll) },
            filling,
            is_silent: Mutex::new(false),
        })
    }

    /// Listens to nobody any more: forks that are under way never end, other than by
    /// SIGKILL.
    pub(super) fn silence(&self) {
        *self.is_silent.lock() = true;
    }

    /// Fills a process from now on.
    ///
    /// # Errors
    /// The system's, and too many processes.
    pub(super) fn add(&self, task: Task) -> Result<(), PagesError> {
        let raw = task.uffd().raw();
        let task = Arc::new(task);
        let number = {
            let mut all = self.all.lock();
            if all.tasks.len() >= MOST_TASKS {
                let text = format!("more than {MOST_TASKS} processes");
                return Err(PagesError::Protocol(text));
            }
            let number = all.count;
            all.count += 1;
            all.tasks.insert(number, task.clone());
            number
        };
        self.filling.queue.add(task);
        self.listen(raw, number)
            .map_err(|error| PagesError::system("listening to a process", error))
    }

    /// Forgets children that have ended: a process may have thousands of them, one
    /// after another.
    fn forget_ended(&self) {
        let mut all = self.all.lock();
        all.tasks.retain(|_, task| {
            let is_over = task.is_over();
            if is_over {
                self.filling.queue.abandon(task);
            }
            !is_over
        });
    }

    fn listen(&self, raw: RawFd, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: number,
        };
        // SAFETY: open descriptors, one structure.
        let added = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                raw,
                &raw mut event,
            )
        };
        match added {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Listens as long as nothing goes wrong. `forked` is told of children before
    /// they run.
    pub(super) fn listen_to_all(&self, forked: &dyn Fn(&Task)) {
        loop {
            let heard = self.wait();
            let heard = heard.map_err(|error| PagesError::system("epoll", error));
            let told = heard.and_then(|numbers| {
                numbers.into_iter().try_for_each(|number| {
                    let task = self.all.lock().tasks.get(&number).cloned();
                    // The guard may hold the descriptor of one that was forgotten.
                    task.map_or(Ok(()), |task| self.hear(&task, forked))
                })
            });
            if let Err(error) = told {
                return self.filling.queue.fail(error);
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<u64>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: room for so many events.
        let got = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                events.as_mut_ptr(),
                BATCH as libc::c_int,
                -1,
            )
        };
        if got < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        }
        let events = &events[..got as usize];
        Ok(events.iter().map(|event| event.u64).collect())
    }

    fn hear(&self, task: &Arc<Task>, forked: &dyn Fn(&Task)) -> Result<(), PagesError> {
        let is_silent = self.is_silent.lock();
        if *is_silent {
            // Whoever said so ends this process.
            thread::sleep(PAUSE);
            return Ok(());
        }
        let mut trouble = Ok(());
        let mut has_forked = false;
        let faults = task.read_events(|child| {
            has_forked = true;
            forked(&child);
            let added = self.add(child);
            if added.is_err() {
                trouble = added;
            }
        });
        trouble?;
        if has_forked {
            self.forget_ended();
        }
        let faults = faults.map_err(|error| PagesError::system("userfaultfd", error))?;
        let totals = &self.filling.totals;
        for address in faults {
            totals.add_fault();
            match task.place(address) {
                Place::Pending(block) => self.filling.queue.urgent(task.clone(), block, address),
                Place::Claimed => {}
                Place::Zero => {
                    if task.zero(address)? {
                        totals.add_zero();
                    }
                }
            }
        }
        Ok(())
    }
}
