//! The largest of many, in little memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The largest of those that were offered; of the same size, the first by name.
#[derive(Debug)]
pub(super) struct Largest<T> {
    most: usize,
    heap: BinaryHeap<Reverse<(u64, Reverse<T>)>>,
}

impl<T: Ord> Largest<T> {
    pub(super) fn new(most: usize) -> Largest<T> {
        Largest {
            most,
            heap: BinaryHeap::new(),
        }
    }

    /// Offers one; it is only made if there is room for it. Empty ones never are.
    pub(super) fn offer(&mut self, bytes: u64, make: impl FnOnce() -> T) {
        let is_full = self.heap.len() >= self.most;
        let least = self.heap.peek().map_or(0, |Reverse((least, _))| *least);
        if bytes == 0 || self.most == 0 || is_full && bytes < least {
            return;
        }
        self.heap.push(Reverse((bytes, Reverse(make()))));
        if self.heap.len() > self.most {
            self.heap.pop();
        }
    }

    /// The largest first.
    pub(super) fn into_sorted(self) -> Vec<(u64, T)> {
        let sorted = self.heap.into_sorted_vec();
        let plain = |Reverse((bytes, Reverse(one)))| (bytes, one);
        sorted.into_iter().map(plain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_stay_in_order() {
        let mut largest = Largest::new(3);
        for (bytes, name) in [(5, "b"), (1, "x"), (9, "c"), (5, "a"), (0, "z"), (5, "d")] {
            largest.offer(bytes, || name);
        }
        assert_eq!(largest.into_sorted(), [(9, "c"), (5, "a"), (5, "b")]);
    }
}
