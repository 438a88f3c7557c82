//! The zones of all nodes, from boot on. Linux: mm/page_alloc.c, mm/mm_init.c.

use core::fmt;
use core::sync::atomic::AtomicUsize;

use kmm_buddy::{Buddy, Pageblocks};
use kmm_frame::{MAX_NODES, MemMap, NodeId, NodeMask, Pfn, Topology, ZoneType};
use kmm_host::{Cpus, PhysMap};
use lock_api::RawMutex;

use crate::storage::make_nodes;
use crate::watermark::WATERMARK_SCALE_FACTOR;
use crate::zone::ZoneParts;
use crate::zonelist::NodeFacts;
use crate::{
    BadPage, CpuCounts, FirstPcps, LOWMEM_RESERVE_RATIO, Node, NodeLayouts, PcpSizing, Zone,
    ZoneLayout, ZoneStorage,
};

mod boot;
mod marks;

/// All zones of all nodes: what a kernel allocates frames from.
///
/// Made empty, then fed at boot: [`Zones::add_present`] with what is RAM, [`Zones::free_at_boot`] with what of it is
/// free, [`Zones::init_watermarks`] in the end. From then on it is a [`kmm_host::PageSource`].
///
/// `L` is the host's lock, safe against interrupts of this CPU if interrupts allocate or free.
pub struct Zones<L: 'static, C, P> {
    nodes: &'static [Node<L>],
    first_pcps: &'static [FirstPcps],
    topology: &'static Topology,
    map: MemMap,
    cpus: C,
    phys: P,
    on_bad_page: fn(BadPage),
    pcp_sizing: PcpSizing,
    reserve_ratio: [AtomicUsize; ZoneType::COUNT],
    /// What the marks were computed from.
    min_free_kbytes: AtomicUsize,
    scale_factor: AtomicUsize,
}

/// Why [`Zones`] were not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ZonesError {
    /// A zone has frames without descriptors.
    NoDescriptors,
    /// There is room for fewer nodes than [`NodeLayouts::nr_nodes`] says.
    TooFewNodes,
    /// There are fewer [`FirstPcps`] than CPUs.
    TooFewFirstPcps,
    /// There are fewer pagesets than [`NodeLayouts::nr_pcps`] says.
    TooFewPcps,
    /// There are fewer pageblocks than [`NodeLayouts::nr_pageblocks`] says.
    TooFewPageblocks,
    /// There are fewer bits than [`NodeLayouts::nr_free_bits`] says.
    TooFewFreeBits,
    /// The device zone of a node begins with a frame of another node.
    WrongNode,
    /// A zone would reach beyond [`Pfn::END`], or have 2^32 frames or more.
    TooLarge,
}

impl fmt::Display for ZonesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDescriptors => "zone has frames without descriptors",
            Self::TooFewNodes => "room for fewer nodes than there are",
            Self::TooFewFirstPcps => "fewer lists of first pagesets than CPUs",
            Self::TooFewPcps => "fewer pagesets than zones and CPUs want",
            Self::TooFewPageblocks => "fewer pageblocks than zones want",
            Self::TooFewFreeBits => "fewer bits than zones want",
            Self::WrongNode => "device frames of another node",
            Self::TooLarge => "zone has too many frames, or some beyond the last",
        })
    }
}

