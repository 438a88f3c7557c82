//! Many blocks at once: one pin, and one lock of each zone for up to [`CHUNK`] of them. Linux: `__alloc_pages_bulk`,
//! `free_unref_page_list`.
#![expect(unsafe_code, reason = "blocks are made of frames, and come back")]

use kmm_frame::{Gfp, MAX_NODES, MemMap, NodeId, NodeMask, Order, Page, Pfn, ZoneType};
use kmm_host::{CpuPin, Cpus, PageBlock, PhysMap};
use lock_api::RawMutex;

use crate::pcp::{Size, Way};
use crate::source::prepare;
use crate::zone::FREED;
use crate::{AllowedNodes, BadPage, BadReason, Pressure, Zone, ZoneId, Zones};

/// So many blocks move under one lock: the lock and the pin are shared, and interrupts wait for some microseconds only.
pub(crate) const CHUNK: usize = 128;
/// So many pages are taken under one lock: that takes less than putting them back.
pub(crate) const TAKEN_AT_ONCE: usize = 256;

/// Slots that are filled from the front, with pages: of each a few stores, in loops without a call.
pub(crate) struct Slots<'a> {
    left: &'a mut [Option<PageBlock>],
    map: &'a MemMap,
}

impl<'a> Slots<'a> {
    pub(crate) fn new(map: &'a MemMap, slots: &'a mut [Option<PageBlock>]) -> Self {
        Self { left: slots, map }
    }

    /// Takes a frame that leaves a zone.
    pub(crate) fn take(&mut self, pfn: Pfn) {
        let map = self.map;
        for slot in self.next(1) {
            fill(slot, pfn, map.page(pfn));
        }
    }

    /// As [`Slots::take`], of frames that lie side by side.
    pub(crate) fn take_run(&mut self, first: Pfn, len: usize) {
        let map = self.map;
        let at = first.index().wrapping_sub(map.range().start().index());
        let pages = map.flat().and_then(|pages| pages.get(at..)?.get(..len));
        let slots = self.next(len);
        let frames = (first.index()..).map(Pfn::new);
        if let Some(pages) = pages {
            for (pfn, (page, slot)) in frames.zip(pages.iter().zip(slots)) {
                fill(slot, pfn, page);
            }
        } else {
            for (pfn, slot) in frames.zip(slots) {
                fill(slot, pfn, map.page(pfn));
            }
        }
    }

    /// The next so many slots, or what is left.
    pub(crate) fn next(&mut self, len: usize) -> &'a mut [Option<PageBlock>] {
        let left = core::mem::take(&mut self.left);
        let (next, left) = left.split_at_mut(len.min(left.len()));
        self.left = left;
        next
    }
}

