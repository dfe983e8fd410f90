//! Where in a process's memory the pages of its file belong, as it changes its
//! address space.

use crate::criu::images::{Extent, PAGE};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;

/// Pages of a file and their addresses. What the process gives back is taken out,
/// what it moves goes along; what was filled stays.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// By address: where in the file, and how many bytes.
    places: BTreeMap<u64, (u64, u64)>,
    /// The same by where in the file: address.
    addresses: BTreeMap<u64, u64>,
}

impl Layout {
    pub(super) fn new(extents: &[Extent]) -> Layout {
        let mut layout = Layout::default();
        for extent in extents {
            layout.insert(*extent);
        }
        layout
    }

    /// Where in the file the page at an address is.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        let (begin, (offset, bytes)) = self.places.range(..=address).next_back()?;
        let behind = address - begin;
        (behind < *bytes).then_some(offset + behind)
    }

    /// The first bytes of the file in a range that have an address.
    pub(super) fn first_in(&self, range: Range<u64>) -> Option<Extent> {
        let before = self.addresses.range(..=range.start).next_back();
        let behind = || {
            self.addresses
                .range((Excluded(range.start), Unbounded))
                .next()
        };
        let within = |(offset, address): (&u64, &u64)| {
            let (_, bytes) = self.places[address];
            let begin = range.start.max(*offset);
            let end = range.end.min(offset + bytes);
            (begin < end).then(|| Extent {
                address: address + (begin - offset),
                bytes: end - begin,
                offset: begin,
            })
        };
        before
            .and_then(within)
            .or_else(|| behind().and_then(within))
    }

    /// All that has an address, by where in the file it is.
    #[cfg(test)]
    pub(super) fn extents(&self) -> impl Iterator<Item = Extent> {
        self.addresses.iter().map(|(offset, address)| Extent {
            address: *address,
            bytes: self.places[address].1,
            offset: *offset,
        })
    }

    /// Takes addresses out: what is there from now on is not the file's.
    pub(super) fn take(&mut self, range: Range<u64>) -> Vec<Extent> {
        let (begin, end) = (range.start, range.end.max(range.start));
        let first = self.places.range(..begin).next_back().map(|(at, _)| *at);
        let touched: Vec<_> = first
            .into_iter()
            .chain(self.places.range(begin..end).map(|(at, _)| *at))
            .collect();
        let mut taken = Vec::new();
        for address in touched {
            let (offset, bytes) = self.places[&address];
            let old = Extent {
                address,
                bytes,
                offset,
            };
            let inside = part(old, begin, end);
            if inside.bytes == 0 {
                continue;
            }
            self.places.remove(&address);
            self.addresses.remove(&offset);
            self.insert(part(old, 0, begin));
            self.insert(part(old, end, u64::MAX));
            taken.push(inside);
        }
        taken
    }

    /// Moves what is at `from` to `to`, where nothing else stays.
    pub(super) fn remap(&mut self, from: u64, to: u64, bytes: u64) {
        let (Some(from_end), Some(to_end)) = (from.checked_add(bytes), to.checked_add(bytes))
        else {
            return;
        };
        let moved = self.take(from..from_end);
        self.take(to..to_end);
        for extent in moved {
            self.insert(Extent {
                address: to + (extent.address - from),
                ..extent
            });
        }
    }

    fn insert(&mut self, extent: Extent) {
        if extent.bytes > 0 {
            self.places
                .insert(extent.address, (extent.offset, extent.bytes));
            self.addresses.insert(extent.offset, extent.address);
        }
    }
}

/// The part of an extent between two addresses, in whole pages.
fn part(extent: Extent, begin: u64, end: u64) -> Extent {
    let begin = begin.max(extent.address);
    let end = end.min(extent.address + extent.bytes);
    debug_assert!(begin.is_multiple_of(PAGE));
    Extent {
        address: begin,
        bytes: end.saturating_sub(begin),
        offset: extent.offset + (begin - extent.address).min(extent.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a layout must be, page by page.
    type Model = BTreeMap<u64, u64>;

    const PAGES: u64 = 64;

    fn check(layout: &Layout, model: &Model) {
        for page in 0..PAGES {
            let found = layout.offset_of(page * PAGE);
            assert_eq!(found, model.get(&page).map(|at| at * PAGE), "page {page}");
        }
        let mut listed = Model::new();
        for extent in layout.extents() {
            for page in 0..extent.bytes / PAGE {
                let address = extent.address / PAGE + page;
                listed.insert(address, extent.offset / PAGE + page);
                let at = extent.offset + page * PAGE;
                let found = layout.first_in(at..at + PAGE).unwrap();
                assert_eq!((found.address, found.bytes), (address * PAGE, PAGE));
            }
        }
        assert_eq!(listed, *model);
        let first = layout.first_in(0..u64::MAX).map(|extent| extent.offset);
        assert_eq!(first, model.values().min().map(|at| at * PAGE));
    }

    #[test]
    fn it_is_what_a_map_of_single_pages_would_be() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..300 {
            let mut extents = Vec::new();
            let (mut page, mut offset) = (0, 0);
            while page < PAGES - 8 {
                page += random.u64(0..3);
                let pages = random.u64(1..6);
                extents.push(Extent {
                    address: page * PAGE,
                    bytes: pages * PAGE,
                    offset: offset * PAGE,
                });
                page += pages;
                offset += pages + random.u64(0..2);
            }
            let mut layout = Layout::new(&extents);
            let mut model = Model::new();
            for extent in &extents {
                for page in 0..extent.bytes / PAGE {
                    model.insert(extent.address / PAGE + page, extent.offset / PAGE + page);
                }
            }
            for _ in 0..20 {
                change(&mut layout, &mut model, &mut random);
                check(&layout, &model);
            }
        }
    }

    fn change(layout: &mut Layout, model: &mut Model, random: &mut fastrand::Rng) {
        let pages = random.u64(1..12);
        let from = random.u64(0..PAGES - pages);
        if random.bool() {
            layout.take(from * PAGE..(from + pages) * PAGE);
            model.retain(|page, _| !(from..from + pages).contains(page));
            return;
        }
        // mremap(2) refuses areas that overlap.
        let to = random.u64(0..PAGES - pages);
        if from.abs_diff(to) < pages {
            return;
        }
        layout.remap(from * PAGE, to * PAGE, pages * PAGE);
        let moved: Vec<_> = (0..pages)
            .map(|page| model.remove(&(from + page)))
            .collect();
        for (page, offset) in (0..pages).zip(moved) {
            model.remove(&(to + page));
            if let Some(offset) = offset {
                model.insert(to + page, offset);
            }
        }
    }
}
