//! Which node a frame and a CPU belong to, and how far nodes are apart. Linux: `memblock`'s node ids, `numa_distance`, `cpu_to_node`.
//!
//! Filled once at boot from what the firmware says, then shared for ever: plain numbers of fixed size, no allocation.
//! A machine that says nothing is [`Topology::single`].

use core::fmt;

use crate::{NodeId, Pfn, PfnRange};

/// No more nodes. Linux: `MAX_NUMNODES`.
pub const MAX_NODES: usize = 16;
/// No more ranges, neighbours of one node merged. Linux: `NR_NODE_MEMBLKS`, twice the nodes.
pub const MAX_NODE_RANGES: usize = 64;
/// CPUs from this number on count as of node 0.
pub const MAX_NODE_CPUS: usize = 256;
/// How far a node is from itself. Linux: `LOCAL_DISTANCE`.
pub const LOCAL_DISTANCE: u8 = 10;
/// How far two nodes are apart of which nobody says how far. Linux: `REMOTE_DISTANCE`.
pub const REMOTE_DISTANCE: u8 = 20;

/// Frames of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRange {
    /// The frames.
    pub range: PfnRange,
    /// Whose they are.
    pub node: NodeId,
}

/// The nodes of a machine: `0..nr_nodes`, each with any number of ranges and CPUs, also none.
///
/// # Examples
/// ```
/// use kmm_frame::{NodeId, Pfn, PfnRange, Topology, TopologyError};
///
/// let (near, far) = (NodeId::new(0), NodeId::new(1));
/// let mut topology = Topology::new(2)?;
/// topology.add_range(PfnRange::new(Pfn::new(0), Pfn::new(0x8000)), near)?;
/// topology.add_range(PfnRange::new(Pfn::new(0x8000), Pfn::new(0x10000)), far)?;
/// topology.set_cpu_node(1, far)?;
/// topology.set_distance(near, far, 21)?;
/// assert_eq!(topology.node_of(Pfn::new(0x9000)), topology.node_of_cpu(1));
/// # Ok::<(), TopologyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Topology {
    nr_nodes: usize,
    /// Sorted, disjoint, none empty; of one node no two that touch.
    ranges: [NodeRange; MAX_NODE_RANGES],
    nr_ranges: usize,
    distances: [[u8; MAX_NODES]; MAX_NODES],
    cpus: [NodeId; MAX_NODE_CPUS],
}

/// Why a [`Topology`] refused something; it is as it was then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TopologyError {
    /// No node, or more than [`MAX_NODES`].
    NrNodes,
    /// The topology has no such node.
    NoSuchNode,
    /// More than [`MAX_NODE_RANGES`] ranges.
    TooManyRanges,
    /// Some of the frames are another node's.
    Overlap,
    /// The CPU's number is [`MAX_NODE_CPUS`] or more.
    NoSuchCpu,
    /// The distance of a node to itself is not [`LOCAL_DISTANCE`], or one to another is less.
    Distance,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NrNodes => "no node, or too many",
            Self::NoSuchNode => "there is no such node",
            Self::TooManyRanges => "too many ranges of nodes",
            Self::Overlap => "ranges of two nodes overlap",
            Self::NoSuchCpu => "no such CPU number",
            Self::Distance => "distance is not 10 to itself, or less than 10 to another node",
        })
    }
}

impl core::error::Error for TopologyError {}

impl Topology {
    /// One node that has everything.
    #[must_use]
    pub const fn single() -> Self {
        Self::with_nodes(1)
    }

    /// `nr_nodes` nodes without frames, [`REMOTE_DISTANCE`] apart; all CPUs are of node 0.
    ///
    /// # Errors
    /// [`TopologyError::NrNodes`].
    pub const fn new(nr_nodes: usize) -> Result<Self, TopologyError> {
        if nr_nodes == 0 || nr_nodes > MAX_NODES {
            return Err(TopologyError::NrNodes);
        }
        Ok(Self::with_nodes(nr_nodes))
    }

    const fn with_nodes(nr_nodes: usize) -> Self {
        const NOTHING: NodeRange = NodeRange {
            range: PfnRange::EMPTY,
            node: NodeId::ZERO,
        };
        let mut distances = [[REMOTE_DISTANCE; MAX_NODES]; MAX_NODES];
        let mut node = 0;
        while node < MAX_NODES {
            distances[node][node] = LOCAL_DISTANCE;
            node += 1;
        }
        Self {
            nr_nodes,
            ranges: [NOTHING; MAX_NODE_RANGES],
            nr_ranges: 0,
            distances,
            cpus: [NodeId::ZERO; MAX_NODE_CPUS],
        }
    }