impl core::error::Error for ZonesError {}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Zones that no frame was given to yet. `storage` is fresh, for `layouts` and all CPUs.
    ///
    /// Without [`Zones::with_bad_page_hook`], pages that are freed wrongly are dropped in silence.
    ///
    /// # Errors
    /// A [`ZonesError`] if descriptors or storage are missing.
    pub fn new(
        map: MemMap,
        cpus: C,
        phys: P,
        layouts: &NodeLayouts,
        storage: ZoneStorage<L>,
    ) -> Result<Self, ZonesError> {
        let nr_cpus = cpus.nr_cpus();
        check(map, layouts, &storage, nr_cpus)?;
        let topology = layouts.topology();
        let ZoneStorage {
            nodes,
            first_pcps,
            cpu_counts,
            mut pcps,
            mut pageblocks,
            mut free_bits,
        } = storage;
        let shares_of = |node: NodeId| -> &'static [CpuCounts] {
            let mut shares = cpu_counts.chunks_exact(nr_cpus.max(1));
            shares.nth(node.index()).unwrap_or_default()
        };
        let mut make_zone = |node: NodeId, layout: &ZoneLayout, kind: ZoneType| {
            let room = layout.room(kind);
            let nr_pcps = if layout.has_pcps(kind) { nr_cpus } else { 0 };
            let (own_pcps, rest) = pcps.split_at_checked(nr_pcps)?;
            pcps = rest;
            let blocks = Pageblocks::new(room, pageblocks)?;
            pageblocks = &pageblocks[Pageblocks::count_for(room)..];
            let bits = core::mem::take(&mut free_bits);
            let (bits, rest) = bits.split_at_mut_checked(Buddy::storage_for(room))?;
            free_bits = rest;
            Some(Zone::new(ZoneParts {
                node,
                kind,
                range: layout.range(kind),
                topology,
                map,
                pcps: own_pcps,
                shares: shares_of(node),
                pageblocks: blocks,
                buddy: Buddy::new(room, map, bits, blocks)?,
            }))
        };
        let make_node = |nr: usize| {
            let layout = layouts.nodes()[nr];
            let id = topology.nodes().nth(nr).unwrap_or_default();
            let zones = ZoneType::ALL.map(|kind| make_zone(id, &layout, kind));
            let [
                Some(dma),
                Some(dma32),
                Some(normal),
                Some(highmem),
                Some(movable),
                Some(device),
            ] = zones
            else {
                return Err(ZonesError::TooFewFreeBits);
            };
            let zones = [dma, dma32, normal, highmem, movable, device];
            Ok(Node::new(id, topology, layout, zones, map, shares_of(id)))
        };
        let nodes = make_nodes(&mut nodes[..layouts.nr_nodes()], make_node)?;
        let zones = Self {
            nodes,
            first_pcps: &first_pcps[..nr_cpus],
            topology,
            map,
            cpus,
            phys,
            on_bad_page: |_| {},
            pcp_sizing: PcpSizing::default(),
            reserve_ratio: LOWMEM_RESERVE_RATIO.map(AtomicUsize::new),
            min_free_kbytes: AtomicUsize::new(NOT_YET),
            scale_factor: AtomicUsize::new(WATERMARK_SCALE_FACTOR),
        };
        zones.build_all_zonelists();
        Ok(zones)
    }

    /// Who is told of pages that are freed wrongly. It may run in interrupts, and must not allocate or free pages.
    #[must_use]
    pub const fn with_bad_page_hook(mut self, hook: fn(BadPage)) -> Self {
        self.on_bad_page = hook;
        self
    }

    /// How large the pagesets get.
    #[must_use]
    pub const fn with_pcp_sizing(mut self, sizing: PcpSizing) -> Self {
        self.pcp_sizing = sizing;
        self
    }

    /// The zone of this kind of node 0; it may be empty. For machines of one node.
    #[must_use]
    pub const fn zone(&self, kind: ZoneType) -> &Zone<L> {
        self.nodes[0].zone(kind)
    }

    /// The zone that a frame is in. Linux: `page_zone`.
    #[inline]
    #[must_use]
    pub fn zone_of(&self, pfn: Pfn) -> Option<&'static Zone<L>> {
        let node = self.nodes.get(self.topology.node_of(pfn).index())?;
        node.zone_at(pfn)
    }

    /// Every zone of every node: a node's from the scarcest up, empty ones too.
    pub fn all(&self) -> impl Iterator<Item = &'static Zone<L>> + Clone + use<L, C, P> {
        self.nodes.iter().flat_map(Node::zones)
    }

    /// Every node, upwards.
    #[must_use]
    pub const fn nodes(&self) -> &'static [Node<L>] {
        self.nodes
    }

    /// A node.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub const fn node(&self, node: NodeId) -> &'static Node<L> {
        &self.nodes[node.index()]
    }

    /// Whether the machine has this zone, though maybe without a frame: it has an entry in /proc/zoneinfo then.
    #[must_use]
    pub fn is_configured(&self, kind: ZoneType) -> bool {
        let mut layouts = self.nodes.iter().map(Node::layout);
        layouts.any(|layout| layout.is_configured(kind))
    }

    /// Who has which frames and CPUs.
    #[must_use]
    pub const fn topology(&self) -> &'static Topology {
        self.topology
    }

    /// The descriptors.
    #[must_use]
    pub const fn map(&self) -> MemMap {
        self.map
    }

    /// The descriptors, in place: a copy would be made anew wherever one is looked up.
    pub(crate) const fn map_ref(&self) -> &MemMap {
        &self.map
    }

    /// The CPUs.
    #[must_use]
    pub const fn cpus(&self) -> &C {
        &self.cpus
    }

    /// The way to the bytes of frames.
    #[must_use]
    pub const fn phys(&self) -> &P {
        &self.phys
    }

    /// By CPU, the pagesets of the zones that its requests try first.
    pub(crate) const fn first_pcps(&self) -> &'static [FirstPcps] {
        self.first_pcps
    }

    pub(crate) fn report(&self, bad: BadPage) {
        (self.on_bad_page)(bad);
    }

    /// Sets the order of nodes for each node, and what each CPU tries first. Linux: `build_all_zonelists`.
    pub(crate) fn build_all_zonelists(&self) {
        let has_memory = |node: &&Node<L>| node.zones().iter().any(Zone::is_populated);
        let with_memory = self.nodes.iter().filter(has_memory);
        let facts = NodeFacts {
            topology: self.topology,
            with_memory: with_memory.map(Node::id).collect(),
            with_cpus: (0..self.cpus.nr_cpus())
                .map(|cpu| self.topology.node_of_cpu(cpu))
                .collect(),
        };
        let mut load = [0; MAX_NODES];
        for node in self.nodes {
            let (order, count) = facts.fallback_of(node.id(), &mut load);
            node.fallback().set(&order[..count]);
            node.set_first_zones();
        }
        for (cpu, first) in self.first_pcps.iter().enumerate() {
            for highest in ZoneType::ALL {
                let node = self.topology.node_of_cpu(cpu);
                // Never of another node: nobody asks there whether the request may leave its own.
                let mut zones = self.zonelist(node, NodeMask::of(node), highest);
                let pcp = zones.next().and_then(|zone| zone.pcps().get(cpu));
                self.set_first_pcp(cpu, first, highest, pcp);
            }
        }
    }

    /// The zones that can serve a request from a node: its own from the highest down, then those of the other nodes.
    /// Linux: `for_each_zone_zonelist_nodemask`.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn zonelist(
        &self,
        node: NodeId,
        allowed: NodeMask,
        highest: ZoneType,
    ) -> impl Iterator<Item = &'static Zone<L>> + use<L, C, P> {
        let nodes = self.nodes;
        let order = nodes[node.index()].fallback().nodes();
        order
            .filter(move |node| allowed.contains(*node))
            .flat_map(move |node| nodes[node.index()].zones()[..=highest.index()].iter().rev())
            .filter(|zone| zone.is_populated())
    }
}

