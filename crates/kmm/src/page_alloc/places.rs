//! Where a request may look, and how deep. Linux: `gfp_to_alloc_flags`, `ALLOC_CPUSET`, cpusets.

use kmm_frame::{Gfp, MAX_NODES, MigrateType, NodeId, NodeMask, Order, VmEvent};
use kmm_host::{AllocError, Host, PageBlock, PageReq};
use kmm_zone::{AllowedNodes, Mark, Pressure, Unreserve, Zone};

use super::{AllocStep, PageAlloc, ReclaimReq};

/// Blocks above it are not waited for: they may not come about however much is reclaimed. Linux:
/// `PAGE_ALLOC_COSTLY_ORDER`.
const COSTLY_ORDER: usize = 3;

const _: () = assert!(MAX_NODES <= 64, "a NodeMask has room for every node");

/// A request with the nodes that serve it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) req: PageReq,
    /// Nodes that the caller named.
    pub(super) mask: NodeMask,
    /// Nodes that the task is allowed: its cpuset.
    pub(super) allowed: NodeMask,
}

impl Request {
    pub(super) const fn new(req: PageReq, mask: NodeMask, allowed: NodeMask) -> Self {
        Self { req, mask, allowed }
    }

    pub(super) const fn has(&self, gfp: Gfp) -> bool {
        self.req.gfp.contains(gfp)
    }

    pub(super) fn is_costly(&self) -> bool {
        self.req.order.index() > COSTLY_ORDER
    }

    /// Whether compaction could help: unmovable pages stand in their own way.
    pub(super) fn wants_compaction_first(&self) -> bool {
        let movable = self.req.gfp.migrate_type() == MigrateType::Movable;
        self.is_costly() || (self.req.order > Order::ZERO && !movable)
    }

    /// Where the first try looks: within the cpuset, walled in or not.
    pub(super) const fn fast_nodes(&self) -> AllowedNodes {
        AllowedNodes {
            nodemask: self.mask.intersect(self.allowed),
            mems_allowed: NodeMask::ALL,
        }
    }

    /// Where the slow path looks: who is not walled in may leave the cpuset, and who cannot wait goes anywhere.
    pub(super) const fn slow_nodes(&self) -> AllowedNodes {
        if self.has(Gfp::ATOMIC_CALLER) {
            AllowedNodes::ALL
        } else {
            AllowedNodes {
                nodemask: self.mask,
                mems_allowed: self.allowed,
            }
        }
    }

    /// The same as a set of nodes.
    pub(super) const fn slow_mask(&self) -> NodeMask {
        let nodes = self.slow_nodes();
        if self.has(Gfp::HARDWALL) {
            nodes.nodemask.intersect(nodes.mems_allowed)
        } else {
            nodes.nodemask
        }
    }
}

impl<H: Host> PageAlloc<H> {
    /// Looks through the zones of `nodes`, with the flags `gfp`. Linux: `get_page_from_freelist`.
    pub(super) fn free_lists(
        &self,
        request: &Request,
        gfp: Gfp,
        nodes: AllowedNodes,
    ) -> Result<(PageBlock, Pressure), AllocError> {
        let req = PageReq { gfp, ..request.req };
        self.zones.alloc_pages_allowed(req, nodes)
    }