    /// Says that frames are a node's; they may be the node's already. An empty range changes nothing.
    /// Linux: `numa_add_memblk`.
    ///
    /// # Errors
    /// [`TopologyError::NoSuchNode`], [`TopologyError::Overlap`] with another node, [`TopologyError::TooManyRanges`].
    pub fn add_range(&mut self, range: PfnRange, node: NodeId) -> Result<(), TopologyError> {
        self.check_node(node)?;
        if range.is_empty() {
            return Ok(());
        }
        let ranges = self.ranges();
        let is_foreign = |other: &NodeRange| other.node != node && other.range.overlaps(range);
        if ranges.iter().any(is_foreign) {
            return Err(TopologyError::Overlap);
        }
        // The new range swallows those of its node that it overlaps or touches.
        let first = ranges.partition_point(|other| {
            let (end, start) = (other.range.end(), range.start());
            end < start || (end == start && other.node != node)
        });
        let end = ranges.partition_point(|other| {
            let (start, end) = (other.range.start(), range.end());
            start < end || (start == end && other.node == node)
        });
        let merged = ranges[first..end].iter().fold(range, |sum, other| {
            let start = sum.start().min(other.range.start());
            PfnRange::new(start, sum.end().max(other.range.end()))
        });
        let nr_after = self.nr_ranges + 1 - (end - first);
        if nr_after > MAX_NODE_RANGES {
            return Err(TopologyError::TooManyRanges);
        }
        self.ranges.copy_within(end..self.nr_ranges, first + 1);
        self.ranges[first] = NodeRange {
            range: merged,
            node,
        };
        self.nr_ranges = nr_after;
        Ok(())
    }

    /// Says how far `to` is from `from`; the way back may be another. Linux: `numa_set_distance`.
    ///
    /// # Errors
    /// [`TopologyError::NoSuchNode`], [`TopologyError::Distance`].
    pub fn set_distance(
        &mut self,
        from: NodeId,
        to: NodeId,
        distance: u8,
    ) -> Result<(), TopologyError> {
        self.check_node(from)?;
        self.check_node(to)?;
        if distance < LOCAL_DISTANCE || (from == to && distance != LOCAL_DISTANCE) {
            return Err(TopologyError::Distance);
        }
        self.distances[from.index()][to.index()] = distance;
        Ok(())
    }

    /// Says which node a CPU is of. Linux: `numa_set_node`.
    ///
    /// # Errors
    /// [`TopologyError::NoSuchNode`], [`TopologyError::NoSuchCpu`].
    pub fn set_cpu_node(&mut self, cpu_index: usize, node: NodeId) -> Result<(), TopologyError> {
        self.check_node(node)?;
        let slot = self
            .cpus
            .get_mut(cpu_index)
            .ok_or(TopologyError::NoSuchCpu)?;
        *slot = node;
        Ok(())
    }

    fn check_node(&self, node: NodeId) -> Result<(), TopologyError> {
        if node.index() < self.nr_nodes {
            Ok(())
        } else {
            Err(TopologyError::NoSuchNode)
        }
    }

    /// How many nodes; at least one. Linux: `nr_online_nodes`.
    #[must_use]
    pub const fn nr_nodes(&self) -> usize {
        self.nr_nodes
    }

    /// Each node, upwards.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + Clone {
        (0..self.nr_nodes).map(node_id)
    }

    /// Which frames are whose, upwards; disjoint.
    #[must_use]
    pub fn ranges(&self) -> &[NodeRange] {
        &self.ranges[..self.nr_ranges]
    }

    /// The ranges of a node, upwards.
    pub fn ranges_of(&self, node: NodeId) -> impl Iterator<Item = PfnRange> + Clone + '_ {
        let of_node = self.ranges().iter().filter(move |part| part.node == node);
        of_node.map(|part| part.range)
    }

    /// The frames from the first to the last of a node, those of others between them too; empty for a node without.
    /// Linux: `node_start_pfn`, `node_spanned_pages`.
    #[must_use]
    pub fn span(&self, node: NodeId) -> PfnRange {
        let mut ranges = self.ranges_of(node);
        let Some(first) = ranges.next() else {
            return PfnRange::EMPTY;
        };
        let end = ranges.last().unwrap_or(first).end();
        PfnRange::new(first.start(), end)
    }

    /// The node of a frame. One in no range is of the node of the nearest range below it, and of node 0 below all.
    /// Linux: `early_pfn_to_nid`.
    #[inline]
    #[must_use]
    pub fn node_of(&self, pfn: Pfn) -> NodeId {
        if self.nr_nodes == 1 {
            return NodeId::ZERO;
        }
        let above = self
            .ranges()
            .partition_point(|part| part.range.start() <= pfn);
        match above.checked_sub(1) {
            Some(below) => self.ranges[below].node,
            None => NodeId::ZERO,
        }
    }

    /// How far `to` is from `from`: [`LOCAL_DISTANCE`] to itself. Nodes that do not exist are [`REMOTE_DISTANCE`] away.
    /// Linux: `node_distance`.
    #[must_use]
    pub fn distance(&self, from: NodeId, to: NodeId) -> u8 {
        let row = self.distances.get(from.index());
        let known = row.and_then(|row| row.get(to.index()));
        match known {
            Some(&distance) => distance,
            None if from == to => LOCAL_DISTANCE,
            None => REMOTE_DISTANCE,
        }
    }

    /// The node of a CPU; node 0 when nobody said. Linux: `cpu_to_node`.
    #[inline]
    #[must_use]
    pub fn node_of_cpu(&self, cpu_index: usize) -> NodeId {
        self.cpus.get(cpu_index).copied().unwrap_or(NodeId::ZERO)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below MAX_NODES")]
fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u8)
}

impl Default for Topology {
    fn default() -> Self {
        Self::single()
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("nr_nodes", &self.nr_nodes)
            .field("ranges", &self.ranges())
            .finish_non_exhaustive()
    }
}