/// Makes a page of a frame that leaves a zone, and puts it into a slot.
#[inline(always)]
pub(crate) fn fill(slot: &mut Option<PageBlock>, pfn: Pfn, page: &Page) {
    // SAFETY: INV-1: frames that leave a zone are RAM, and nobody else's until they are put back.
    *slot = Some(unsafe { PageBlock::from_raw(pfn, Order::ZERO) });
    prepare(page);
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Takes up to `most` single pages, as [`Zones::rmqueue`] would one after the other; how many were given to `out`.
    pub(crate) fn rmqueue_bulk(
        &self,
        pin: CpuPin<'_>,
        most: usize,
        gfp: Gfp,
        node: NodeId,
        out: &mut Slots<'_>,
    ) -> (usize, Pressure) {
        let search = self.search(pin, gfp, node, NodeMask::ALL);
        let mut count = 0;
        if let Some((zone, _)) = self.node(node).first_zone(search.highest) {
            // Nearly always it has them all.
            count = zone.take_bulk(pin, most, &search, out);
        }
        if count == most {
            return (count, Pressure::None);
        }
        for zone in self.zonelist(search.node, search.nodes, search.highest) {
            if count < most {
                let more = zone.take_bulk(pin, most - count, &search, out);
                self.count_numa(pin, &search, zone, more);
                count += more;
            }
        }
        let mut pressure = Pressure::None;
        while count < most {
            // Below the low marks each page is looked for by itself.
            let Ok((pfn, more)) = self.rmqueue_from(pin, Order::ZERO, gfp, node, AllowedNodes::ALL)
            else {
                return (count, Pressure::below_low(gfp));
            };
            if more == Pressure::WakeKswapd {
                pressure = more;
            }
            out.take(pfn);
            count += 1;
        }
        (count, pressure)
    }

    /// Takes back every block, as [`Zones::put_back`] would one after the other. Leaves `None`.
    pub(crate) fn put_back_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        let mut may_ask = true;
        for chunk in blocks.chunks_mut(CHUNK) {
            // Debug builds look at each by itself.
            if cfg!(debug_assertions) || !self.put_back_pages(chunk, &mut may_ask) {
                self.put_back_others(chunk);
            }
        }
    }

    /// Takes back the single pages of the zone that this CPU keeps pages of, if nothing is wrong with them; whether that
    /// was all.
    fn put_back_pages(&self, chunk: &mut [Option<PageBlock>], may_ask: &mut bool) -> bool {
        let mut rest = [Pfn::ZERO; CHUNK];
        let mut count = 0;
        let mut was_all = true;
        self.cpus().with_pin(|pin| {
            let pcp = self.first_pcp(pin, ZoneType::Movable, Way::Counted);
            // No route is so large.
            let mut full = usize::MAX;
            for slot in chunk {
                let pfn = match slot {
                    Some(block) if block.order() == Order::ZERO => block.pfn(),
                    Some(_) => {
                        was_all = false;
                        continue;
                    }
                    None => continue,
                };
                // SAFETY: the way of the pageset; who has a block has it alone, and gives it up.
                let Some(offset) = (unsafe { pcp.free_counted(pfn, 1) }) else {
                    was_all = false;
                    continue;
                };
                *slot = None;
                let route = pcp.route_at(pfn);
                if route != full {
                    if pcp.keep_at(Size::PAGE, route, offset) {
                        continue;
                    }
                    // Room is shared out anew once for all of them.
                    if *may_ask && self.keep_after_asking(pin, pfn) {
                        *may_ask = false;
                        continue;
                    }
                    *may_ask = false;
                    full = route;
                }
                if let Some(place) = rest.get_mut(count) {
                    *place = pfn;
                    count += 1;
                }
            }
        });
        let rest = &mut rest[..count];
        if let Some(zone) = rest.first().and_then(|&pfn| self.zone_of(pfn)) {
            zone.put_pages(rest, |refused| self.report_refused(refused, Order::ZERO));
        }
        was_all
    }

    #[cold]
    #[inline(never)]
    fn keep_after_asking(&self, pin: CpuPin<'_>, pfn: Pfn) -> bool {
        let keep = |zone: &Zone<L>| {
            zone.belongs_in_stock(pin, pfn, Order::ZERO) && zone.keep(pin, pfn, Order::ZERO)
        };
        self.zone_of(pfn).is_some_and(keep)
    }

    /// Takes back every block of a chunk.
    fn put_back_others(&self, chunk: &mut [Option<PageBlock>]) {
        let mut has_blocks_of = ZoneSet::default();
        self.cpus().with_pin(|pin| {
            // Room is shared out anew, and windows measured, once for all of them. Debug builds ask for each, as they look for
            // it on the free lists before it goes into a stock.
            let mut may_ask = true;
            for slot in chunk.iter_mut() {
                if let Some(zone) = self.stock_or_keep(pin, slot, may_ask) {
                    has_blocks_of.insert(zone);
                    may_ask = cfg!(debug_assertions);
                }
            }
        });
        for zone in self.all() {
            if has_blocks_of.contains(zone.id()) {
                zone.put_bulk(chunk, |refused, order| self.report_refused(refused, order));
            }
        }
    }

    /// Empties a slot if its block is bad, or a single page that belongs into this CPU's stock. Else the zone whose free
    /// lists have to take it.
    #[inline]
    fn stock_or_keep(
        &self,
        pin: CpuPin<'_>,
        slot: &mut Option<PageBlock>,
        may_ask: bool,
    ) -> Option<ZoneId> {
        let (pfn, order) = slot.as_ref().map(|block| (block.pfn(), block.order()))?;
        let bad = match self.check_free(pfn, order, 1) {
            Ok(page) if cfg!(debug_assertions) => self.keep_checked(pin, pfn, order, page),
            Ok(page) => {
                page.set_ref_count(0);
                page.set_private(FREED);
                if self.keep(pin, Size::of(order), pfn) {
                    Ok(None)
                } else {
                    self.keep_or_zone(pin, pfn, order, may_ask)
                }
            }
            Err(bad) => Err(bad),
        };
        match bad {
            Ok(Some(zone)) => return Some(zone),
            Ok(None) => {}
            Err(bad) => self.report(bad),
        }
        let _ = slot.take().map(PageBlock::into_raw);
        None
    }

    /// The zone whose free lists have to take a block, `None` if it went into the stock.
    fn keep_or_zone(
        &self,
        pin: CpuPin<'_>,
        pfn: Pfn,
        order: Order,
        may_ask: bool,
    ) -> Result<Option<ZoneId>, BadPage> {
        let zone = self.zone_of(pfn).ok_or(BadPage {
            pfn,
            order,
            reason: BadReason::Foreign,
        })?;
        let is_kept =
            may_ask && zone.belongs_in_stock(pin, pfn, order) && zone.keep(pin, pfn, order);
        Ok((!is_kept).then_some(zone.id()))
    }

    /// As [`Zones::keep_or_zone`], with a look at the free lists first if the block is for the stock.
    fn keep_checked(
        &self,
        pin: CpuPin<'_>,
        pfn: Pfn,
        order: Order,
        page: &Page,
    ) -> Result<Option<ZoneId>, BadPage> {
        let is_for_stock = |zone: &Zone<L>| zone.belongs_in_stock(pin, pfn, order);
        if self.zone_of(pfn).is_some_and(is_for_stock) {
            self.check_lists(pfn, order)?;
        }
        page.set_ref_count(0);
        page.set_private(FREED);
        self.keep_or_zone(pin, pfn, order, true)
    }
}

/// Some zones of some nodes.
#[derive(Clone, Copy, Default)]
struct ZoneSet(u128);

const _: () = assert!(MAX_NODES * ZoneType::COUNT <= 128);

impl ZoneSet {
    fn insert(&mut self, zone: ZoneId) {
        self.0 |= Self::bit(zone);
    }

    fn contains(self, zone: ZoneId) -> bool {
        self.0 & Self::bit(zone) != 0
    }

    fn bit(zone: ZoneId) -> u128 {
        1 << (zone.node.index() * ZoneType::COUNT + zone.kind.index())
    }
}
