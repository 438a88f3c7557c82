//! Taking pages out and back in: which zone, how deep, and what it means for the rest of the system.
#![expect(
    unsafe_code,
    reason = "pages that come back are checked as nobody else's"
)]

use kmm_buddy::FreeError;
use kmm_frame::{Gfp, NodeId, NodeMask, NumaItem, Order, Page, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{AllocError, CpuPin, Cpus, PhysMap};
use lock_api::RawMutex;

use crate::effort::Effort;
use crate::pcp::{Kept, Size, Way};
use crate::zone::FREED;
use crate::zonelist::Search;
use crate::{AllowedNodes, BadPage, BadReason, Unreserve, Zone, Zones};

/// What an allocation means for the rest of the system. The zones only say it; whoever called acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "kswapd does not wake by itself"]
pub enum Pressure {
    /// There is enough.
    None,
    /// Every zone that could serve the request is below its low watermark. Linux: `wakeup_kswapd`.
    WakeKswapd,
}

/// A result that fits into a register beside the frame: the fast path then keeps its own in one too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Calm,
    Low,
    Failed,
}

impl Outcome {
    pub(crate) fn of(result: Result<(Pfn, Pressure), AllocError>) -> (Pfn, Self) {
        match result {
            Ok((pfn, Pressure::None)) => (pfn, Self::Calm),
            Ok((pfn, Pressure::WakeKswapd)) => (pfn, Self::Low),
            Err(_) => (Pfn::ZERO, Self::Failed),
        }
    }

    #[inline(always)]
    pub(crate) fn with(self, pfn: Pfn) -> Result<(Pfn, Pressure), AllocError> {
        match self {
            Self::Calm => Ok((pfn, Pressure::None)),
            Self::Low => Ok((pfn, Pressure::WakeKswapd)),
            Self::Failed => Err(AllocError::OutOfMemory),
        }
    }
}

impl Pressure {
    /// What a request means that the low marks have refused.
    pub(crate) const fn below_low(gfp: Gfp) -> Self {
        if gfp.contains(Gfp::KSWAPD_RECLAIM) {
            Self::WakeKswapd
        } else {
            Self::None
        }
    }
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Takes a block for a request from the highest zone that may serve it and has enough, else from lower ones.
    ///
    /// The frames are bare: no reference count, descriptors and contents as they were. [`Zones::alloc_pages`] makes pages
    /// of them. A single page comes from this CPU's stock of the first zone as long as there is one: watermarks are looked
    /// at when the stock is filled (FIX-6).
    ///
    /// Linux: `get_page_from_freelist` and the beginning of `__alloc_pages_slowpath`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] if no zone has a block that the request is entitled to; kswapd should be woken then
    /// as well, if `gfp` says so.
    #[inline]
    pub fn rmqueue(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
    ) -> Result<(Pfn, Pressure), AllocError> {
        let pcp = self.first_pcp(pin, gfp.zone(), Way::Frozen);
        if let Some(pfn) = pcp.take(Size::of(order), gfp.migrate_type()) {
            if cfg!(debug_assertions) {
                self.map().page(pfn).set_private(0);
            }
            return Ok((pfn, Pressure::None));
        }
        self.rmqueue_unstocked(pin, order, gfp)
    }

    #[inline(never)]
    fn rmqueue_unstocked(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
    ) -> Result<(Pfn, Pressure), AllocError> {
        self.rmqueue_here(pin, order, gfp)
    }

    /// As [`Zones::rmqueue`], when this CPU has nothing in stock.
    #[inline(always)]
    pub(crate) fn rmqueue_here(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
    ) -> Result<(Pfn, Pressure), AllocError> {
        let node = self.topology().node_of_cpu(pin.cpu().index());
        self.rmqueue_zones(pin, order, gfp, node, AllowedNodes::ALL)
    }

    /// As [`Zones::rmqueue`], but beginning with `node`, and on allowed nodes only.
    ///
    /// Linux: `__alloc_pages` with a preferred node and a nodemask, mm/page_alloc.c.
    ///
    /// # Context
    /// As for [`Zones::rmqueue`].
    ///
    /// # Errors
    /// [`AllocError::NoSuchNode`]; else as for [`Zones::rmqueue`].
    #[inline(never)]
    pub fn rmqueue_from(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
        node: NodeId,
        allowed: AllowedNodes,
    ) -> Result<(Pfn, Pressure), AllocError> {
        if node.index() >= self.nodes().len() {
            return Err(AllocError::NoSuchNode);
        }
        self.rmqueue_zones(pin, order, gfp, node, allowed)
    }

