//! Insertion, removal, and the summaries that follow them up the tree.
//!
//! Every edit first finds out all that could refuse it; what comes after cannot fail. A summary depends on nothing
//! outside its own subtree, so an edit corrects those on the way to the root and no other.

use core::cmp::Ordering;
use core::ops::Range;

use super::node::{CAP, Inner, Item, Leaf, MIN, Node};
use super::path::{MAX_HEIGHT, Path, Step};
use super::{Entry, InsertError, RangeError, RangeTree};
use crate::AllocError;
use crate::arena::{Arena, NIL};

impl<V> RangeTree<V> {
    /// Makes the next `inserts` insertions unable to run out of memory, whatever is removed in between.
    ///
    /// # Errors
    /// [`AllocError`] if the host has not enough; the entries are untouched.
    pub fn reserve(&mut self, inserts: usize) -> Result<(), AllocError> {
        // An insertion splits at most one leaf, and a node of each level above. Many insertions split less often:
        // a node that was just split or refilled takes 5 insertions to fill up again (INV-3, the widest refill is 12
        // of 16), and one that was just merged left a node to spare. So each node that there is now, and
        // each 4 insertions, pay for all the splits of their level; the levels above add a third of it.
        let (leaves, inners) = (self.leaves.in_use(), self.inners.in_use());
        let leaf_splits = inserts.min(leaves + inserts / 4 + 1);
        let few = inserts.saturating_mul(self.height().max(1));
        let many = inners + inners / 3 + leaf_splits / 3 + MAX_HEIGHT;
        self.slots.reserve(inserts)?;
        self.leaves.reserve(leaf_splits)?;
        self.inners.reserve(few.min(many))
    }

    /// Adds an entry. O(log n).
    ///
    /// # Errors
    /// With the value given back, and nothing changed: [`RangeError::Empty`]; [`RangeError::Overlap`];
    /// [`RangeError::OutOfMemory`], which [`reserve`](Self::reserve) rules out beforehand.
    pub fn insert(&mut self, range: Range<u64>, value: V) -> Result<(), InsertError<V>> {
        match self.prepare_insert(&range) {
            Ok(path) => {
                let item = Item {
                    start: range.start,
                    end: range.end,
                    gap: 0,
                    to: self.slots.put(Entry::Full(value)),
                };
                match path {
                    Some(path) => self.insert_at(&path, item),
                    None => self.plant(item),
                }
                Ok(())
            }
            Err(error) => Err(InsertError { error, value }),
        }
    }

    /// Takes out the entry that starts at `start`. O(log n), and never allocates.
    pub fn remove(&mut self, start: u64) -> Option<(Range<u64>, V)> {
        let path = self.path_to_start(start)?;
        let Step { node, at } = path.steps[0];
        let item = self.leaves.get_mut(node).remove(at);
        self.shrink_along(&path);
        Some((item.start..item.end, self.slots.take(item.to).into_value()))
    }

    /// Moves the bounds of the entry that starts at `start`, which keeps its place between its neighbours. O(log n),
    /// and never allocates.
    ///
    /// # Errors
    /// [`RangeError::NotFound`]; [`RangeError::Empty`]; [`RangeError::Overlap`] if the new range meets or passes a
    /// neighbour. Nothing has changed then.
    pub fn resize(&mut self, start: u64, new_range: Range<u64>) -> Result<(), RangeError> {
        let path = self.path_to_start(start).ok_or(RangeError::NotFound)?;
        if new_range.is_empty() {
            return Err(RangeError::Empty);
        }
        let (mut below, mut above) = (path, path);
        let meets_below = self.step_back(&mut below)
            && self
                .item_at(&below)
                .is_some_and(|item| item.end > new_range.start);
        let meets_above = self.step_forward(&mut above)
            && self
                .item_at(&above)
                .is_some_and(|item| item.start < new_range.end);
        if meets_below || meets_above {
            return Err(RangeError::Overlap);
        }
        let Step { node, at } = path.steps[0];
        let leaf = self.leaves.get_mut(node);
        let item = Item {
            start: new_range.start,
            end: new_range.end,
            ..leaf.item(at)
        };
        leaf.set(at, item);
        let summary = leaf.summary(node);
        self.correct_from(1, &path, summary);
        Ok(())
    }

    /// All that can refuse an insertion. The way to its place, none if the tree is empty.
    fn prepare_insert(&mut self, range: &Range<u64>) -> Result<Option<Path>, RangeError> {
        if range.is_empty() {
            return Err(RangeError::Empty);
        }
        if self.is_empty() {
            self.slots.reserve(1)?;
            self.leaves.reserve(1)?;
            return Ok(None);
        }
        let path = self.path_to(range.start);
        if self
            .item_at(&path)
            .is_some_and(|next| next.start < range.end)
        {
            return Err(RangeError::Overlap);
        }
        self.slots.reserve(1)?;
        if self.leaf_at(&path).0.is_full() {
            let full = path.steps[1..self.height()]
                .iter()
                .take_while(|step| self.inners.get(step.node).is_full())
                .count();
            let new_root = usize::from(full + 1 == self.height());
            self.leaves.reserve(1)?;
            self.inners.reserve(full + new_root)?;
        }
        Ok(Some(path))
    }

