//! One node: its zones, and what all of them share. Linux: `pg_data_t`, include/linux/mmzone.h.

use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use kmm_frame::{MemMap, NodeId, Order, Pfn, PfnRange, Topology, ZoneType};
use lock_api::{Mutex, RawMutex};

use crate::lru::LruLists;
use crate::span::Span;
use crate::zonelist::Fallback;
use crate::{CpuCounts, Mark, NodeCounters, Zone, ZoneLayout};

/// The memory next to some CPUs, or to none. Some nodes have no memory.
pub struct Node<L> {
    id: NodeId,
    topology: &'static Topology,
    layout: ZoneLayout,
    /// Where the zones are now, side by side, so that the zone of a frame is found in two cache lines.
    spans: [Span; ZoneType::COUNT],
    zones: [Zone<L>; ZoneType::COUNT],
    lru: Mutex<L, LruLists>,
    fallback: Fallback,
    /// By the highest zone that may serve a request, the zone that it tries first, with [`UNMIXED`]; [`NO_ZONE`] if no
    /// zone has a frame.
    first: [AtomicU8; ZoneType::COUNT],
    counters: NodeCounters,
}

const NO_ZONE: u8 = 0x7f;
/// There is a zone below to go to before pageblocks are mixed.
const UNMIXED: u8 = 0x80;

const _: () = assert!(ZoneType::COUNT <= NO_ZONE as usize);

impl<L: RawMutex> Node<L> {
    pub(crate) fn new(
        id: NodeId,
        topology: &'static Topology,
        layout: ZoneLayout,
        zones: [Zone<L>; ZoneType::COUNT],
        map: MemMap,
        shares: &'static [CpuCounts],
    ) -> Self {
        let spans = ZoneType::ALL.map(|kind| Span::new(layout.range(kind)));
        Self {
            id,
            topology,
            layout,
            spans,
            zones,
            lru: Mutex::new(LruLists::new(map)),
            fallback: Fallback::new(),
            first: [const { AtomicU8::new(NO_ZONE) }; ZoneType::COUNT],
            counters: NodeCounters::new(shares),
        }
    }
}

impl<L: RawMutex> Node<L> {
    /// Where a zone is from now on.
    pub(crate) fn set_span(&self, kind: ZoneType, range: PfnRange) {
        self.spans[kind.index()].set(range);
        self.zones[kind.index()].set_span(range);
    }

    /// Notes which zones have frames.
    pub(crate) fn set_first_zones(&self) {
        let has_dma32 = self.zone(ZoneType::Dma32).is_populated();
        let mut first = NO_ZONE;
        for (slot, (nr, zone)) in self.first.iter().zip((0..).zip(&self.zones)) {
            if zone.is_populated() {
                let is_normal = zone.kind() == ZoneType::Normal;
                first = nr | if is_normal && has_dma32 { UNMIXED } else { 0 };
            }
            slot.store(first, Relaxed);
        }
    }

    /// The node's zone that a request tries first which `highest` could serve; and whether it is `Normal` with `Dma32`
    /// below, to go to before pageblocks are mixed. Linux: `first_zones_zonelist`, `alloc_flags_nofragment`.
    #[inline]
    pub(crate) fn first_zone(&self, highest: ZoneType) -> Option<(&Zone<L>, bool)> {
        let first = self.first[highest.index()].load(Relaxed);
        let zone = self.zones.get(usize::from(first & !UNMIXED))?;
        Some((zone, first & UNMIXED != 0))
    }

    /// Whether who reclaims for requests of `order` that `highest` could serve may stop: one of these zones is above its
    /// high mark, or there is none with memory. Linux: `pgdat_balanced`, mm/vmscan.c.
    ///
    /// # Context
    /// Takes the locks of the zones when `order` is above 0.
    #[must_use]
    pub fn is_balanced(&self, order: Order, highest: ZoneType) -> bool {
        let zones = &self.zones[..=highest.index()];
        let mut managed = zones.iter().filter(|zone| zone.is_managed()).peekable();
        managed.peek().is_none()
            || managed.any(|zone| zone.watermark_ok(order, Mark::High, highest))
    }

    /// Frames of the node that pages can be had from.
    #[must_use]
    pub fn managed_pages(&self) -> usize {
        self.zones.iter().map(Zone::managed_pages).sum()
    }
}

impl<L> Node<L> {
    /// Which node it is. Linux: `node_id`.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }

    /// The zone of this kind; it may be empty.
    #[must_use]
    pub const fn zone(&self, kind: ZoneType) -> &Zone<L> {
        &self.zones[kind.index()]
    }

    /// Every zone, scarcest first, empty ones too. Linux: `node_zones`.
    #[must_use]
    pub const fn zones(&self) -> &[Zone<L>; ZoneType::COUNT] {
        &self.zones
    }

    /// Where the zones began and ended when the node was made.
    #[must_use]
    pub const fn layout(&self) -> &ZoneLayout {
        &self.layout
    }

    /// The zone that a frame is in, if it is one of this node.
    #[must_use]
    pub fn zone_of(&self, pfn: Pfn) -> Option<&Zone<L>> {
        if self.topology.node_of(pfn) == self.id {
            self.zone_at(pfn)
        } else {
            None
        }
    }

    /// The nodes that requests from here go to, this one first. Linux: the `Fallback order` of the boot log.
    pub fn fallback_nodes(&self) -> impl Iterator<Item = NodeId> {
        self.fallback.nodes()
    }

    /// As [`Node::zone_of`], of a frame that is the node's.
    #[inline]
    pub(crate) fn zone_at(&self, pfn: Pfn) -> Option<&Zone<L>> {
        let index = self.spans.iter().position(|span| span.contains(pfn))?;
        Some(&self.zones[index])
    }

    /// What the node's memory is used for, and what its CPUs have counted.
    #[must_use]
    pub const fn counters(&self) -> &NodeCounters {
        &self.counters
    }

    pub(crate) const fn lru_lists(&self) -> &Mutex<L, LruLists> {
        &self.lru
    }

    pub(crate) const fn fallback(&self) -> &Fallback {
        &self.fallback
    }
}

impl<L> fmt::Debug for Node<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("zones", &self.zones)
            .finish_non_exhaustive()
    }
}

/// Cuts frames where their node changes: the pieces and whose they are, upwards.
pub(crate) fn by_node(
    topology: &'static Topology,
    range: PfnRange,
) -> impl Iterator<Item = (NodeId, PfnRange)> {
    let mut rest = range;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let start = rest.start();
        let node = topology.node_of(start);
        let starts = topology.ranges().iter().map(|part| part.range.start());
        let next = starts.filter(|&next| next > start).min();
        let end = match next {
            Some(next) if topology.nr_nodes() > 1 => next.min(rest.end()),
            _ => rest.end(),
        };
        rest = PfnRange::new(end, rest.end());
        Some((node, PfnRange::new(start, end)))
    })
}
