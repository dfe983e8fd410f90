//! The same work on several things at once.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// Does `work` on every number below `count`, with at most so many threads. None
/// is begun after one has failed; the error is that of the lowest number that
/// failed. Threads inherit the caller's signal mask.
pub(super) fn each<E: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let go = || loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= count {
            return;
        }
        if let Err(error) = work(number) {
            next.store(count, Relaxed);
            let mut failure = failure.lock();
            if failure.as_ref().is_none_or(|(other, _)| number < *other) {
                *failure = Some((number, error));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            // With fewer threads it takes longer.
            let _ = thread::Builder::new()
                .name("rewarm-snapshot".into())
                .spawn_scoped(scope, go);
        }
        go();
    });
    failure.into_inner().map_or(Ok(()), |(_, error)| Err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_once_and_the_first_failure_is_told() {
        for threads in [1, 2, 5] {
            let done: Vec<_> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            let add = |number: usize| {
                done[number].fetch_add(1, Relaxed);
                Ok::<(), usize>(())
            };
            assert_eq!(each(done.len(), threads, add), Ok(()));
            assert!(done.iter().all(|count| count.load(Relaxed) == 1));
            let fail = |number| {
                if number % 10 == 7 {
                    Err(number)
                } else {
                    Ok(())
                }
            };
            assert_eq!(each(done.len(), threads, fail), Err(7));
        }
        assert_eq!(each(0, 4, |_| Err(())), Ok(()));
    }
}
