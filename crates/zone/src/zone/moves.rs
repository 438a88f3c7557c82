//! How frames move between the free lists of a zone, the stocks of its CPUs and their owners. Linux: `rmqueue`,
//! `free_unref_page`, mm/page_alloc.c.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_buddy::{Buddy, FreeError};
use kmm_frame::{MigrateType, Order, Pfn};
use kmm_host::{CpuPin, PageBlock};
use lock_api::RawMutex;

use super::{FREED, Zone};
use crate::Pcp;
use crate::effort::Effort;
use crate::pcp::PcpUse;
use crate::zonelist::Search;

impl<L: RawMutex> Zone<L> {
    /// Takes a block for a request as far as [`Zone::may_take`] lets it: a single page from this CPU's stock, which is
    /// filled if need be. Linux: `rmqueue`.
    pub(crate) fn take(
        &self,
        pin: CpuPin<'_>,
        order: Order,
        effort: Effort,
        search: &Search,
    ) -> Option<Pfn> {
        if !self.may_take(order, effort, search.highest) {
            return None;
        }
        if order == Order::ZERO {
            if let Some(pcp) = self.pcp(pin) {
                if let Ok(page) = pcp.with(|pcp| self.take_from_pcp(&pcp, effort, search)) {
                    return page;
                }
            }
        }
        self.take_locked(order, effort, search)
    }

    /// As [`Zone::take`], but past the stock and as deep as `effort` says: what is kept back for some requests must not
    /// get into the stock, which is for all.
    pub(crate) fn take_deep(&self, order: Order, effort: Effort, search: &Search) -> Option<Pfn> {
        if !self.may_take(order, effort, search.highest) {
            return None;
        }
        self.take_locked(order, effort, search)
    }

    /// Puts back a block whose owner gave it up, a single page into this CPU's pageset. Linux: `free_unref_page`.
    ///
    /// # Errors
    /// A frame that the buddy allocator refused, and why. It may be another frame than `pfn`, and is dropped.
    pub(crate) fn put(
        &self,
        pin: CpuPin<'_>,
        pfn: Pfn,
        order: Order,
    ) -> Result<(), (Pfn, FreeError)> {
        if order == Order::ZERO {
            if let Some(pcp) = self.pcp(pin) {
                self.mark(pfn);
                if let Ok(result) = pcp.with(|pcp| self.put_to_pcp(&pcp, pfn)) {
                    return result;
                }
            }
        }
        self.put_locked(pfn, order)
    }

    /// Gives all that this CPU's pageset has back; how many pages. Linux: `drain_pages_zone`.
    ///
    /// # Errors
    /// As for [`Zone::put`]; every page left the pageset all the same.
    pub(crate) fn drain(&self, pin: CpuPin<'_>) -> Result<usize, (Pfn, FreeError)> {
        match self.pcp(pin) {
            Some(pcp) => self.drain_one(pcp),
            None => Ok(0),
        }
    }

