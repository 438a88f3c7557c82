//! Sets of nodes.

use core::fmt;

use crate::zone_type::NodeId;

/// A set of NUMA nodes with numbers below 64. Linux: `nodemask_t`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct NodeMask(u64);

impl NodeMask {
    /// Every node. Linux: `NODE_MASK_ALL`; as an argument, no mask at all.
    pub const ALL: Self = Self(u64::MAX);
    /// No node. Linux: `NODE_MASK_NONE`.
    pub const NONE: Self = Self(0);

    /// One node; none from 64 on.
    #[must_use]
    pub const fn of(node: NodeId) -> Self {
        if node.index() < 64 {
            Self(1 << node.index())
        } else {
            Self::NONE
        }
    }

    /// The nodes of both. Linux: `nodes_or`.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The nodes that are in both. Linux: `nodes_and`.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether a node is in it. Linux: `node_isset`.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.intersect(Self::of(node)).0 != 0
    }

    /// Whether it is [`NodeMask::ALL`].
    #[must_use]
    pub const fn is_all(self) -> bool {
        self.0 == u64::MAX
    }

    /// Whether there is no node in it. Linux: `nodes_empty`.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<NodeId> for NodeMask {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let join = |mask: Self, node| mask.union(Self::of(node));
        nodes.into_iter().fold(Self::NONE, join)
    }
}

/// As ranges: `0-1,3`. Linux: `%*pbl`.
impl fmt::Display for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        while left != 0 {
            let first = left.trailing_zeros();
            let count = (left >> first).trailing_ones();
            let last = first + count - 1;
            left = if last == 63 {
                0
            } else {
                left >> (last + 1) << (last + 1)
            };
            write!(f, "{first}")?;
            if count > 1 {
                write!(f, "-{last}")?;
            }
            if left != 0 {
                f.write_str(",")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeMask({self})")
    }
}
