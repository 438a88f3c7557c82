//! The way from the root to one entry, and one step along the leaves.

use super::RangeTree;
use super::node::{Item, Leaf};

/// More levels than 2^32 entries need: 8 children at least, 2 at the root.
pub(super) const MAX_HEIGHT: usize = 12;

/// A node, and the place in it that the way takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    pub(super) node: u32,
    pub(super) at: usize,
}

/// The way down: one step per level, the leaf's first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) steps: [Step; MAX_HEIGHT],
}

impl<V> RangeTree<V> {
    /// The way to the first entry with `end > addr`, or to the place after the last entry. The tree is not empty.
    pub(super) fn path_to(&self, addr: u64) -> Path {
        let mut path = Path {
            steps: [Step::default(); MAX_HEIGHT],
        };
        let mut node = self.root;
        for level in (1..self.height()).rev() {
            let inner = self.inners.get(node);
            let at = inner.first_ending_after(addr).min(inner.len() - 1);
            path.steps[level] = Step { node, at };
            node = inner.to(at);
        }
        let at = self.leaves.get(node).first_ending_after(addr);
        path.steps[0] = Step { node, at };
        path
    }

    /// The way to the entry that starts at `start`.
    pub(super) fn path_to_start(&self, start: u64) -> Option<Path> {
        if self.is_empty() {
            return None;
        }
        let path = self.path_to(start);
        let item = self.item_at(&path)?;
        (item.start == start).then_some(path)
    }

    /// The entry at the end of the way; none after the last one.
    pub(super) fn item_at(&self, path: &Path) -> Option<Item> {
        let (leaf, at) = self.leaf_at(path);
        (at < leaf.len()).then(|| leaf.item(at))
    }

    pub(super) fn leaf_at(&self, path: &Path) -> (&Leaf, usize) {
        let Step { node, at } = path.steps[0];
        (self.leaves.get(node), at)
    }

    /// Moves on to the next entry; false, and no move, if there is none.
    pub(super) fn step_forward(&self, path: &mut Path) -> bool {
        if path.steps[0].at + 1 < self.leaf_at(path).0.len() {
            path.steps[0].at += 1;
            return true;
        }
        for level in 1..self.height() {
            let Step { node, at } = path.steps[level];
            if at + 1 < self.inners.get(node).len() {
                path.steps[level].at += 1;
                self.descend(path, level, |_| 0);
                return true;
            }
        }
        false
    }

    /// Moves back to the entry before; false, and no move, if there is none.
    pub(super) fn step_back(&self, path: &mut Path) -> bool {
        for level in 0..self.height() {
            if path.steps[level].at > 0 {
                path.steps[level].at -= 1;
                self.descend(path, level, |len| len - 1);
                return true;
            }
        }
        false
    }

    /// Fills in the steps below `level`, taking the place that `pick` names in a node of that length.
    fn descend(&self, path: &mut Path, level: usize, pick: impl Fn(usize) -> usize) {
        for level in (1..=level).rev() {
            let Step { node, at } = path.steps[level];
            let node = self.inners.get(node).to(at);
            let len = if level > 1 {
                self.inners.get(node).len()
            } else {
                self.leaves.get(node).len()
            };
            path.steps[level - 1] = Step {
                node,
                at: pick(len),
            };
        }
    }
}
