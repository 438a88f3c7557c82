//! Pageblocks that are kept back for urgent requests of higher order: these cannot wait until blocks come together.
//! Linux: `MIGRATE_HIGHATOMIC`, mm/page_alloc.c.

use kmm_buddy::Buddy;
use kmm_frame::{MigrateType, Order, Pfn};
use kmm_host::{Cpus, PhysMap};
use lock_api::RawMutex;

use crate::effort::Effort;
use crate::zonelist::Search;
use crate::{Zone, Zones};

/// How much of what is kept back may go. Linux: `force` of `unreserve_highatomic_pageblock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreserve {
    /// A pageblock stays in each zone.
    ButOne,
    /// The last one goes too: else somebody would be killed for memory.
    All,
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Gives a pageblock that was kept back for urgent requests to requests of a type, in the first zone of a zonelist that
    /// has one of which something is free; whether there was one. For who has tried everything else.
    ///
    /// Linux: `unreserve_highatomic_pageblock`.
    ///
    /// # Context
    /// Does not sleep. From any context.
    pub fn unreserve_highatomic(
        &self,
        zones: impl Iterator<Item = &'static Zone<L>>,
        kind: MigrateType,
        how: Unreserve,
    ) -> bool {
        let mut zones = zones;
        zones.any(|zone| zone.unreserve_highatomic(kind, how))
    }

    pub(crate) fn unreserve(&self, search: &Search, how: Unreserve) -> bool {
        let zones = self.zonelist(search.node, search.nodes, search.highest);
        self.unreserve_highatomic(zones, search.kind, how)
    }
}

impl<L: RawMutex> Zone<L> {
    /// How many frames are in pageblocks that are kept back for urgent requests. Linux: `nr_reserved_highatomic`.
    ///
    /// # Context
    /// Takes the zone lock.
    #[must_use]
    pub fn nr_reserved_highatomic(&self) -> usize {
        self.with_buddy(|buddy| buddy.nr_reserved_highatomic())
    }

    /// A block for a request that is entitled to it. Urgent ones of higher order find what is kept back for them first,
    /// and keep the pageblock back that they got one from; single pages only when there is nothing else.
    ///
    /// Linux: `rmqueue_buddy`, and `reserve_highatomic_pageblock` in `get_page_from_freelist`.
    #[inline(always)]
    pub(crate) fn take_block(
        &self,
        buddy: &mut Buddy,
        order: Order,
        effort: Effort,
        kind: MigrateType,
    ) -> Option<Pfn> {
        if effort.may_use_reserve() {
            return self.take_reserved(buddy, order, effort, kind);
        }
        buddy.take(order, effort.request(kind)).ok()
    }

    #[cold]
    #[inline(never)]
    fn take_reserved(
        &self,
        buddy: &mut Buddy,
        order: Order,
        effort: Effort,
        kind: MigrateType,
    ) -> Option<Pfn> {
        let is_large = order != Order::ZERO;
        let reserved = |buddy: &mut Buddy| buddy.take(order, MigrateType::HighAtomic).ok();
        if effort.is_urgent() && is_large {
            if let Some(pfn) = reserved(buddy) {
                return Some(pfn);
            }
        }
        match buddy.take(order, effort.request(kind)) {
            Ok(pfn) => {
                if effort.is_urgent() && is_large {
                    buddy.reserve_highatomic(pfn, order, self.managed_pages());
                }
                Some(pfn)
            }
            Err(_) => reserved(buddy),
        }
    }

    fn unreserve_highatomic(&self, kind: MigrateType, how: Unreserve) -> bool {
        let kept = match how {
            Unreserve::ButOne => Order::PAGEBLOCK.nr_pages(),
            Unreserve::All => 0,
        };
        self.with_buddy(|buddy| {
            buddy.nr_reserved_highatomic() > kept && buddy.unreserve_highatomic(kind)
        })
    }
}