    /// Every zone of the list of `node`, by its low mark: nearly always the first has it.
    /// Linux: `get_page_from_freelist`.
    #[inline(always)]
    fn rmqueue_zones(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
        node: NodeId,
        allowed: AllowedNodes,
    ) -> Result<(Pfn, Pressure), AllocError> {
        let search = self.search(pin, gfp, node, allowed.first(gfp));
        if search.nodes.contains(node) {
            if let Some((zone, is_unmixed)) = self.node(node).first_zone(search.highest) {
                let effort = Effort::fast(gfp);
                let effort = if is_unmixed {
                    effort.without_fragmenting()
                } else {
                    effort
                };
                if let Some(pfn) = zone.take(pin, order, effort, &search) {
                    return Ok((pfn, Pressure::None));
                }
            }
        }
        self.rmqueue_further(pin, order, &search, allowed)
    }

    /// As [`Zones::rmqueue_zones`], one zone after the other.
    #[inline(never)]
    fn rmqueue_further(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        search: &Search,
        allowed: AllowedNodes,
    ) -> Result<(Pfn, Pressure), AllocError> {
        let (effort, node) = (Effort::fast(search.gfp), search.node);
        let mut found = None;
        if self.should_not_fragment(search) {
            // Better the zone below than a mixed pageblock, but better that than another node.
            let local = Search {
                nodes: search.nodes.intersect(NodeMask::of(node)),
                ..*search
            };
            found = self.take_first(pin, order, effort.without_fragmenting(), &local);
        }
        if found.is_none() {
            found = self.take_first(pin, order, effort, search);
        }
        match found {
            Some((zone, pfn)) => {
                self.count_numa(pin, search, zone, 1);
                Ok((pfn, Pressure::None))
            }
            None => self.rmqueue_slow(pin, order, search, allowed),
        }
    }

    /// From the first zone that has enough and a block.
    fn take_first(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        effort: Effort,
        search: &Search,
    ) -> Option<(&'static Zone<L>, Pfn)> {
        let mut zones = self.zonelist(search.node, search.nodes, search.highest);
        zones.find_map(|zone| Some((zone, zone.take(pin, order, effort, search)?)))
    }

    /// Whether the first zone is `Normal` with `Dma32` below, to go to before pageblocks are mixed.
    /// Linux: `alloc_flags_nofragment`.
    fn should_not_fragment(&self, search: &Search) -> bool {
        let first = self.node(search.node).first_zone(search.highest);
        search.nodes.contains(search.node) && first.is_some_and(|(_, is_unmixed)| is_unmixed)
    }

    /// What a request looks for.
    #[inline]
    pub(crate) fn search(
        &self,
        pin: CpuPin<'_>,
        gfp: Gfp,
        node: NodeId,
        nodes: NodeMask,
    ) -> Search {
        let only = if gfp.contains(Gfp::THISNODE) {
            NodeMask::of(node)
        } else {
            NodeMask::ALL
        };
        Search {
            gfp,
            highest: gfp.zone(),
            kind: gfp.migrate_type(),
            node,
            nodes: nodes.intersect(only),
            cpu_node: self.topology().node_of_cpu(pin.cpu().index()),
        }
    }

    /// Counts requests that another node has served than that of the first zone that could have.
    /// Linux: `zone_statistics`.
    pub(crate) fn count_numa(
        &self,
        pin: CpuPin<'_>,
        search: &Search,
        served: &Zone<L>,
        count: usize,
    ) {
        if self.nodes().len() == 1 || served.node() == search.node {
            return;
        }
        let mut zones = self.zonelist(search.node, search.nodes, search.highest);
        if let Some(meant) = zones.next() {
            if meant.node() != served.node() {
                served.count_numa(pin, NumaItem::Miss, count as u64);
                meant.count_numa(pin, NumaItem::Foreign, count as u64);
            }
        }
    }

