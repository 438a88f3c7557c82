//! The check of all invariants, for tests and for debug builds.

use super::node::{CAP, Inner, MIN, Node};
use super::{Entry, RangeTree};

impl<V> RangeTree<V> {
    /// Checks every invariant of MODEL.md. O(n).
    ///
    /// # Panics
    /// If one does not hold, naming it.
    pub fn validate(&self) {
        self.leaves.validate();
        self.inners.validate();
        self.slots.validate();
        let mut seen = Seen::default();
        if self.height > 0 {
            self.validate_node(self.height() - 1, self.root, &mut seen);
        }
        assert_eq!(seen.entries, self.len(), "INV-6: entries and values");
        assert_eq!(seen.leaves, self.leaves.in_use(), "INV-7: a lost leaf");
        assert_eq!(
            seen.inners,
            self.inners.in_use(),
            "INV-7: a lost inner node"
        );
    }

    /// Checks the subtree of `node`. Its first start, its last end, and the largest gap between its entries, found by walking
    /// all of them: nothing here relies on what it checks.
    fn validate_node(&self, level: usize, node: u32, seen: &mut Seen) -> (u64, u64, u64) {
        let is_root = level + 1 == self.height();
        if level == 0 {
            let leaf = self.leaves.get(node);
            validate_items(leaf, if is_root { 1 } else { MIN });
            seen.leaves += 1;
            seen.entries += leaf.len();
            let mut gap = 0;
            for at in 0..leaf.len() {
                let full = matches!(self.slots.get(leaf.to(at)), Entry::Full(_));
                assert!(full, "INV-6: a leaf names a vacant slot");
                if at > 0 {
                    gap = gap.max(leaf.start(at) - leaf.end(at - 1));
                }
            }
            return (leaf.start(0), leaf.end(leaf.len() - 1), gap);
        }
        let inner = self.inners.get(node);
        validate_items(inner, if is_root { 2 } else { MIN });
        seen.inners += 1;
        let (first, mut last, mut gap) = self.validate_child(level, inner, 0, seen);
        for at in 1..inner.len() {
            let (start, end, inside) = self.validate_child(level, inner, at, seen);
            gap = gap.max(inside).max(start - last);
            last = end;
        }
        (first, last, gap)
    }

    fn validate_child(
        &self,
        level: usize,
        inner: &Inner,
        at: usize,
        seen: &mut Seen,
    ) -> (u64, u64, u64) {
        let (start, end, gap) = self.validate_node(level - 1, inner.to(at), seen);
        let bounds = (inner.start(at), inner.end(at));
        assert_eq!(bounds, (start, end), "INV-4: stale bounds");
        assert_eq!(inner.gap(at), gap, "INV-5: a stale gap");
        (start, end, gap)
    }
}

#[derive(Default)]
struct Seen {
    entries: usize,
    leaves: usize,
    inners: usize,
}

fn validate_items<const GAPS: usize>(node: &Node<GAPS>, fewest: usize) {
    assert!((fewest..=CAP).contains(&node.len()), "INV-3: fill");
    for at in 0..node.len() {
        assert!(node.start(at) < node.end(at), "INV-1: an empty range");
        assert!(
            at == 0 || node.end(at - 1) <= node.start(at),
            "INV-2: ranges out of order"
        );
    }
}
