//! Where the zones of all nodes begin and end. Linux: `free_area_init`, mm/page_alloc.c.

use kmm_frame::{MAX_NODES, NodeId, PfnRange, Topology, ZoneType};

use crate::{ZoneLayout, ZoneLimits};

/// The zones of each node of a machine. A frame is in the zone whose range it lies in, of the node that the topology
/// says: ranges of zones of different nodes may overlap, where frames of one node lie between those of another.
#[derive(Clone, Debug)]
pub struct NodeLayouts {
    topology: &'static Topology,
    nodes: [ZoneLayout; MAX_NODES],
}

impl NodeLayouts {
    /// A machine of one node.
    #[must_use]
    pub const fn single(layout: ZoneLayout) -> Self {
        let mut nodes = [ZoneLayout::EMPTY; MAX_NODES];
        nodes[0] = layout;
        Self {
            topology: const { &Topology::single() },
            nodes,
        }
    }

    /// Cuts the RAM of each node, from the first to the last frame of it, by the limits of an architecture. `memory`: all
    /// RAM of the machine, in any order.
    #[must_use]
    pub fn new<A: ZoneLimits>(
        topology: &'static Topology,
        memory: impl IntoIterator<Item = PfnRange>,
    ) -> Self {
        let mut spans = [PfnRange::EMPTY; MAX_NODES];
        for range in memory {
            for (node, part) in crate::node::by_node(topology, range) {
                let span = &mut spans[node.index()];
                *span = span.hull(part);
            }
        }
        Self {
            topology,
            nodes: spans.map(ZoneLayout::new::<A>),
        }
    }

    /// The same with room for memory that may be plugged in later, to be used by the kernel as far as the limits of the
    /// architecture go, or as movable memory; and with room for devices.
    #[must_use]
    pub fn with_hotplug<A: ZoneLimits>(mut self, range: PfnRange) -> Self {
        for (node, part) in crate::node::by_node(self.topology, range) {
            let by_limits = ZoneLayout::new::<A>(part);
            let layout = &mut self.nodes[node.index()];
            for kind in ZoneType::ALL {
                *layout = layout.with_room(kind, by_limits.range(kind));
            }
            *layout = layout.with_room(ZoneType::Movable, part);
            *layout = layout.with_room(ZoneType::Device, part);
        }
        self
    }

    /// The same with other zones for one node.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn with_node(mut self, node: NodeId, layout: ZoneLayout) -> Self {
        assert!(
            node.index() < self.nr_nodes(),
            "a layout for node {} of {}",
            node.index(),
            self.nr_nodes()
        );
        self.nodes[node.index()] = layout;
        self
    }

    /// Who has which frames.
    #[must_use]
    pub const fn topology(&self) -> &'static Topology {
        self.topology
    }

    /// How many nodes.
    #[must_use]
    pub const fn nr_nodes(&self) -> usize {
        self.topology.nr_nodes()
    }

    /// The zones of each node, upwards.
    #[must_use]
    pub fn nodes(&self) -> &[ZoneLayout] {
        &self.nodes[..self.nr_nodes()]
    }

    /// How many [`crate::Pcp`]s the zones want: [`ZoneLayout::nr_pcps`] of all nodes.
    #[must_use]
    pub fn nr_pcps(&self, nr_cpus: usize) -> usize {
        let nodes = self.nodes().iter();
        let each = nodes.map(|layout| layout.nr_pcps(nr_cpus));
        each.fold(0, usize::saturating_add)
    }

    /// How many [`crate::Pageblock`]s the zones want.
    #[must_use]
    pub fn nr_pageblocks(&self) -> usize {
        self.nodes().iter().map(ZoneLayout::nr_pageblocks).sum()
    }

    /// How many [`crate::FreeBits`] the zones want.
    #[must_use]
    pub fn nr_free_bits(&self) -> usize {
        self.nodes().iter().map(ZoneLayout::nr_free_bits).sum()
    }
}
