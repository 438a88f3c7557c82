//! An ordered set of disjoint half-open ranges, a value each, with a search for free gaps.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::AllocError;

mod error;

pub use error::{InsertError, RangeError};

/// An ordered set of disjoint ranges `start..end` of `u64`, with a value of type `V` each.
pub struct RangeTree<V> {
    entries: Vec<(Range<u64>, V)>,
}

impl<V> RangeTree<V> {
    /// An empty tree, which owns no memory.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn idx(&self, addr: u64) -> usize {
        self.entries.partition_point(|(r, _)| r.end <= addr)
    }

    fn at(&self, i: usize) -> Option<(Range<u64>, &V)> {
        self.entries.get(i).map(|(r, v)| (r.clone(), v))
    }

    /// The entry that contains `addr`. Linux: `vma_lookup`.
    pub fn get(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        self.find(addr).filter(|(r, _)| r.start <= addr)
    }

    /// Like [`get`](Self::get), with the value to write to.
    pub fn get_mut(&mut self, addr: u64) -> Option<(Range<u64>, &mut V)> {
        self.find_mut(addr).filter(|(r, _)| r.start <= addr)
    }

    /// The first entry with `end > addr`: the one that contains `addr`, or else the next. Linux: `find_vma`.
    pub fn find(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        self.at(self.idx(addr))
    }

    /// Like [`find`](Self::find), with the value to write to.
    pub fn find_mut(&mut self, addr: u64) -> Option<(Range<u64>, &mut V)> {
        let i = self.idx(addr);
        self.entries.get_mut(i).map(|(r, v)| (r.clone(), v))
    }

    /// The last entry with `end <= addr`: the nearest one wholly below `addr`.
    pub fn prev(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        self.at(self.idx(addr).wrapping_sub(1))
    }

    /// The first entry with `start > addr`; given an entry's start, its successor.
    pub fn next_after(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        self.at(self.entries.partition_point(|(r, _)| r.start <= addr))
    }

    /// The entry with the lowest addresses.
    pub fn first(&self) -> Option<(Range<u64>, &V)> {
        self.at(0)
    }

    /// The entry with the highest addresses.
    pub fn last(&self) -> Option<(Range<u64>, &V)> {
        self.at(self.len().wrapping_sub(1))
    }

    /// Makes the next `inserts` insertions unable to run out of memory.
    ///
    /// # Errors
    /// [`AllocError`] if the memory cannot be had.
    pub fn reserve(&mut self, inserts: usize) -> Result<(), AllocError> {
        self.entries.try_reserve(inserts).map_err(|_| AllocError)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`RangeError::Empty`], [`RangeError::Overlap`] or [`RangeError::OutOfMemory`], with the value.
    pub fn insert(&mut self, range: Range<u64>, value: V) -> Result<(), InsertError<V>> {
        let i = self.idx(range.start);
        let error = if range.is_empty() {
            RangeError::Empty
        } else if self.at(i).is_some_and(|(r, _)| r.start < range.end) {
            RangeError::Overlap
        } else if self.reserve(1).is_err() {
            RangeError::OutOfMemory
        } else {
            self.entries.insert(i, (range, value));
            return Ok(());
        };
        Err(InsertError { error, value })
    }

    /// Takes out the entry that starts at `start`.
    pub fn remove(&mut self, start: u64) -> Option<(Range<u64>, V)> {
        let i = self.idx(start);
        self.at(i).is_some_and(|(r, _)| r.start == start).then(|| self.entries.remove(i))
    }

    /// Takes out the entry with the lowest addresses.
    pub fn pop_first(&mut self) -> Option<(Range<u64>, V)> {
        let start = self.first()?.0.start;
        self.remove(start)
    }

    /// Moves the bounds of the entry that starts at `start`; it keeps its place between its neighbours.
    ///
    /// # Errors
    /// [`RangeError::NotFound`], [`RangeError::Empty`] or [`RangeError::Overlap`].
    pub fn resize(&mut self, start: u64, new_range: Range<u64>) -> Result<(), RangeError> {
        let i = self.idx(start);
        if self.at(i).is_none_or(|(r, _)| r.start != start) {
            return Err(RangeError::NotFound);
        }
        if new_range.is_empty() {
            return Err(RangeError::Empty);
        }
        let below = self.at(i.wrapping_sub(1)).map_or(0, |(r, _)| r.end);
        let above = self.at(i + 1).map_or(u64::MAX, |(r, _)| r.start);
        if new_range.start < below || new_range.end > above {
            return Err(RangeError::Overlap);
        }
        self.entries[i].0 = new_range;
        Ok(())
    }

    /// Takes out everything, and gives the memory back.
    pub fn clear(&mut self) {
        self.entries = Vec::new();
    }

    /// All entries, in order of address.
    pub fn iter(&self) -> Iter<'_, V> {
        self.range(0..u64::MAX)
    }

    /// The entries with `end > addr`, in order of address.
    pub fn iter_from(&self, addr: u64) -> Iter<'_, V> {
        self.range(addr..u64::MAX)
    }

    /// The entries that intersect `within`, in order of address.
    pub fn range(&self, within: Range<u64>) -> Iter<'_, V> {
        Iter { tree: self, at: self.idx(within.start), end: within.end }
    }

    /// All values, to write to, in no particular order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, v)| v)
    }

    /// The lowest multiple of `align` in `within` at which `len` addresses are free, all of them in `within`.
    ///
    /// # Panics
    /// If `align` is not a power of two.
    pub fn lowest_gap(&self, within: Range<u64>, len: u64, align: u64) -> Option<u64> {
        assert!(align.is_power_of_two(), "alignment is not a power of two");
        let mut at = within.start;
        for (r, ()) in self.range(within.clone()).map(|(r, _)| (r, ())).chain([(within.end..u64::MAX, ())]) {
            if let Some(a) = at.checked_next_multiple_of(align) {
                if len > 0 && a.checked_add(len).is_some_and(|e| e <= r.start.min(within.end)) {
                    return Some(a);
                }
            }
            at = at.max(r.end);
        }
        None
    }

    /// The highest multiple of `align` in `within` at which `len` addresses are free, all of them in `within`.
    ///
    /// # Panics
    /// If `align` is not a power of two.
    pub fn highest_gap(&self, within: Range<u64>, len: u64, align: u64) -> Option<u64> {
        assert!(align.is_power_of_two(), "alignment is not a power of two");
        let mut at = within.start;
        let mut best = None;
        for r in self.range(within.clone()).map(|(r, _)| r).chain(core::iter::once(within.end..u64::MAX)) {
            let top = r.start.min(within.end);
            if let Some(a) = top.checked_sub(len).map(|a| a & !(align - 1)) {
                if len > 0 && a >= at {
                    best = Some(a);
                }
            }
            at = at.max(r.end);
        }
        best
    }

    /// How many nodes lie on the way from the root to an entry.
    pub fn height(&self) -> usize {
        0
    }

    /// Checks every invariant of MODEL.md, in O(n).
    ///
    /// # Panics
    /// If one does not hold.
    pub fn validate(&self) {
        for w in self.entries.windows(2) {
            assert!(w[0].0.end <= w[1].0.start);
        }
    }
}

impl<V> Default for RangeTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: fmt::Debug> fmt::Debug for RangeTree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'a, V> IntoIterator for &'a RangeTree<V> {
    type Item = (Range<u64>, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

/// Entries in order of address; made by [`RangeTree::iter`] and its kin.
#[derive(Debug)]
pub struct Iter<'a, V> {
    tree: &'a RangeTree<V>,
    at: usize,
    end: u64,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (Range<u64>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let hit = self.tree.at(self.at).filter(|(r, _)| r.start < self.end)?;
        self.at += 1;
        Some(hit)
    }
}