    /// The zones that could serve a request, nearest first. Linux: `for_each_zone_zonelist_nodemask`.
    fn zones_for(&self, request: &Request) -> impl Iterator<Item = &'static Zone<H::Lock>> {
        let node = self.node_of(&request.req);
        let only = if request.has(Gfp::THISNODE) {
            NodeMask::of(node)
        } else {
            NodeMask::ALL
        };
        let mask = request.slow_mask().intersect(only);
        self.zones.zonelist(node, mask, request.req.gfp.zone())
    }

    /// The node that a request prefers.
    fn node_of(&self, req: &PageReq) -> NodeId {
        req.node.unwrap_or_else(|| self.zones.this_node())
    }

    /// Whether there is a zone in which a request could be served at all.
    pub(super) fn has_zone_for(&self, request: &Request) -> bool {
        self.zones_for(request).any(Zone::is_managed)
    }

    /// The request as those see it who make room for it.
    pub(super) fn reclaim_req(&self, request: &Request) -> ReclaimReq {
        let req = &request.req;
        ReclaimReq {
            order: req.order,
            gfp: req.gfp,
            node: self.node_of(req),
            allowed: request.slow_mask(),
            highest: req.gfp.zone(),
        }
    }

    /// Wakes kswapd of every node that could serve the request. Linux: `wake_all_kswapds`.
    #[cold]
    #[inline(never)]
    pub(super) fn wake_kswapds(&self, request: &Request) {
        if !request.has(Gfp::KSWAPD_RECLAIM) {
            return;
        }
        let (order, highest) = (request.req.order, request.req.gfp.zone());
        let mut last = None;
        for zone in self.zones_for(request) {
            if last != Some(zone.node()) {
                last = Some(zone.node());
                self.step(AllocStep::WakeKswapd(zone.node()));
                let reclaimer = self.hooks.reclaimer;
                reclaimer.wake_kswapd(zone.node(), order, highest);
            }
        }
    }

    /// Whether some zone would serve the request from above its high mark.
    pub(super) fn is_above_high(&self, request: &Request) -> bool {
        let (order, highest) = (request.req.order, request.req.gfp.zone());
        self.zones_for(request)
            .any(|zone| zone.watermark_ok(order, Mark::High, highest))
    }

    /// Whether some zone would serve the request, were all of it reclaimed that can be. Linux: the loop of
    /// `should_reclaim_retry`.
    pub(super) fn could_be_reclaimed(&self, request: &Request) -> bool {
        let (req, highest) = (&request.req, request.req.gfp.zone());
        self.zones_for(request).any(|zone| {
            let stat = zone.stat();
            let has_block = req.order == Order::ZERO
                || stat.nr_free[req.order.index()..].iter().any(|n| *n != 0);
            let floor = min_mark(stat.watermarks.min, req.gfp) + stat.protection[highest.index()];
            let available = stat.free + self.reclaimable(zone);
            has_block && available > floor + (req.order.nr_pages() - 1)
        })
    }

    /// Whether some zone has memory enough for the request, were it in one piece. Linux: `compaction_zonelist_suitable`.
    pub(super) fn could_be_compacted(&self, request: &Request) -> bool {
        let (order, highest) = (request.req.order, request.req.gfp.zone());
        self.zones_for(request).any(|zone| {
            let available = zone.nr_free_pages() + self.reclaimable(zone) / order.index().max(1);
            let floor = zone.watermarks().low + zone.protection()[highest.index()];
            available > floor + 2 * order.nr_pages()
        })
    }

    /// Gives up a pageblock that is kept back for urgent requests, the last one too; whether there was one. Linux:
    /// `unreserve_highatomic_pageblock`.
    pub(super) fn unreserve(&self, request: &Request) -> bool {
        let zones = self.zones_for(request);
        let kind = request.req.gfp.migrate_type();
        let has_more = self.zones.unreserve_highatomic(zones, kind, Unreserve::All);
        if has_more {
            self.step(AllocStep::Unreserved);
        }
        has_more
    }

    fn reclaimable(&self, zone: &Zone<H::Lock>) -> usize {
        let reclaimer = self.hooks.reclaimer;
        reclaimer.reclaimable_pages(zone.node(), zone.kind())
    }

    pub(super) fn count(&self, event: VmEvent) {
        self.zones.count_event(event, 1);
    }
}

/// How far down a request may go. Linux: `__zone_watermark_ok` with `ALLOC_HIGH` and `ALLOC_HARDER`.
const fn min_mark(mut min: usize, gfp: Gfp) -> usize {
    if gfp.contains(Gfp::HIGH) {
        min -= min / 2;
    }
    if gfp.contains(Gfp::ATOMIC_CALLER) && !gfp.contains(Gfp::NOMEMALLOC) {
        min -= min / 4;
    }
    min
}