    /// Below the low marks: as deep as the request may go, then once more with what this CPU has in stock.
    #[cold]
    fn rmqueue_slow(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        first: &Search,
        allowed: AllowedNodes,
    ) -> Result<(Pfn, Pressure), AllocError> {
        let gfp = first.gfp;
        let search = self.search(pin, gfp, first.node, allowed.in_need(gfp));
        let mut found = self.take_deep(order, &search, Effort::slow(gfp));
        if found.is_none() && self.drain_pcp(pin) != 0 {
            found = self.take_deep(order, &search, Effort::slow(gfp));
        }
        if found.is_none() && gfp.may_block() {
            // Who could wait is short of memory: urgent requests keep a pageblock.
            while found.is_none() && self.unreserve(&search, Unreserve::ButOne) {
                found = self.take_deep(order, &search, Effort::slow(gfp));
            }
        }
        if found.is_none() && gfp.contains(Gfp::MEMALLOC) && !gfp.contains(Gfp::NOMEMALLOC) {
            found = self.take_deep(order, &search, Effort::all(gfp));
        }
        let (zone, pfn) = found.ok_or(AllocError::OutOfMemory)?;
        self.count_numa(pin, &search, zone, 1);
        Ok((pfn, Pressure::below_low(gfp)))
    }

    fn take_deep(
        &self,
        order: Order,
        search: &Search,
        effort: Effort,
    ) -> Option<(&'static Zone<L>, Pfn)> {
        self.zonelist(search.node, search.nodes, search.highest)
            .find_map(|zone| Some((zone, zone.take_deep(order, effort, search)?)))
    }

