//! Many blocks at once: one pin, and one lock of each zone for up to [`CHUNK`] of them. Linux: `__alloc_pages_bulk`,
//! `free_unref_page_list`.

use kmm_frame::{Gfp, MAX_NODES, NodeId, NodeMask, Order, Page, Pfn, ZoneType};
use kmm_host::{CpuPin, Cpus, PageBlock, PhysMap};
use lock_api::RawMutex;

use crate::pcp::Size;
use crate::zone::FREED;
use crate::{AllowedNodes, BadPage, BadReason, Pressure, Zone, ZoneId, Zones};

/// So many blocks move under one lock: the lock and the pin are shared, and interrupts wait for some microseconds only.
pub(crate) const CHUNK: usize = 64;

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Takes up to `most` single pages, as [`Zones::rmqueue`] would one after the other; how many were given to `sink`.
    pub(crate) fn rmqueue_bulk(
        &self,
        pin: CpuPin<'_>,
        most: usize,
        gfp: Gfp,
        node: NodeId,
        mut sink: impl FnMut(Pfn),
    ) -> (usize, Pressure) {
        let search = self.search(pin, gfp, node, NodeMask::ALL);
        let mut count = 0;
        for zone in self.zonelist(search.node, search.nodes, search.highest) {
            if count < most {
                let more = zone.take_bulk(pin, most - count, &search, &mut sink);
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
            sink(pfn);
            count += 1;
        }
        (count, pressure)
    }

    /// Takes back every block of a chunk, as [`Zones::put_back`] would one after the other. Leaves `None`.
    pub(crate) fn put_back_chunk(&self, chunk: &mut [Option<PageBlock>]) {
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
