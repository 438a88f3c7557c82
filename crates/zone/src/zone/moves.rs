//! How frames move between the free lists of a zone, the stocks of its CPUs and their owners. Linux: `rmqueue`,
//! `free_unref_page`, mm/page_alloc.c.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_buddy::FreeError;
use kmm_frame::{Order, Pfn, ZoneType};
use kmm_host::{CpuPin, PageBlock};
use lock_api::RawMutex;

use super::{IN_PCP, Zone};
use crate::Pcp;
use crate::pcp::PcpUse;
use crate::watermark::Effort;

impl<L: RawMutex> Zone<L> {
    /// Takes a block, a single page from this CPU's stock if there is one. Linux: `rmqueue`.
    pub(crate) fn take(&self, pin: CpuPin<'_>, order: Order) -> Option<Pfn> {
        if order == Order::ZERO {
            if let Some(pcp) = self.pcp(pin) {
                if let Ok(page) = pcp.with(|pcp| self.take_from_pcp(&pcp)) {
                    return page;
                }
            }
        }
        self.take_locked(order)
    }

    /// Puts back a block whose owner gave it up, a single page into this CPU's stock. Linux: `free_unref_page`.
    ///
    /// # Errors
    /// A frame that the buddy allocator refused, and why: its books were spoiled before. It may be another frame than
    /// `pfn`, and is dropped.
    pub(crate) fn put(
        &self,
        pin: CpuPin<'_>,
        pfn: Pfn,
        order: Order,
    ) -> Result<(), (Pfn, FreeError)> {
        if order == Order::ZERO {
            if let Some(pcp) = self.pcp(pin) {
                if let Ok(result) = pcp.with(|pcp| self.put_to_pcp(&pcp, pfn)) {
                    return result;
                }
            }
        }
        self.put_locked(pfn, order)
    }

    /// Gives all of this CPU's stock back; how many pages. Linux: `drain_pages_zone`.
    ///
    /// # Errors
    /// As for [`Zone::put`]; every page left the stock all the same.
    pub(crate) fn drain(&self, pin: CpuPin<'_>) -> Result<usize, (Pfn, FreeError)> {
        match self.pcp(pin) {
            Some(pcp) => self.drain_one(pcp),
            None => Ok(0),
        }
    }

    /// As [`Zone::drain`], of any CPU, which must stand still (INV-3).
    pub(crate) fn drain_one(&self, pcp: &Pcp) -> Result<usize, (Pfn, FreeError)> {
        // A stock that is in use further out stays: its user goes on with it.
        pcp.with(|pcp| self.drain_from(&pcp, usize::MAX))
            .unwrap_or(Ok(0))
    }

    /// Takes single pages for a request as far as [`Zone::may_take`] lets it: first this CPU's stock, then from the free
    /// lists under one lock. How many were given to `sink`. Linux: `__alloc_pages_bulk`, `rmqueue_bulk`.
    pub(crate) fn take_bulk(
        &self,
        pin: CpuPin<'_>,
        most: usize,
        effort: Effort,
        highest: ZoneType,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let spare = match self.floor(effort, highest) {
            Some(floor) => self.nr_free_pages().saturating_sub(floor),
            None => usize::MAX,
        };
        if spare == 0 {
            return 0;
        }
        let mut count = 0;
        if let Some(pcp) = self.pcp(pin) {
            // A stock that is in use further out is left alone.
            let _ = pcp.with(|pcp| {
                while count < most {
                    let Some(pfn) = pcp.pop() else { break };
                    pcp.note_alloc();
                    sink(pfn);
                    count += 1;
                }
            });
        }
        let wanted = (most - count).min(spare);
        if wanted > 0 {
            count += self.with_buddy(|buddy| {
                let taken = buddy.take_pages(wanted, sink);
                bump(&self.nr_allocs, taken);
                bump(&self.nr_pages_alloced, taken);
                taken
            });
        }
        count
    }

    /// Whether this CPU's stock takes one more page without giving a batch back. An interrupt may change that.
    pub(crate) fn has_room_in_stock(&self, pin: CpuPin<'_>) -> bool {
        self.pcp(pin).is_some_and(|pcp| self.has_room(pcp))
    }