    /// Takes back a block that has as many references as `held`, or reports it and drops it. Linux: `free_unref_page`.
    ///
    /// # Safety
    /// Nobody else uses the block, or looks for a way to use it: its last user gives it up.
    #[inline(always)]
    pub(crate) unsafe fn put_back(&self, pfn: Pfn, order: Order, held: u32) {
        // Closures are inlined where they are small: this one is for pages only.
        let keep = move |pin: CpuPin<'_>| {
            let pcp = self.first_pcp(pin, ZoneType::Movable, Way::Counted);
            // SAFETY: the way of the pageset; the rest by the caller.
            unsafe { pcp.keep_counted(Size::PAGE, pfn, held) }
        };
        let kept = if order == Order::ZERO && !cfg!(debug_assertions) {
            self.cpus().with_pin(keep)
        } else {
            Kept::Unseen
        };
        match kept {
            Kept::Yes => {}
            Kept::No => self.give_slow(pfn, order),
            // SAFETY: by the caller.
            Kept::Unseen => unsafe { self.put_back_block(pfn, order, held) },
        }
    }

    /// As [`Zones::put_back`], of any size.
    ///
    /// # Safety
    /// As there.
    #[inline(never)]
    unsafe fn put_back_block(&self, pfn: Pfn, order: Order, held: u32) {
        let is_aligned = pfn.index() & (order.nr_pages() - 1) == 0;
        if order != Order::ZERO && is_aligned && !cfg!(debug_assertions) {
            let kept = self.cpus().with_pin(|pin| {
                let pcp = self.first_pcp(pin, ZoneType::Movable, Way::Counted);
                // SAFETY: the way of the pageset; the rest by the caller.
                unsafe { pcp.keep_counted(Size::of(order), pfn, held) }
            });
            match kept {
                Kept::Yes => return,
                Kept::No => return self.give_slow(pfn, order),
                Kept::Unseen => {}
            }
        }
        self.put_back_slow(pfn, order, held);
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn put_back_slow(&self, pfn: Pfn, order: Order, held: u32) {
        let checked = self.check_free(pfn, order, held);
        let page = match checked.and_then(|page| self.check_lists(pfn, order).map(|()| page)) {
            Ok(page) => page,
            Err(bad) => return self.report(bad),
        };
        page.set_ref_count(0);
        page.set_private(FREED);
        self.give(pfn, order);
    }

    /// Takes frames back whose descriptors are in order.
    #[inline(always)]
    pub(crate) fn give(&self, pfn: Pfn, order: Order) {
        // Closures are inlined where they are small: this one is for pages only.
        let keep = move |pin: CpuPin<'_>| self.keep(pin, Size::PAGE, pfn);
        if order != Order::ZERO || !self.cpus().with_pin(keep) {
            self.give_block(pfn, order);
        }
    }

    /// As [`Zones::give`], of any size.
    #[inline(never)]
    fn give_block(&self, pfn: Pfn, order: Order) {
        let keep = |pin: CpuPin<'_>| self.keep(pin, Size::of(order), pfn);
        if order == Order::ZERO || !self.cpus().with_pin(keep) {
            self.give_slow(pfn, order);
        }
    }

    #[inline(always)]
    pub(crate) fn keep(&self, pin: CpuPin<'_>, size: Size, pfn: Pfn) -> bool {
        let pcp = self.first_pcp(pin, ZoneType::Movable, Way::Frozen);
        if cfg!(debug_assertions) && pcp.holds(pfn) {
            self.map().page(pfn).set_private(FREED);
        }
        pcp.keep(size, pfn)
    }

    /// What found no room in the stock of its size.
    #[cold]
    #[inline(never)]
    pub(crate) fn give_slow(&self, pfn: Pfn, order: Order) {
        self.give_to_zone(pfn, order);
    }

    #[inline(never)]
    fn give_to_zone(&self, pfn: Pfn, order: Order) {
        let Some(zone) = self.zone_of(pfn) else {
            return self.report_refused((pfn, FreeError::OutsideZone), order);
        };
        let put = |pin: CpuPin<'_>| zone.put_stocked(pin, pfn, Size::of(order));
        if let Err(refused) = self.cpus().with_pin(put) {
            self.report_refused(refused, order);
        }
    }

    /// Whether the block may be put back. Linux: `free_pages_prepare`, `free_page_is_bad`.
    ///
    /// Looks at the descriptor of the first frame; in debug builds, of every frame.
    #[inline]
    pub(crate) fn check_free(
        &self,
        pfn: Pfn,
        order: Order,
        held: u32,
    ) -> Result<&'static Page, BadPage> {
        let bad = |pfn, reason| BadPage { pfn, order, reason };
        let foreign = bad(pfn, BadReason::Foreign);
        let page = self.map_ref().get(pfn).ok_or(foreign)?;
        if order != Order::ZERO && !pfn.is_aligned(order) {
            return Err(bad(pfn, BadReason::NotAligned));
        }
        if !is_free_to_go(page, held) {
            return Err(bad(pfn, why_not(page, held)));
        }
        if cfg!(debug_assertions) {
            self.check_frames(pfn, order)?;
        }
        Ok(page)
    }

    fn check_frames(&self, pfn: Pfn, order: Order) -> Result<(), BadPage> {
        let bad = |pfn, reason| BadPage { pfn, order, reason };
        let foreign = bad(pfn, BadReason::Foreign);
        let zone = self.zone_of(pfn).ok_or(foreign)?;
        let block = PfnRange::with_len(pfn, order.nr_pages());
        if !zone.owns_range(block) || !zone.pageblocks().has_all_present_in(block) {
            return Err(foreign);
        }
        for tail in block.iter().skip(1) {
            let page = self.map().page(tail);
            if !is_free_to_go(page, 0) {
                return Err(bad(tail, why_not(page, 0)));
            }
        }
        Ok(())
    }

    /// In debug builds, looks for the block on the free lists, under the zone lock.
    #[inline]
    pub(crate) fn check_lists(&self, pfn: Pfn, order: Order) -> Result<(), BadPage> {
        if cfg!(debug_assertions) {
            let zone = self.zone_of(pfn);
            let is_free = |zone: &Zone<L>| zone.with_buddy(|b| b.free_block_of(pfn)).is_some();
            if zone.is_some_and(is_free) {
                let reason = BadReason::DoubleFree;
                return Err(BadPage { pfn, order, reason });
            }
        }
        Ok(())
    }

    pub(crate) fn report_refused(&self, (pfn, why): (Pfn, FreeError), order: Order) {
        let reason = match why {
            FreeError::AlreadyFree => BadReason::DoubleFree,
            FreeError::NotAligned => BadReason::NotAligned,
            FreeError::Reserved => BadReason::Flags(PageFlags::RESERVED),
            _ => BadReason::Foreign,
        };
        self.report(BadPage { pfn, order, reason });
    }
}

/// Whether nobody uses the page but its owner, who holds it `held` times; or once, but has given that up already.
#[inline]
fn is_free_to_go(page: &Page, held: u32) -> bool {
    let count = page.ref_count();
    let is_held = is_held(count, held);
    let is_checked = cfg!(debug_assertions) || count == 0;
    !page.flags().intersects(PageFlags::CHECK_AT_FREE)
        && page.map_count() == 0
        && is_held
        && !(is_checked && page.private() == FREED)
}

fn is_held(count: i32, held: u32) -> bool {
    count == 0 || u32::try_from(count) == Ok(held)
}

#[cold]
fn why_not(page: &Page, held: u32) -> BadReason {
    let flags = page.flags() & PageFlags::CHECK_AT_FREE;
    if flags.contains(PageFlags::BUDDY) {
        return BadReason::DoubleFree;
    }
    if !flags.is_empty() {
        return BadReason::Flags(flags);
    }
    match page.ref_count() {
        count if is_held(count, held) => {}
        count => return BadReason::RefCount(count),
    }
    match page.map_count() {
        0 => BadReason::DoubleFree,
        count => BadReason::MapCount(count),
    }
}
