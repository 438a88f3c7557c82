//! Entries in order of address.

use core::ops::Range;

use super::path::Path;
use super::{Entry, RangeTree};

impl<V> RangeTree<V> {
    /// All entries, in order of address.
    pub fn iter(&self) -> Iter<'_, V> {
        self.range(0..u64::MAX)
    }

    /// The entries with `end > addr`, in order of address.
    pub fn iter_from(&self, addr: u64) -> Iter<'_, V> {
        self.range(addr..u64::MAX)
    }

    /// The entries that intersect `within`, in order of address. O(log n) for the first, amortised O(1) for the others.
    pub fn range(&self, within: Range<u64>) -> Iter<'_, V> {
        let some = !self.is_empty() && !within.is_empty();
        Iter {
            tree: self,
            next: some.then(|| self.path_to(within.start)),
            end: within.end,
        }
    }

    /// Calls `f` for the entries that intersect `within`, in order of address, with the value to write to.
    pub fn for_each_mut(&mut self, within: Range<u64>, mut f: impl FnMut(Range<u64>, &mut V)) {
        if self.is_empty() || within.is_empty() {
            return;
        }
        let mut path = self.path_to(within.start);
        while let Some(item) = self.item_at(&path) {
            if item.start >= within.end {
                return;
            }
            f(
                item.start..item.end,
                self.slots.get_mut(item.to).value_mut(),
            );
            if !self.step_forward(&mut path) {
                return;
            }
        }
    }

    /// All values, to write to, in no particular order; it costs the room that the tree ever had.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Entry::Full(value) => Some(value),
            Entry::Vacant(_) => None,
        })
    }
}

/// Entries in order of address; made by [`RangeTree::iter`] and its kin.
#[derive(Debug)]
pub struct Iter<'a, V> {
    tree: &'a RangeTree<V>,
    next: Option<Path>,
    end: u64,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (Range<u64>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.next.as_mut()?;
        let item = self.tree.item_at(path).filter(|item| item.start < self.end);
        if item.is_none() || !self.tree.step_forward(path) {
            self.next = None;
        }
        item.map(|item| self.tree.entry(item))
    }
}

impl<V> core::iter::FusedIterator for Iter<'_, V> {}

impl<V> Clone for Iter<'_, V> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, V> IntoIterator for &'a RangeTree<V> {
    type Item = (Range<u64>, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}