    /// Puts a page into this CPU's stock if there is room; whether it did.
    pub(crate) fn stock(&self, pin: CpuPin<'_>, pfn: Pfn) -> bool {
        let Some(pcp) = self.pcp(pin) else {
            return false;
        };
        let put = |stock: PcpUse<'_>| {
            let has_room = self.has_room(pcp);
            if has_room {
                self.map.page(pfn).set_private(IN_PCP);
                stock.note_free();
                stock.push(pfn);
            }
            has_room
        };
        pcp.with(put).unwrap_or(false)
    }

    fn has_room(&self, pcp: &Pcp) -> bool {
        pcp.count() + 1 < self.pcp_high.load(Relaxed)
    }

    /// Puts the zone's blocks of `blocks` onto the free lists under one lock, up to the first that is refused: that one is
    /// dropped and returned. Linux: `free_pcppages_bulk`.
    pub(crate) fn put_bulk(
        &self,
        blocks: &mut [Option<PageBlock>],
    ) -> Option<(Pfn, Order, FreeError)> {
        let is_ours = |block: &mut PageBlock| self.range.contains(block.pfn());
        self.with_buddy(|buddy| {
            for block in blocks.iter_mut().filter_map(|slot| slot.take_if(is_ours)) {
                let (pfn, order) = block.into_raw();
                if let Err(why) = buddy.put(pfn, order) {
                    return Some((pfn, order, why));
                }
                bump(&self.nr_pages_freed, order.nr_pages());
            }
            None
        })
    }

    fn pcp(&self, pin: CpuPin<'_>) -> Option<&'static Pcp> {
        self.pcps.get(pin.cpu().index())
    }

    fn take_from_pcp(&self, pcp: &PcpUse<'_>) -> Option<Pfn> {
        let page = match pcp.pop() {
            Some(page) => page,
            None => self.refill(pcp)?,
        };
        pcp.note_alloc();
        Some(page)
    }

    fn put_to_pcp(&self, pcp: &PcpUse<'_>, pfn: Pfn) -> Result<(), (Pfn, FreeError)> {
        self.map.page(pfn).set_private(IN_PCP);
        pcp.note_free();
        let count = pcp.push(pfn);
        if count < self.pcp_high.load(Relaxed) {
            return Ok(());
        }
        self.drain_from(pcp, self.pcp_batch.load(Relaxed))
            .map(|_| ())
    }

    /// Stocks up by a batch and takes one of it. Pages come out as the buddy allocator chose them. Linux: `rmqueue_bulk`.
    #[cold]
    fn refill(&self, pcp: &PcpUse<'_>) -> Option<Pfn> {
        let batch = self.pcp_batch.load(Relaxed).min(Pcp::CAPACITY);
        self.with_buddy(|buddy| {
            buddy.take_pages(batch, |pfn| {
                self.map.page(pfn).set_private(IN_PCP);
                pcp.push_bottom(pfn);
            })
        });
        pcp.pop()
    }

    /// Linux: `free_pcppages_bulk`.
    fn drain_from(&self, pcp: &PcpUse<'_>, most: usize) -> Result<usize, (Pfn, FreeError)> {
        let mut count = 0;
        let mut refused = None;
        self.with_buddy(|buddy| {
            while count < most {
                let Some(pfn) = pcp.pop_bottom() else { break };
                self.map.page(pfn).set_private(0);
                if let Err(why) = buddy.put(pfn, Order::ZERO) {
                    refused = refused.or(Some((pfn, why)));
                }
                count += 1;
            }
        });
        refused.map_or(Ok(count), Err)
    }

    fn take_locked(&self, order: Order) -> Option<Pfn> {
        self.with_buddy(|buddy| {
            let pfn = buddy.take(order).ok()?;
            bump(&self.nr_allocs, 1);
            bump(&self.nr_pages_alloced, order.nr_pages());
            Some(pfn)
        })
    }

    fn put_locked(&self, pfn: Pfn, order: Order) -> Result<(), (Pfn, FreeError)> {
        self.with_buddy(|buddy| {
            buddy.put(pfn, order).map_err(|why| (pfn, why))?;
            bump(&self.nr_pages_freed, order.nr_pages());
            Ok(())
        })
    }
}

/// Adds to a counter that is written under the zone lock only, so without a locked instruction.
fn bump(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Relaxed) + by as u64, Relaxed);
}