    /// As [`Zone::drain`], of any CPU, which must stand still (INV-3).
    pub(crate) fn drain_one(&self, pcp: &Pcp) -> Result<usize, (Pfn, FreeError)> {
        let drain = |pcp: PcpUse<'_>| {
            self.with_buddy(|buddy| {
                let (mut count, mut refused) = self.put_home(&pcp, buddy);
                while let Some(pfn) = pcp.pop_unused() {
                    refused = self.put_one(buddy, pfn).err().or(refused);
                    count += 1;
                }
                refused.map_or(Ok(count), Err)
            })
        };
        // A pageset that is in use further out stays: its user goes on with it.
        pcp.with(drain).unwrap_or(Ok(0))
    }

    /// Takes single pages for a request as far as [`Zone::may_take`] lets it: first this CPU's stock, then from the free
    /// lists under one lock. How many were given to `sink`. Linux: `__alloc_pages_bulk`, `rmqueue_bulk`.
    pub(crate) fn take_bulk(
        &self,
        pin: CpuPin<'_>,
        most: usize,
        search: &Search,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let effort = Effort::fast(search.gfp);
        let spare = self.spare(effort, search.highest);
        if spare == 0 {
            return 0;
        }
        let mut count = 0;
        if let Some(pcp) = self.pcp(pin) {
            // A pageset that is in use further out is left alone.
            let _ = pcp.with(|pcp| {
                while count < most {
                    let Some(pfn) = pcp.pop() else { break };
                    sink(pfn);
                    count += 1;
                }
            });
        }
        let wanted = (most - count).min(spare);
        if wanted > 0 {
            count += self.with_buddy(|buddy| {
                let taken = buddy.take_pages(wanted, effort.request(search.kind), sink);
                self.count_locked(search, taken, taken);
                taken
            });
        }
        count
    }

    /// Whether a page belongs into this CPU's stock. An interrupt may change that.
    pub(crate) fn belongs_in_stock(&self, pin: CpuPin<'_>, pfn: Pfn) -> bool {
        let review = |pcp: PcpUse<'_>| pcp.is_due().then(|| self.review(&pcp));
        self.pcp(pin)
            .is_some_and(|pcp| pcp.with(review).is_ok() && pcp.belongs(pfn))
    }

    /// Puts a page into this CPU's stock if it belongs there; whether it did.
    pub(crate) fn keep(&self, pin: CpuPin<'_>, pfn: Pfn) -> bool {
        self.mark(pfn);
        let kept = self.pcp(pin).is_some_and(|pcp| pcp.keep(pfn));
        if !kept {
            self.unmark(pfn);
        }
        kept
    }

    /// Puts the zone's blocks of `blocks` onto the free lists under one lock, up to the first that is refused: that one is
    /// dropped and returned. Linux: `free_pcppages_bulk`.
    pub(crate) fn put_bulk(
        &self,
        blocks: &mut [Option<PageBlock>],
    ) -> Option<(Pfn, Order, FreeError)> {
        let is_ours = |block: &mut PageBlock| self.owns(block.pfn());
        self.with_buddy(|buddy| {
            let mut count = 0;
            let mut refused = None;
            for block in blocks.iter_mut().filter_map(|slot| slot.take_if(is_ours)) {
                let (pfn, order) = block.into_raw();
                self.unmark(pfn);
                if let Err(why) = buddy.put(pfn, order) {
                    refused = Some((pfn, order, why));
                    break;
                }
                count += order.nr_pages();
            }
            bump(&self.nr_pages_freed, count);
            refused
        })
    }

    fn pcp(&self, pin: CpuPin<'_>) -> Option<&'static Pcp> {
        self.pcps.get(pin.cpu().index())
    }

    fn take_from_pcp(&self, pcp: &PcpUse<'_>, effort: Effort, search: &Search) -> Option<Pfn> {
        if let Some(page) = pcp.pop() {
            return Some(page);
        }
        // Not below the low mark: what comes into the stock is not asked any more whether it may go.
        let spare = self.spare(effort, search.highest);
        let batch = self.pcp_batch.load(Relaxed).min(spare);
        let mut filler = pcp.filler(batch);
        self.with_buddy(|buddy| {
            buddy.take_pages(batch, effort.request(MigrateType::Movable), |pfn| {
                self.mark(pfn);
                filler.push(pfn);
            })
        });
        filler.finish();
        self.review(pcp);
        pcp.pop()
    }

    fn put_to_pcp(&self, pcp: &PcpUse<'_>, pfn: Pfn) -> Result<(), (Pfn, FreeError)> {
        if pcp.is_due() {
            self.review(pcp);
        }
        if pcp.push(pfn) || !pcp.send_home(pfn) {
            return Ok(());
        }
        let (_, refused) = self.with_buddy(|buddy| self.put_home(pcp, buddy));
        refused.map_or(Ok(()), Err)
    }

    /// Opens the window of a pageset on as many frames as are in use.
    fn review(&self, pcp: &PcpUse<'_>) {
        let others = self.nr_free_pages() + pcp.count();
        pcp.set_window(self.present_pages().saturating_sub(others).max(1));
    }

    /// Puts the pages that wait to go home onto the free lists; how many, and one that was refused.
    /// Linux: `free_pcppages_bulk`.
    fn put_home(&self, pcp: &PcpUse<'_>, buddy: &mut Buddy) -> (usize, Option<(Pfn, FreeError)>) {
        let (mut count, mut refused) = (0, None);
        let pages = pcp.going_home().inspect(|&pfn| {
            self.unmark(pfn);
            count += 1;
        });
        buddy.put_pages(pages, |pfn, why| refused = Some((pfn, why)));
        (count, refused)
    }

    #[inline]
    fn put_one(&self, buddy: &mut Buddy, pfn: Pfn) -> Result<(), (Pfn, FreeError)> {
        self.unmark(pfn);
        buddy.put(pfn, Order::ZERO).map_err(|why| (pfn, why))
    }

    fn take_locked(&self, order: Order, effort: Effort, search: &Search) -> Option<Pfn> {
        self.with_buddy(|buddy| {
            let pfn = self.take_block(buddy, order, effort, search.kind)?;
            self.count_locked(search, 1, order.nr_pages());
            Some(pfn)
        })
    }

    /// Counts requests that were served past the pagesets, under the lock.
    fn count_locked(&self, search: &Search, nr_requests: usize, nr_pages: usize) {
        bump(&self.nr_allocs, nr_requests);
        bump(&self.nr_pages_alloced, nr_pages);
        if search.cpu_node != self.node {
            bump(&self.nr_remote, nr_requests);
        }
    }

    fn put_locked(&self, pfn: Pfn, order: Order) -> Result<(), (Pfn, FreeError)> {
        self.unmark(pfn);
        self.with_buddy(|buddy| {
            buddy.put(pfn, order).map_err(|why| (pfn, why))?;
            bump(&self.nr_pages_freed, order.nr_pages());
            Ok(())
        })
    }

    /// Debug builds say in the descriptor of a page that it is in a pageset.
    #[inline]
    pub(crate) fn mark(&self, pfn: Pfn) {
        if cfg!(debug_assertions) {
            self.map.page(pfn).set_private(FREED);
        }
    }

    #[inline]
    pub(crate) fn unmark(&self, pfn: Pfn) {
        if cfg!(debug_assertions) {
            self.map.page(pfn).set_private(0);
        }
    }
}

/// Adds to a counter that is written under the zone lock only, so without a locked instruction.
fn bump(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Relaxed) + by as u64, Relaxed);
}
