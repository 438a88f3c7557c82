//! One node: up to 16 ranges side by side, in arrays that a search walks without touching the rest.

use crate::arena::Slot;

/// The most items that a node holds. 16 ends fill two cache lines, which is what a step of a search reads.
pub(super) const CAP: usize = 16;
/// The fewest that a node other than the root holds.
pub(super) const MIN: usize = CAP / 2;

/// A node without children: its items are entries, and `to` is the place of the value.
pub(super) type Leaf = Node<0>;
/// A node with children: its items summarise one child each, and `to` is the child.
pub(super) type Inner = Node<CAP>;

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Leaf>() == 328 && size_of::<Inner>() == 456);

/// One range in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The largest gap *between* the entries below: nothing for an entry, which has none below.
    pub(super) gap: u64,
    /// Where the value or the child is.
    pub(super) to: u32,
}

/// Items in order of address. `GAPS` is `CAP` where items have gaps inside, and 0 where they are entries.
#[derive(Clone, Debug)]
pub(super) struct Node<const GAPS: usize> {
    ends: [u64; CAP],
    starts: [u64; CAP],
    gaps: [u64; GAPS],
    to: [u32; CAP],
    len: u32,
}

impl<const GAPS: usize> Node<GAPS> {
    pub(super) const fn new() -> Self {
        Self {
            ends: [0; CAP],
            starts: [0; CAP],
            gaps: [0; GAPS],
            to: [0; CAP],
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len() == CAP
    }

    pub(super) fn starts(&self) -> &[u64] {
        &self.starts[..self.len()]
    }

    pub(super) fn ends(&self) -> &[u64] {
        &self.ends[..self.len()]
    }

    pub(super) fn start(&self, at: usize) -> u64 {
        self.starts()[at]
    }

    pub(super) fn end(&self, at: usize) -> u64 {
        self.ends()[at]
    }

    pub(super) fn to(&self, at: usize) -> u32 {
        self.to[..self.len()][at]
    }

    /// The largest gap inside item `at`.
    pub(super) fn gap(&self, at: usize) -> u64 {
        if GAPS == 0 { 0 } else { self.gaps[at] }
    }

    pub(super) fn item(&self, at: usize) -> Item {
        Item {
            start: self.start(at),
            end: self.end(at),
            gap: self.gap(at),
            to: self.to(at),
        }
    }

    /// The place of the first item with `end > addr`; `len` if there is none.
    pub(super) fn first_ending_after(&self, addr: u64) -> usize {
        self.ends().partition_point(|&end| end <= addr)
    }

    /// How many items have `start < addr`.
    pub(super) fn count_starting_before(&self, addr: u64) -> usize {
        self.starts().partition_point(|&start| start < addr)
    }

    pub(super) fn set(&mut self, at: usize, item: Item) {
        debug_assert!(at < self.len());
        self.starts[at] = item.start;
        self.ends[at] = item.end;
        if GAPS != 0 {
            self.gaps[at] = item.gap;
        }
        self.to[at] = item.to;
    }

    pub(super) fn insert(&mut self, at: usize, item: Item) {
        let len = self.len();
        self.starts.copy_within(at..len, at + 1);
        self.ends.copy_within(at..len, at + 1);
        if GAPS != 0 {
            self.gaps.copy_within(at..len, at + 1);
        }
        self.to.copy_within(at..len, at + 1);
        self.len += 1;
        self.set(at, item);
    }

    pub(super) fn remove(&mut self, at: usize) -> Item {
        let item = self.item(at);
        let len = self.len();
        self.starts.copy_within(at + 1..len, at);
        self.ends.copy_within(at + 1..len, at);
        if GAPS != 0 {
            self.gaps.copy_within(at + 1..len, at);
        }
        self.to.copy_within(at + 1..len, at);
        self.len -= 1;
        item
    }

    /// Takes the items from `at` on into a node of their own.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let mut right = Self::new();
        for from in at..self.len() {
            right.push(self.item(from));
        }
        self.len -= right.len;
        right
    }

    /// Takes over all items of `right`, which come after ours.
    pub(super) fn append(&mut self, right: &Self) {
        for from in 0..right.len() {
            self.push(right.item(from));
        }
    }

    /// Evens out the items of two neighbours.
    pub(super) fn share_with(&mut self, right: &mut Self) {
        while self.len() < right.len() {
            let item = right.remove(0);
            self.push(item);
        }
        while right.len() + 1 < self.len() {
            let item = self.remove(self.len() - 1);
            right.insert(0, item);
        }
    }

    /// This node, at index `to`, as an item of its parent. The node is not empty.
    pub(super) fn summary(&self, to: u32) -> Item {
        let between = self.starts()[1..].iter().zip(self.ends());
        let between = between.map(|(start, end)| start - end);
        let inside = self.gaps.iter().copied().take(self.len());
        let gap = between.chain(inside).fold(0, u64::max);
        Item {
            start: self.start(0),
            end: self.end(self.len() - 1),
            gap,
            to,
        }
    }

    fn push(&mut self, item: Item) {
        self.insert(self.len(), item);
    }
}

impl<const GAPS: usize> Slot for Node<GAPS> {
    fn vacant(next: u32) -> Self {
        let mut node = Self::new();
        node.to[0] = next;
        node
    }

    fn next_vacant(&self) -> u32 {
        self.to[0]
    }
}
