//! An ordered set of disjoint ranges with a search for free gaps: address spaces, vmalloc areas.
//!
//! Rejected: a red-black tree, which needs a cache line per comparison and links in every entry; gaps stored *before* an
//! entry, as Linux does, which makes an edit at the edge of a leaf correct the neighbour's way to the root as well. Here a
//! node knows the largest gap between its own entries, and its parent sees the gap to the next node from their bounds.

use core::fmt;
use core::ops::Range;

use crate::arena::{Arena, NIL, Slot};
use node::{Inner, Item, Leaf};

mod edit;
mod error;
mod gap;
mod iter;
mod node;
mod path;
mod validate;

pub use error::{InsertError, RangeError};
pub use iter::Iter;

/// An ordered set of disjoint half-open ranges `start..end` of addresses, with a value of type `V` each.
///
/// Linux: the maple tree of `mm_struct::mm_mt`, lib/maple_tree.c, and the augmented red-black tree of mm/vmalloc.c.
///
/// A B+ tree of 8 to 16 items per node. Every operation on one entry costs O(log n): with 100 entries two nodes are read,
/// with 3000 three, and two or three cache lines of each. Values do not move while they are in the tree.
///
/// Memory, from [`alloc`], in chunks of at most one page plus a directory of 24 bytes per chunk: a leaf of 328 bytes
/// per 8–16 entries, an inner node of 456 bytes per 8–16 nodes, and the value with its tag. So an entry costs
/// 22 to 50 bytes beside its value: 34 after insertions in random order, 43 in rising or falling order. A value larger
/// than a page makes chunks of its own size. Only [`insert`](Self::insert) and [`reserve`](Self::reserve)
/// allocate; memory goes back with [`clear`](Self::clear) or on drop.
///
/// # Context
/// Never sleeps, takes no lock; sharing is the caller's affair.
pub struct RangeTree<V> {
    leaves: Arena<Leaf>,
    inners: Arena<Inner>,
    slots: Arena<Entry<V>>,
    root: u32,
    /// Levels of nodes: 0 without entries, 1 if the root is a leaf.
    height: u8,
}

impl<V> RangeTree<V> {
    /// An empty tree, which owns no memory.
    pub const fn new() -> Self {
        Self {
            leaves: Arena::new(),
            inners: Arena::new(),
            slots: Arena::new(),
            root: NIL,
            height: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.in_use()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.height == 0
    }

    /// The entry that contains `addr`. Linux: `vma_lookup`.
    pub fn get(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        self.find(addr).filter(|(range, _)| range.start <= addr)
    }

    /// Like [`get`](Self::get), with the value to write to.
    pub fn get_mut(&mut self, addr: u64) -> Option<(Range<u64>, &mut V)> {
        self.find_mut(addr).filter(|(range, _)| range.start <= addr)
    }

    /// The first entry with `end > addr`: the one that contains `addr`, or else the next. Linux: `find_vma`.
    pub fn find(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        self.find_item(addr).map(|item| self.entry(item))
    }

    /// Like [`find`](Self::find), with the value to write to.
    pub fn find_mut(&mut self, addr: u64) -> Option<(Range<u64>, &mut V)> {
        let item = self.find_item(addr)?;
        let value = self.slots.get_mut(item.to).value_mut();
        Some((item.start..item.end, value))
    }

    /// The last entry with `end <= addr`: the nearest one wholly below `addr`.
    pub fn prev(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        if self.is_empty() {
            return None;
        }
        let mut path = self.path_to(addr);
        let below = self.step_back(&mut path);
        let item = below.then(|| self.item_at(&path)).flatten()?;
        Some(self.entry(item))
    }

    /// The first entry with `start > addr`; given an entry's start, its successor.
    pub fn next_after(&self, addr: u64) -> Option<(Range<u64>, &V)> {
        let item = self.find_item(addr)?;
        if item.start > addr {
            return Some(self.entry(item));
        }
        self.find(item.end)
    }

    /// The entry with the lowest addresses.
    pub fn first(&self) -> Option<(Range<u64>, &V)> {
        self.find(0)
    }

    /// The entry with the highest addresses.
    pub fn last(&self) -> Option<(Range<u64>, &V)> {
        self.prev(u64::MAX)
    }

    /// Whether no entry intersects `range`.
    pub fn is_free(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .find_item(range.start)
                .is_none_or(|item| item.start >= range.end)
    }

    /// Takes out the entry with the lowest addresses. O(log n).
    pub fn pop_first(&mut self) -> Option<(Range<u64>, V)> {
        let start = self.find_item(0)?.start;
        self.remove(start)
    }

    /// Takes out everything, and gives the memory back. What was [reserved](Self::reserve) is gone, too.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// How many nodes lie on the way from the root to an entry: at most log8(n/2) + 1.
    pub fn height(&self) -> usize {
        usize::from(self.height)
    }

    /// Bytes that the tree holds of the host's heap, in use or in reserve.
    pub fn heap_bytes(&self) -> usize {
        self.leaves.heap_bytes() + self.inners.heap_bytes() + self.slots.heap_bytes()
    }

    fn find_item(&self, addr: u64) -> Option<Item> {
        if self.is_empty() {
            return None;
        }
        let mut node = self.root;
        for _ in 1..self.height {
            let inner = self.inners.get(node);
            let at = inner.first_ending_after(addr);
            if at == inner.len() {
                return None; // only in the root: INV-4
            }
            node = inner.to(at);
        }
        let leaf = self.leaves.get(node);
        let at = leaf.first_ending_after(addr);
        (at < leaf.len()).then(|| leaf.item(at))
    }

    fn entry(&self, item: Item) -> (Range<u64>, &V) {
        (item.start..item.end, self.slots.get(item.to).value())
    }
}

/// Where a value lives; its address does not change while it is in the tree.
enum Entry<V> {
    Vacant(u32),
    Full(V),
}

impl<V> Entry<V> {
    fn value(&self) -> &V {
        match self {
            Self::Full(value) => value,
            Self::Vacant(_) => unreachable!("INV-6: a leaf names a vacant slot"),
        }
    }

    fn value_mut(&mut self) -> &mut V {
        match self {
            Self::Full(value) => value,
            Self::Vacant(_) => unreachable!("INV-6: a leaf names a vacant slot"),
        }
    }

    fn into_value(self) -> V {
        match self {
            Self::Full(value) => value,
            Self::Vacant(_) => unreachable!("INV-6: a leaf names a vacant slot"),
        }
    }
}

impl<V> Slot for Entry<V> {
    fn vacant(next: u32) -> Self {
        Self::Vacant(next)
    }

    fn next_vacant(&self) -> u32 {
        match *self {
            Self::Vacant(next) => next,
            Self::Full(_) => unreachable!("INV-11: the free list names a slot in use"),
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
