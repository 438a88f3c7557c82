//! Many blocks at once: one pin, and one lock of each zone for up to [`CHUNK`] of them. Linux: `__alloc_pages_bulk`,
//! `free_unref_page_list`.

use kmm_frame::{Gfp, MAX_NODES, NodeId, NodeMask, Order, Pfn, ZoneType};
use kmm_host::{CpuPin, Cpus, PageBlock, PhysMap};
use lock_api::RawMutex;

use crate::zone::FREED;
use crate::{AllowedNodes, BadPage, BadReason, Pressure, ZoneId, Zones};

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
            for slot in chunk.iter_mut() {
                if let Some(zone) = self.stock_or_keep(pin, slot) {
                    has_blocks_of.insert(zone);
                }
            }
        });
        for zone in self.all() {
            if has_blocks_of.contains(zone.id()) {
                while let Some((pfn, order, why)) = zone.put_bulk(chunk) {
                    self.report_refused((pfn, why), order);
                }
            }
        }
    }

    /// Empties a slot if its block is bad, or a single page that belongs into this CPU's stock. Else the zone whose free
    /// lists have to take it.
    #[inline]
    fn stock_or_keep(&self, pin: CpuPin<'_>, slot: &mut Option<PageBlock>) -> Option<ZoneId> {
        let (pfn, order) = slot.as_ref().map(|block| (block.pfn(), block.order()))?;
        let checked = self.check_free(pfn, order, 1).and_then(|page| {
            let zone = self.zone_of(pfn).ok_or(BadPage {
                pfn,
                order,
                reason: BadReason::Foreign,
            })?;
            let to_stock = zone.belongs_in_stock(pin, pfn, order);
            if to_stock {
                self.check_lists(pfn, order)?;
            }
            Ok((page, zone, to_stock))
        });
        match checked {
            Ok((page, zone, to_stock)) => {
                page.set_ref_count(0);
                page.set_private(FREED);
                if !to_stock || !zone.keep(pin, pfn, order) {
                    return Some(zone.id());
                }
            }
            Err(bad) => self.report(bad),
        }
        let _ = slot.take().map(PageBlock::into_raw);
        None
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
