//! In which order a node's requests go through the nodes. Linux: `build_zonelists`, `find_next_best_node`, mm/page_alloc.c.
//!
//! Local first, then by distance. Of nodes equally far away, those without CPUs of their own come first, as nobody there
//! needs the memory; then those above in number, so that all nodes do not lean on node 0; then those that fewer others
//! lean on. Within a node a request tries its zones from the highest down, as on a machine of one node.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use kmm_frame::{Gfp, MAX_NODES, MigrateType, NodeId, NodeMask, Topology, ZoneType};

/// Where a request may look, apart from what its flags say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllowedNodes {
    /// What the memory policy allows, to any request. Linux: the nodemask of `__alloc_pages`.
    pub nodemask: NodeMask,
    /// What the task's cpuset allows: requests with [`Gfp::HARDWALL`] keep to it, but for urgent ones in need.
    /// Linux: `cpuset_current_mems_allowed`.
    pub mems_allowed: NodeMask,
}

impl AllowedNodes {
    /// Everywhere.
    pub const ALL: Self = Self {
        nodemask: NodeMask::ALL,
        mems_allowed: NodeMask::ALL,
    };

    /// Where the request may look while there is enough.
    pub(crate) const fn first(self, gfp: Gfp) -> NodeMask {
        if gfp.contains(Gfp::HARDWALL) {
            self.nodemask.intersect(self.mems_allowed)
        } else {
            self.nodemask
        }
    }

    /// Where it may look in need. Linux: `gfp_to_alloc_flags` takes `ALLOC_CPUSET` from urgent requests.
    pub(crate) const fn in_need(self, gfp: Gfp) -> NodeMask {
        if gfp.contains(Gfp::ATOMIC_CALLER) {
            self.nodemask
        } else {
            self.first(gfp)
        }
    }
}

impl Default for AllowedNodes {
    fn default() -> Self {
        Self::ALL
    }
}

/// What is looked for, and where. Linux: `struct alloc_context`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    pub(crate) gfp: Gfp,
    /// The highest zone that may serve it.
    pub(crate) highest: ZoneType,
    /// The free lists to look at first.
    pub(crate) kind: MigrateType,
    /// The node to begin with.
    pub(crate) node: NodeId,
    /// Nodes to look at.
    pub(crate) nodes: NodeMask,
    /// The node of the CPU that asks.
    pub(crate) cpu_node: NodeId,
}

/// What the order of nodes is made from.
pub(crate) struct NodeFacts<'a> {
    pub(crate) topology: &'a Topology,
    /// Nodes that pages can be had from. Linux: `N_MEMORY`.
    pub(crate) with_memory: NodeMask,
    /// Nodes with CPUs. Linux: `N_CPU`.
    pub(crate) with_cpus: NodeMask,
}

/// How many other nodes turn to a node before the others equally far away. Linux: `node_load`.
pub(crate) type NodeLoad = [usize; MAX_NODES];

impl NodeFacts<'_> {
    /// The order for `local`, itself first; and adds to the load. Linux: `build_zonelists`.
    pub(crate) fn fallback_of(
        &self,
        local: NodeId,
        load: &mut NodeLoad,
    ) -> ([NodeId; MAX_NODES], usize) {
        let mut order = [local; MAX_NODES];
        let mut count = 1;
        let mut used = NodeMask::of(local);
        let mut before = local;
        while let Some(node) = self.next_best(local, used, load) {
            // The first of a group of nodes equally far away is the one to bear it: let the next list begin elsewhere.
            if self.topology.distance(local, node) != self.topology.distance(local, before) {
                load[node.index()] += 1;
            }
            order[count] = node;
            count += 1;
            used = used.union(NodeMask::of(node));
            before = node;
        }
        (order, count)
    }

    /// Linux: `find_next_best_node`.
    fn next_best(&self, local: NodeId, used: NodeMask, load: &NodeLoad) -> Option<NodeId> {
        let cost = |node: &NodeId| {
            let below = usize::from(*node < local);
            let busy = usize::from(self.with_cpus.contains(*node));
            let distance = usize::from(self.topology.distance(local, *node));
            (distance + below + busy) * MAX_NODES + load[node.index()]
        };
        self.topology
            .nodes()
            .filter(|node| self.with_memory.contains(*node) && !used.contains(*node))
            .min_by_key(cost)
    }
}

/// The order in force. Numbers that are read while it is built anew are nodes all the same, some of them twice.
#[derive(Debug)]
pub(crate) struct Fallback {
    order: [AtomicU8; MAX_NODES],
    count: AtomicU8,
}

impl Fallback {
    pub(crate) const fn new() -> Self {
        Self {
            order: [const { AtomicU8::new(0) }; MAX_NODES],
            count: AtomicU8::new(0),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "at most MAX_NODES")]
    pub(crate) fn set(&self, order: &[NodeId]) {
        for (slot, node) in self.order.iter().zip(order) {
            slot.store(node.index() as u8, Relaxed);
        }
        self.count.store(order.len() as u8, Relaxed);
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let count = usize::from(self.count.load(Relaxed));
        let order = self.order.iter().take(count);
        order.map(|slot| NodeId::new(slot.load(Relaxed)))
    }
}