/// There are no watermarks yet.
const NOT_YET: usize = usize::MAX;

/// Whether there is all that zones are made from.
fn check<L>(
    map: MemMap,
    layouts: &NodeLayouts,
    storage: &ZoneStorage<L>,
    nr_cpus: usize,
) -> Result<(), ZonesError> {
    if layouts.nodes().iter().any(is_too_large) {
        return Err(ZonesError::TooLarge);
    }
    if storage.nodes.len() < layouts.nr_nodes() {
        return Err(ZonesError::TooFewNodes);
    }
    if storage.first_pcps.len() < nr_cpus {
        return Err(ZonesError::TooFewFirstPcps);
    }
    if storage.pcps.len() < layouts.nr_pcps(nr_cpus) {
        return Err(ZonesError::TooFewPcps);
    }
    if storage.pageblocks.len() < layouts.nr_pageblocks() {
        return Err(ZonesError::TooFewPageblocks);
    }
    if storage.free_bits.len() < layouts.nr_free_bits() {
        return Err(ZonesError::TooFewFreeBits);
    }
    let topology = layouts.topology();
    for (node, layout) in topology.nodes().zip(layouts.nodes()) {
        let described = |kind: ZoneType| map.range().contains_range(layout.room(kind));
        if !ZoneType::ALL.into_iter().all(described) {
            return Err(ZonesError::NoDescriptors);
        }
        let device = layout.range(ZoneType::Device);
        if !device.is_empty() && topology.node_of(device.start()) != node {
            return Err(ZonesError::WrongNode);
        }
    }
    Ok(())
}

/// Whether a zone of a node may reach further than frames are numbered, or than the buddy allocator counts.
fn is_too_large(layout: &ZoneLayout) -> bool {
    let rooms = ZoneType::ALL.into_iter().map(|kind| layout.room(kind));
    let mut rooms = rooms.filter(|room| !room.is_empty());
    rooms.any(|room| room.end() > Pfn::END || u32::try_from(room.nr_pages()).is_err())
}

impl<L, C, P> fmt::Debug for Zones<L, C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zones")
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}