    fn plant(&mut self, item: Item) {
        let mut leaf = Leaf::new();
        leaf.insert(0, item);
        self.root = self.leaves.put(leaf);
        self.height = 1;
    }

    fn insert_at(&mut self, path: &Path, item: Item) {
        let leaf = path.steps[0];
        let mut right = insert_or_split(&mut self.leaves, leaf, item);
        if right.is_none() && self.height == 1 {
            return;
        }
        let mut left = self.leaves.get(leaf.node).summary(leaf.node);
        for (level, step) in path.steps[..self.height()].iter().enumerate().skip(1) {
            let Some(sibling) = right else {
                self.correct_from(level, path, left);
                return;
            };
            self.inners.get_mut(step.node).set(step.at, left);
            let after = Step {
                node: step.node,
                at: step.at + 1,
            };
            right = insert_or_split(&mut self.inners, after, sibling);
            left = self.inners.get(step.node).summary(step.node);
        }
        if let Some(right) = right {
            let mut root = Inner::new();
            root.insert(0, left);
            root.insert(1, right);
            self.root = self.inners.put(root);
            self.height += 1;
        }
    }

    /// Stores `summary` in the step at `level`, and what follows from it above.
    fn correct_from(&mut self, level: usize, path: &Path, mut summary: Item) {
        for step in &path.steps[level..self.height()] {
            let inner = self.inners.get_mut(step.node);
            if inner.item(step.at) == summary {
                return;
            }
            inner.set(step.at, summary);
            if step.node == self.root {
                return; // nobody asks for its summary
            }
            summary = inner.summary(step.node);
        }
    }

    /// Refills or merges the nodes on the way that have become too small, after the leaf has lost an item.
    fn shrink_along(&mut self, path: &Path) {
        for level in 1..self.height() {
            let Step { node, at } = path.steps[level];
            let child = path.steps[level - 1].node;
            let (len, summary) = if level == 1 {
                let leaf = self.leaves.get(child);
                (leaf.len(), leaf.summary(child))
            } else {
                let inner = self.inners.get(child);
                (inner.len(), inner.summary(child))
            };
            if len >= MIN {
                self.correct_from(level, path, summary);
                return;
            }
            let inner = self.inners.get(node);
            let first = at.min(inner.len() - 2);
            let (left, right) = (inner.to(first), inner.to(first + 1));
            let (left, right) = if level == 1 {
                join_or_share(&mut self.leaves, left, right)
            } else {
                join_or_share(&mut self.inners, left, right)
            };
            let inner = self.inners.get_mut(node);
            inner.set(first, left);
            match right {
                Some(right) => inner.set(first + 1, right),
                None => drop(inner.remove(first + 1)),
            }
        }
        self.shrink_root();
    }

    /// Takes away a root that has become needless: with one child, or without entries.
    fn shrink_root(&mut self) {
        if self.height() > 1 {
            if self.inners.get(self.root).len() == 1 {
                self.root = self.inners.take(self.root).to(0);
                self.height -= 1;
            }
        } else if self.leaves.get(self.root).len() == 0 {
            self.leaves.take(self.root);
            self.root = NIL;
            self.height = 0;
        }
    }
}

/// Inserts into a node; a full one is split first, and the new right half returned as an item of the parent.
fn insert_or_split<const GAPS: usize>(
    nodes: &mut Arena<Node<GAPS>>,
    step: Step,
    item: Item,
) -> Option<Item> {
    let node = nodes.get_mut(step.node);
    if !node.is_full() {
        node.insert(step.at, item);
        return None;
    }
    // Of the 17 items, 9 on the side without the new one: insertions in rising or falling order then leave nodes of 9
    // behind, not of 8 (42 bytes per entry, not 50).
    let cut = match step.at.cmp(&MIN) {
        Ordering::Less => MIN - 1,
        Ordering::Equal => MIN,
        Ordering::Greater => MIN + 1,
    };
    let mut right = node.split_off(cut);
    if step.at > MIN {
        right.insert(step.at - cut, item);
    } else {
        node.insert(step.at, item);
    }
    let mut summary = right.summary(NIL);
    summary.to = nodes.put(right);
    Some(summary)
}

/// Makes one node of two neighbours, or evens them out if that would be too large. Returns them as items of the parent.
fn join_or_share<const GAPS: usize>(
    nodes: &mut Arena<Node<GAPS>>,
    left: u32,
    right: u32,
) -> (Item, Option<Item>) {
    if nodes.get(left).len() + nodes.get(right).len() <= CAP {
        let taken = nodes.take(right);
        let node = nodes.get_mut(left);
        node.append(&taken);
        return (node.summary(left), None);
    }
    let mut lent = core::mem::replace(nodes.get_mut(right), Node::new());
    let node = nodes.get_mut(left);
    node.share_with(&mut lent);
    let items = (node.summary(left), Some(lent.summary(right)));
    *nodes.get_mut(right) = lent;
    items
}
