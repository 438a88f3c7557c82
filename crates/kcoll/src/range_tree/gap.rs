//! The search for free addresses.
//!
//! An item knows the largest gap between the entries below it (INV-5), so a subtree without a gap that is large enough is
//! never entered. The gaps before the first and after the last entry belong to nobody and are tried here.

use core::ops::Range;

use super::RangeTree;
use super::node::Node;

/// What is looked for.
struct Query {
    within: Range<u64>,
    len: u64,
    align: u64,
}

impl<V> RangeTree<V> {
    /// The lowest multiple of `align` in `within` from which `len` addresses are free, all of them in `within`.
    ///
    /// Linux: `vm_unmapped_area` without `VM_UNMAPPED_AREA_TOPDOWN`, `mas_empty_area`.
    ///
    /// `None` also for `len == 0`. The address `u64::MAX` is never free: no half-open range contains it.
    /// O(log n) when all bounds are multiples of `align`, as pages are; else gaps of at least `len` but less than
    /// `len + align - 1` addresses may each cost a try.
    ///
    /// # Panics
    /// If `align` is not a power of two.
    pub fn lowest_gap(&self, within: Range<u64>, len: u64, align: u64) -> Option<u64> {
        self.search_lowest(&Query::new(within, len, align), &mut || ())
    }

    /// The highest multiple of `align` in `within` from which `len` addresses are free, all of them in `within`.
    ///
    /// Linux: `vm_unmapped_area` with `VM_UNMAPPED_AREA_TOPDOWN`, `mas_empty_area_rev`.
    ///
    /// Else as [`lowest_gap`](Self::lowest_gap).
    ///
    /// # Panics
    /// If `align` is not a power of two.
    pub fn highest_gap(&self, within: Range<u64>, len: u64, align: u64) -> Option<u64> {
        self.search_highest(&Query::new(within, len, align), &mut || ())
    }

    /// `visit` is called once per node entered.
    fn search_lowest(&self, query: &Query, visit: &mut impl FnMut()) -> Option<u64> {
        let Some(ends) = self.outer_bounds() else {
            return query.lowest_in(0, u64::MAX);
        };
        query
            .lowest_in(0, ends.start)
            .or_else(|| self.lowest_below(self.height() - 1, self.root, query, visit))
            .or_else(|| query.lowest_in(ends.end, u64::MAX))
    }

    fn search_highest(&self, query: &Query, visit: &mut impl FnMut()) -> Option<u64> {
        let Some(ends) = self.outer_bounds() else {
            return query.highest_in(0, u64::MAX);
        };
        query
            .highest_in(ends.end, u64::MAX)
            .or_else(|| self.highest_below(self.height() - 1, self.root, query, visit))
            .or_else(|| query.highest_in(0, ends.start))
    }

    fn lowest_below(
        &self,
        level: usize,
        node: u32,
        query: &Query,
        visit: &mut impl FnMut(),
    ) -> Option<u64> {
        visit();
        if level == 0 {
            return lowest_among(self.leaves.get(node), query, |_| None);
        }
        lowest_among(self.inners.get(node), query, |child| {
            self.lowest_below(level - 1, child, query, visit)
        })
    }

    fn highest_below(
        &self,
        level: usize,
        node: u32,
        query: &Query,
        visit: &mut impl FnMut(),
    ) -> Option<u64> {
        visit();
        if level == 0 {
            return highest_among(self.leaves.get(node), query, |_| None);
        }
        highest_among(self.inners.get(node), query, |child| {
            self.highest_below(level - 1, child, query, visit)
        })
    }

    /// From the start of the first entry to the end of the last.
    fn outer_bounds(&self) -> Option<Range<u64>> {
        fn bounds<const GAPS: usize>(node: &Node<GAPS>) -> Range<u64> {
            node.start(0)..node.end(node.len() - 1)
        }
        match self.height() {
            0 => None,
            1 => Some(bounds(self.leaves.get(self.root))),
            _ => Some(bounds(self.inners.get(self.root))),
        }
    }
}

/// Tries, from low to high, the gaps between items and (with `enter`) those inside items.
fn lowest_among<const GAPS: usize>(
    node: &Node<GAPS>,
    query: &Query,
    mut enter: impl FnMut(u32) -> Option<u64>,
) -> Option<u64> {
    for at in node.first_ending_after(query.within.start)..node.len() {
        if at > 0 {
            let hit = query.lowest_in(node.end(at - 1), node.start(at));
            if hit.is_some() {
                return hit;
            }
        }
        if node.start(at) >= query.within.end {
            return None;
        }
        if node.gap(at) >= query.len {
            let hit = enter(node.to(at));
            if hit.is_some() {
                return hit;
            }
        }
    }
    None
}

/// The mirror image of [`lowest_among`].
fn highest_among<const GAPS: usize>(
    node: &Node<GAPS>,
    query: &Query,
    mut enter: impl FnMut(u32) -> Option<u64>,
) -> Option<u64> {
    for at in (0..node.count_starting_before(query.within.end)).rev() {
        if at + 1 < node.len() {
            let hit = query.highest_in(node.end(at), node.start(at + 1));
            if hit.is_some() {
                return hit;
            }
        }
        if node.end(at) <= query.within.start {
            return None;
        }
        if node.gap(at) >= query.len {
            let hit = enter(node.to(at));
            if hit.is_some() {
                return hit;
            }
        }
    }
    None
}

impl Query {
    fn new(within: Range<u64>, len: u64, align: u64) -> Self {
        assert!(align.is_power_of_two(), "alignment is not a power of two");
        Self { within, len, align }
    }

    /// The lowest answer in the gap `from..to`.
    fn lowest_in(&self, from: u64, to: u64) -> Option<u64> {
        let (low, high) = self.clip(from, to)?;
        let at = low.checked_next_multiple_of(self.align)?;
        (at.checked_add(self.len)? <= high).then_some(at)
    }

    /// The highest answer in the gap `from..to`.
    fn highest_in(&self, from: u64, to: u64) -> Option<u64> {
        let (low, high) = self.clip(from, to)?;
        let at = (high - self.len) & !(self.align - 1);
        (at >= low).then_some(at)
    }

    /// The part of `from..to` that counts, if it could be long enough.
    fn clip(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let (low, high) = (from.max(self.within.start), to.min(self.within.end));
        let room = high.checked_sub(low)?;
        (self.len > 0 && room >= self.len).then_some((low, high))
    }
}

#[cfg(test)]
mod tests;
