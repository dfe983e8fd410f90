//! A contest between two ways of reading, held while reading.
//!
//! The first way is the one that is usually better, and reads a lead. Then the
//! second reads a window. If it was clearly faster, both read one more window
//! each, and only a second way that is clearly faster again reads the rest; else
//! the first does. So a way that loses costs one window, and one lucky window
//! decides nothing.
//!
//! What counts is the time for which workers waited for bytes. The first bytes
//! of a turn do not count: in that time memory is touched for the first time,
//! rings are made, and what the other way has begun is still on its way.

use std::time::Duration;

/// The second way has to be so many times as fast as the first: where it matters
/// it is, and disks differ by less from one moment to the next.
const CLEARLY: f64 = 1.5;

/// And in so many windows, one after the other.
const ROUNDS: u32 = 2;

/// Bytes, and the time that workers waited for them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    bytes: u64,
    waited: Duration,
}

impl Tally {
    /// Adds a measurement. Those before it count half once there are `memory`
    /// bytes of them.
    pub(super) fn add(&mut self, bytes: u64, waited: Duration, memory: u64) {
        if self.bytes > memory {
            self.bytes /= 2;
            self.waited /= 2;
        }
        self.bytes += bytes;
        self.waited += waited;
    }

    /// Bytes a nanosecond, that is GB/s, of one worker.
    pub(super) fn rate(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.bytes as f64 / self.waited.as_nanos().max(1) as f64)
    }
}

/// How long the turns of a contest are, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    /// The first turn of the first way.
    pub(super) lead: u64,
    /// Every other turn.
    pub(super) window: u64,
    /// What does not count at the beginning of a turn.
    pub(super) warm_up: u64,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// 0 for the first way, 1 for the second.
    pub(super) way: usize,
    /// Whether the time that it takes is evidence.
    pub(super) counts: bool,
}

#[derive(Debug)]
enum Phase {
    First,
    Second,
    /// The second has begun its window, but not all of it has arrived; the first
    /// reads on.
    Judging,
    Settled(usize),
}

/// A contest.
#[derive(Debug)]
pub(super) struct Trial {
    lengths: Lengths,
    phase: Phase,
    /// Bytes begun in this phase.
    begun: u64,
    rounds_won: u32,
    tallies: [Tally; 2],
}

impl Trial {
    pub(super) fn new(lengths: Lengths) -> Trial {
        Trial {
            lengths,
            phase: Phase::First,
            begun: 0,
            rounds_won: 0,
            tallies: Default::default(),
        }
    }

    /// Which way reads the next `bytes`.
    pub(super) fn next(&mut self, bytes: u64) -> Turn {
        let turn = match self.phase {
            Phase::First => 0,
            Phase::Second => 1,
            Phase::Judging => {
                self.judge();
                return Turn {
                    way: self.settled().unwrap_or(0),
                    counts: false,
                };
            }
            Phase::Settled(way) => return Turn { way, counts: false },
        };
        let counts = self.begun >= self.lengths.warm_up;
        self.begun += bytes;
        let length = match self.rounds_won {
            0 if turn == 0 => self.lengths.lead,
            _ => self.lengths.window,
        };
        if self.begun >= length {
            self.begun = 0;
            self.phase = match turn {
                0 => Phase::Second,
                _ => Phase::Judging,
            };
        }
        Turn { way: turn, counts }
    }

    /// Workers waited so long for what a turn read.
    pub(super) fn measured(&mut self, turn: Turn, bytes: u64, waited: Duration) {
        if turn.counts {
            self.tallies[turn.way].add(bytes, waited, u64::MAX);
        }
    }

    fn settled(&self) -> Option<usize> {
        match self.phase {
            Phase::Settled(way) => Some(way),
            _ => None,
        }
    }

    fn judge(&mut self) {
        let [first, second] = self.tallies;
        if second.bytes < (self.lengths.window - self.lengths.warm_up) / 2 {
            return;
        }
        let faster = match (first.rate(), second.rate()) {
            (Some(first), Some(second)) => second > first * CLEARLY,
            _ => false,
        };
        self.rounds_won += u32::from(faster);
        self.tallies = Default::default();
        self.phase = match faster {
            false => Phase::Settled(0),
            true if self.rounds_won == ROUNDS => Phase::Settled(1),
            true => Phase::First,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: Lengths = Lengths {
        lead: 800,
        window: 100,
        warm_up: 20,
    };

    /// Reads by a contest; `cost` says how many nanoseconds a byte of a way's
    /// turn takes, by the number of bytes before it. Returns the ways of every
    /// ten bytes.
    fn read(bytes: u64, cost: impl Fn(Turn, u64) -> u64) -> Vec<usize> {
        let mut trial = Trial::new(LENGTHS);
        let steps = (0..bytes / 10).map(|step| {
            let turn = trial.next(10);
            let waited = Duration::from_nanos(10 * cost(turn, step * 10));
            trial.measured(turn, 10, waited);
            turn.way
        });
        steps.collect()
    }

    fn seconds(ways: &[usize]) -> usize {
        10 * ways.iter().sum::<usize>()
    }

    #[test]
    fn a_slower_second_way_reads_one_window() {
        for cost in [[100, 100], [100, 300], [100, 67]] {
            let ways = read(10_000, |turn, _| cost[turn.way]);
            assert_eq!(seconds(&ways), 100, "{cost:?}");
            assert_eq!(ways[..80], [0; 80], "after the lead");
        }
    }

    #[test]
    fn a_clearly_faster_second_way_reads_the_rest_after_two_windows() {
        let ways = read(10_000, |turn, _| [100, 66][turn.way]);
        // The lead, a window, ten bytes until that is judged, a window each.
        assert_eq!(seconds(&ways[..111]), 200);
        assert_eq!(ways[111..], [1; 1000 - 111]);
    }

    #[test]
    fn one_lucky_window_decides_nothing() {
        let ways = read(10_000, |turn, at| match turn.way {
            0 => 100,
            _ if at < 1000 => 1,
            _ => 100,
        });
        assert_eq!(seconds(&ways), 200);
    }

    #[test]
    fn what_comes_first_in_a_turn_does_not_count() {
        let slow_start = |turn: Turn, _| match turn.counts {
            true => [100, 50][turn.way],
            false => 100_000,
        };
        assert_eq!(read(10_000, slow_start).last(), Some(&1));
        let slow_start = |turn: Turn, _| match (turn.counts, turn.way) {
            (true, _) => 100,
            (false, 0) => 100_000,
            (false, _) => 1,
        };
        assert_eq!(read(10_000, slow_start).last(), Some(&0));
    }

    #[test]
    fn the_first_way_reads_on_until_the_second_has_shown_something() {
        let mut trial = Trial::new(LENGTHS);
        let ways: Vec<_> = (0..500).map(|_| trial.next(10).way).collect();
        assert_eq!(seconds(&ways), 100);
        assert_eq!(ways[90..], [0; 410]);
    }
}
