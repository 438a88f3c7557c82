//! Taking pages out and back in: which zone, how deep, and what it means for the rest of the system.

use kmm_buddy::FreeError;
use kmm_frame::{Gfp, Order, Page, PageFlags, Pfn, PfnRange, ZoneType};
use kmm_host::{AllocError, CpuPin, Cpus, PhysMap};
use lock_api::RawMutex;

use crate::watermark::Effort;
use crate::zone::IN_PCP;
use crate::{BadPage, BadReason, Zone, Zones};

/// What an allocation means for the rest of the system. The zones only say it; whoever called acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "kswapd does not wake by itself"]
pub enum Pressure {
    /// There is enough.
    None,
    /// Every zone that could serve the request is below its low watermark. Linux: `wakeup_kswapd`.
    WakeKswapd,
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
    /// The frames are bare: no reference count, contents as they were. [`Zones::alloc_pages`] makes pages of them.
    ///
    /// Linux: `get_page_from_freelist` and the beginning of `__alloc_pages_slowpath`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] if no zone has a block that the request is entitled to; kswapd should be woken then
    /// as well, if `gfp` says so.
    pub fn rmqueue(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
    ) -> Result<(Pfn, Pressure), AllocError> {
        match self.take_from_zonelist(pin, order, gfp.zone(), Effort::FAST) {
            Some(pfn) => Ok((pfn, Pressure::None)),
            None => self.rmqueue_slow(pin, order, gfp),
        }
    }

    /// Gives this CPU's stock of pages back to the zones; how many. Linux: `drain_local_pages`.
    pub fn drain_pcp(&self, pin: CpuPin<'_>) -> usize {
        self.all()
            .iter()
            .map(|zone| match zone.drain(pin) {
                Ok(count) => count,
                Err(refused) => {
                    self.report_refused(refused, Order::ZERO);
                    0
                }
            })
            .sum()
    }

    /// Below the low marks: as deep as the request may go, then once more with what this CPU has in stock.
    #[cold]
    fn rmqueue_slow(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        gfp: Gfp,
    ) -> Result<(Pfn, Pressure), AllocError> {
        let highest = gfp.zone();
        let mut found = self.take_from_zonelist(pin, order, highest, Effort::slow(gfp));
        if found.is_none() && self.drain_pcp(pin) != 0 {
            found = self.take_from_zonelist(pin, order, highest, Effort::slow(gfp));
        }
        if found.is_none() && gfp.contains(Gfp::MEMALLOC) && !gfp.contains(Gfp::NOMEMALLOC) {
            found = self.take_from_zonelist(pin, order, highest, Effort::ALL);
        }
        found
            .map(|pfn| (pfn, Pressure::below_low(gfp)))
            .ok_or(AllocError::OutOfMemory)
    }

    fn take_from_zonelist(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        highest: ZoneType,
        effort: Effort,
    ) -> Option<Pfn> {
        self.all()[..=highest.index()]
            .iter()
            .rev()
            .filter(|zone| zone.may_take(order, effort, highest))
            .find_map(|zone| zone.take(pin, order))
    }

    /// Takes back a block whose owner gave it up; a bad one is reported and dropped. Linux: `free_unref_page`.
    pub(crate) fn put_back(&self, pfn: Pfn, order: Order) {
        let zone = match self.check_free(pfn, order) {
            Ok(zone) => zone,
            Err(bad) => return self.report(bad),
        };
        self.map().page(pfn).set_ref_count(0);
        if let Err(refused) = self.cpus().with_pin(|pin| zone.put(pin, pfn, order)) {
            self.report_refused(refused, order);
        }
    }

    /// Whether the block may be put back. Linux: `free_pages_prepare`, `free_page_is_bad`.
    fn check_free(&self, pfn: Pfn, order: Order) -> Result<&Zone<L>, BadPage> {
        let zone = self.check_block(pfn, order)?;
        self.check_lists(zone, pfn, order)?;
        Ok(zone)
    }

    /// Looks at the descriptor of the first frame; in debug builds, of every frame.
    pub(crate) fn check_block(&self, pfn: Pfn, order: Order) -> Result<&Zone<L>, BadPage> {
        let bad = |pfn, reason| BadPage { pfn, order, reason };
        let foreign = bad(pfn, BadReason::Foreign);
        let page = self.map().get(pfn).ok_or(foreign)?;
        check_page(page).map_err(|reason| bad(pfn, reason))?;
        let zone = self.zone(page.zone_type());
        let block = PfnRange::with_len(pfn, order.nr_pages());
        if !zone.range().contains_range(block) {
            return Err(foreign);
        }
        if !pfn.is_aligned(order) {
            return Err(bad(pfn, BadReason::NotAligned));
        }
        if cfg!(debug_assertions) {
            for tail in block.iter().skip(1) {
                check_tail(self.map().page(tail)).map_err(|reason| bad(tail, reason))?;
            }
        }
        Ok(zone)
    }

    /// In debug builds, looks for the block on the free lists, under the zone lock.
    pub(crate) fn check_lists(
        &self,
        zone: &Zone<L>,
        pfn: Pfn,
        order: Order,
    ) -> Result<(), BadPage> {
        if cfg!(debug_assertions) && zone.with_buddy(|buddy| buddy.free_block_of(pfn)).is_some() {
            let reason = BadReason::DoubleFree;
            return Err(BadPage { pfn, order, reason });
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

fn check_page(page: &Page) -> Result<(), BadReason> {
    let flags = page.flags() & PageFlags::CHECK_AT_FREE;
    if flags.contains(PageFlags::BUDDY) {
        return Err(BadReason::DoubleFree);
    }
    if !flags.is_empty() {
        return Err(BadReason::Flags(flags));
    }
    match page.ref_count() {
        1 => {}
        0 if page.private() == IN_PCP => return Err(BadReason::DoubleFree),
        0 => {}
        count => return Err(BadReason::RefCount(count)),
    }
    match page.map_count() {
        0 => Ok(()),
        count => Err(BadReason::MapCount(count)),
    }
}

fn check_tail(page: &Page) -> Result<(), BadReason> {
    check_page(page)?;
    match page.ref_count() {
        0 => Ok(()),
        count => Err(BadReason::RefCount(count)),
    }
}
