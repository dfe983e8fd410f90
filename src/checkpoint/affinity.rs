//! Which CPUs threads may run on, see sched_setaffinity(2): CRIU does not keep it.

use serde::{Deserialize, Serialize};
use std::io;
use std::mem;

/// A thread that may not run everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// Its id.
    pub thread: u32,
    /// The CPUs that it may run on.
    #[serde(deserialize_with = "crate::sealed::bounded::<{ libc::CPU_SETSIZE as usize }, _, _>")]
    pub cpus: Vec<u32>,
}

/// Those threads that may not run on all CPUs of the machine.
pub fn of_threads(threads: &[u32]) -> Vec<Pinned> {
    // SAFETY: a number.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let look = |thread: &u32| {
        let cpus = of(*thread)?;
        let thread = *thread;
        (cpus.len() < online.max(1) as usize).then_some(Pinned { thread, cpus })
    };
    threads.iter().filter_map(look).collect()
}

fn of(thread: u32) -> Option<Vec<u32>> {
    // SAFETY: a set of this function's own, which the call fills.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        let size = size_of_val(&set);
        if libc::sched_getaffinity(thread as i32, size, &mut set) != 0 {
            return None;
        }
        let all = 0..libc::CPU_SETSIZE as u32;
        Some(
            all.filter(|cpu| libc::CPU_ISSET(*cpu as usize, &set))
                .collect(),
        )
    }
}

impl Pinned {
    /// Has the thread run there again. One that has ended since needs nothing.
    ///
    /// # Errors
    /// If there are no such CPUs.
    pub fn pin(&self) -> io::Result<()> {
        // SAFETY: a set of this function's own; numbers beyond it are left out.
        let done = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            let has_place = |cpu: &&u32| **cpu < libc::CPU_SETSIZE as u32;
            for cpu in self.cpus.iter().filter(has_place) {
                libc::CPU_SET(*cpu as usize, &mut set);
            }
            libc::sched_setaffinity(self.thread as i32, size_of_val(&set), &set)
        };
        let error = io::Error::last_os_error();
        match (done, error.raw_os_error()) {
            (0, _) | (_, Some(libc::ESRCH)) => Ok(()),
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_where_it_was() {
        std::thread::spawn(|| {
            // SAFETY: a number.
            let thread = unsafe { libc::gettid() } as u32;
            let cpus = vec![of(thread).unwrap()[0]];
            let pinned = Pinned { thread, cpus };
            pinned.pin().unwrap();
            assert_eq!(of(thread).as_ref(), Some(&pinned.cpus));
            let nowhere = Pinned {
                cpus: vec![libc::CPU_SETSIZE as u32 - 1, u32::MAX],
                ..pinned
            };
            nowhere.pin().unwrap_err();
        })
        .join()
        .unwrap();
        assert!(of_threads(&[u32::MAX >> 1]).is_empty());
    }
}
