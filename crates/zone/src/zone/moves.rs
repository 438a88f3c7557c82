//! How frames move between the free lists of a zone, the stocks of its CPUs and their owners. Linux: `rmqueue`,
//! `free_unref_page`, mm/page_alloc.c.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kmm_buddy::{Buddy, FreeError};
use kmm_frame::{MigrateType, Order, Pfn};
use kmm_host::{CpuPin, PageBlock};
use lock_api::RawMutex;

use super::{FREED, Zone};
use crate::Pcp;
use crate::bulk::{CHUNK, Slots};
use crate::effort::Effort;
use crate::pcp::{PcpUse, Size};
use crate::zonelist::Search;

/// So many runs of a batch wait for the lock to be free.
const NR_RUNS: usize = 16;

/// A frame that the buddy allocator refused, and why.
pub(crate) type Refused = (Pfn, FreeError);

impl<L: RawMutex> Zone<L> {
    /// Takes a block for a request as far as [`Zone::may_take`] lets it: one of a size that is kept from this CPU's stock,
    /// which is filled if need be. Linux: `rmqueue`.
    #[inline]
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
        self.take_stocked(pin, Size::of(order), effort, search)
    }

    /// From this CPU's stock, or past it where that is in use further out.
    #[inline(never)]
    fn take_stocked(
        &self,
        pin: CpuPin<'_>,
        size: Size,
        effort: Effort,
        search: &Search,
    ) -> Option<Pfn> {
        if let Some(pcp) = self.stock_of(pin) {
            if size.is_large() && size != Size::HUGE {
                // Only what comes back is kept: it goes out again soon, or stays.
                if let Some(block) = pcp.take(size, search.kind) {
                    return Some(block);
                }
            } else if let Ok(block) = pcp.with(|pcp| self.take_from_pcp(&pcp, size, effort, search))
            {
                return block;
            }
        }
        self.take_locked(size.order(), effort, search)
    }

    /// As [`Zone::take`], but past the stock and as deep as `effort` says: what is kept back for some requests must not
    /// get into the stock, which is for all.
    pub(crate) fn take_deep(&self, order: Order, effort: Effort, search: &Search) -> Option<Pfn> {
        if !self.may_take(order, effort, search.highest) {
            return None;
        }
        self.take_locked(order, effort, search)
    }

    /// Puts back a block whose owner gave it up into this CPU's pageset, or past it. Linux: `free_unref_page`.
    ///
    /// # Errors
    /// A frame that the buddy allocator refused, and why. It may be another frame than `pfn`, and is dropped.
    #[inline(never)]
    pub(crate) fn put_stocked(&self, pin: CpuPin<'_>, pfn: Pfn, size: Size) -> Result<(), Refused> {
        let order = size.order();
        if let Some(pcp) = self.stock_of(pin) {
            if pcp.holds(pfn) && pcp.keeps(size) {
                self.mark(pfn);
                if let Ok(result) = pcp.with(|pcp| self.put_to_pcp(&pcp, size, pfn)) {
                    return result;
                }
            }
        }
        self.put_locked(pfn, order)
    }

    /// Gives all that this CPU's pageset has back; how many pages. Linux: `drain_pages_zone`.
    ///
    /// # Errors
    /// As for [`Zone::put_stocked`]; every block left the pageset all the same.
    pub(crate) fn drain(&self, pin: CpuPin<'_>) -> Result<usize, Refused> {
        match self.pcp(pin) {
            Some(pcp) => self.drain_one(pcp),
            None => Ok(0),
        }
    }

    /// As [`Zone::drain`], of any CPU, which must stand still (INV-3).
    pub(crate) fn drain_one(&self, pcp: &Pcp) -> Result<usize, Refused> {
        // A pageset that is in use further out stays: its user goes on with it.
        pcp.with(|pcp| self.drain_held(&pcp)).unwrap_or(Ok(0))
    }

    fn drain_held(&self, pcp: &PcpUse<'_>) -> Result<usize, Refused> {
        let ticket = pcp.drain_request().pending();
        let result = self.with_buddy(|buddy| {
            let (mut count, mut refused) = self.put_home(pcp, buddy);
            for (size, kind) in PcpUse::stacks() {
                let (more, bad) = self.put_unused(pcp, buddy, (size, kind, size.capacity()));
                count += more;
                refused = refused.or(bad);
            }
            self.note_large(pcp);
            refused.map_or(Ok(count), Err)
        });
        if let Some(ticket) = ticket {
            pcp.drain_request().serve(ticket);
        }
        result
    }

    /// Takes single pages for a request as far as [`Zone::may_take`] lets it: first this CPU's stock, then from the free
    /// lists under one lock. How many were given to `out`. Linux: `__alloc_pages_bulk`, `rmqueue_bulk`.
    pub(crate) fn take_bulk(
        &self,
        pin: CpuPin<'_>,
        most: usize,
        search: &Search,
        out: &mut Slots<'_>,
    ) -> usize {
        let effort = Effort::fast(search.gfp);
        let spare = self.spare(effort, search.highest);
        if spare == 0 {
            return 0;
        }
        let mut count = 0;
        if let Some(pcp) = self.pcp(pin) {
            // A pageset that is in use further out is left alone.
            let popped = pcp.with(|pcp| pcp.pop_pages(search.kind, most, out));
            count = popped.unwrap_or(0);
        }
        let wanted = (most - count).min(spare);
        if wanted > 0 {
            // Pages are made of frames when the lock is free again, but for runs beyond the first so many.
            let mut runs = [(Pfn::ZERO, 0); NR_RUNS];
            let mut nr_runs = 0;
            count += self.with_buddy(|buddy| {
                let taken = buddy.take_runs(wanted, effort.request(search.kind), |first, len| {
                    match runs.get_mut(nr_runs) {
                        Some(run) => *run = (first, len),
                        None => out.take_run(first, len),
                    }
                    nr_runs += 1;
                });
                self.count_locked(search, taken, taken);
                taken
            });
            for (first, len) in runs.into_iter().take(nr_runs) {
                out.take_run(first, len);
            }
        }
        count
    }

    /// Whether this CPU's stock would take a block. An interrupt may change that.
    pub(crate) fn belongs_in_stock(&self, pin: CpuPin<'_>, pfn: Pfn, order: Order) -> bool {
        let (Some(pcp), size) = (self.stock_of(pin), Size::of(order)) else {
            return false;
        };
        let belongs = |pcp: PcpUse<'_>| {
            self.review(&pcp);
            pcp.has_room_for(size, pfn)
        };
        pcp.with(belongs).unwrap_or(false)
    }

    /// Puts a block into this CPU's stock if it belongs there and there is room; whether it did.
    pub(crate) fn keep(&self, pin: CpuPin<'_>, pfn: Pfn, order: Order) -> bool {
        let (Some(pcp), size) = (self.stock_of(pin), Size::of(order)) else {
            return false;
        };
        self.mark(pfn);
        let kept = pcp.with(|pcp| pcp.push(size, pfn)).unwrap_or(false);
        if !kept {
            self.unmark(pfn);
        }
        kept
    }

    /// Puts single pages of the zone onto the free lists under one lock, a word at a time. What is refused is dropped, and said
    /// to `report` when the lock is free again. Linux: `free_pcppages_bulk`.
    pub(crate) fn put_pages(&self, pages: &mut [Pfn], mut report: impl FnMut(Refused)) {
        let pages = Cell::from_mut(pages).as_slice_of_cells();
        // What is refused was read already, and makes room for the note.
        let mut refused = pages.iter();
        let mut why_refused = FreeError::AlreadyFree;
        self.with_buddy(|buddy| {
            let before = nr_pages_in(buddy);
            buddy.put_pages(pages.iter().map(Cell::get), |pfn, why| {
                if let Some(note) = refused.next() {
                    note.set(pfn);
                    why_refused = why;
                }
            });
            bump(&self.nr_pages_freed, nr_pages_in(buddy) - before);
        });
        let nr_refused = pages.len() - refused.len();
        for pfn in pages.iter().take(nr_refused).map(Cell::get) {
            report((pfn, why_refused));
        }
    }

    /// Puts the zone's blocks of `blocks`, at most [`CHUNK`], onto the free lists under one lock, pages a word at a time. What
    /// is refused is dropped, and said to `report` when the lock is free again. Linux: `free_pcppages_bulk`.
    pub(crate) fn put_bulk(
        &self,
        blocks: &mut [Option<PageBlock>],
        mut report: impl FnMut(Refused, Order),
    ) {
        let mut refused = [(Pfn::ZERO, FreeError::AlreadyFree, Order::ZERO); CHUNK];
        let mut nr_refused = 0;
        let mut note = |pfn, why, order| {
            if let Some(slot) = refused.get_mut(nr_refused) {
                *slot = (pfn, why, order);
                nr_refused += 1;
            }
        };
        self.with_buddy(|buddy| {
            let before = nr_pages_in(buddy);
            let is_ours = |block: &PageBlock| self.owns(block.pfn());
            let is_our_page =
                |block: &mut PageBlock| block.order() == Order::ZERO && is_ours(block);
            let slots = blocks.iter_mut();
            let pages = slots.filter_map(|slot| slot.take_if(is_our_page));
            let pages = pages.map(|page| page.into_raw().0);
            let pages = pages.inspect(|&pfn| self.unmark(pfn));
            buddy.put_pages(pages, |pfn, why| note(pfn, why, Order::ZERO));
            for block in blocks
                .iter_mut()
                .filter_map(|slot| slot.take_if(|block| is_ours(block)))
            {
                let (pfn, order) = block.into_raw();
                self.unmark(pfn);
                if let Err(why) = buddy.put(pfn, order) {
                    note(pfn, why, order);
                }
            }
            bump(&self.nr_pages_freed, nr_pages_in(buddy) - before);
        });
        for (pfn, why, order) in refused.into_iter().take(nr_refused) {
            report((pfn, why), order);
        }
    }

    fn pcp(&self, pin: CpuPin<'_>) -> Option<&'static Pcp> {
        self.pcps.get(pin.cpu().index())
    }

    /// The pageset of this CPU, if it keeps anything.
    fn stock_of(&self, pin: CpuPin<'_>) -> Option<&'static Pcp> {
        self.pcp(pin).filter(|pcp| pcp.is_attached())
    }

    fn take_from_pcp(
        &self,
        pcp: &PcpUse<'_>,
        size: Size,
        effort: Effort,
        search: &Search,
    ) -> Option<Pfn> {
        if let Some(block) = pcp.pop(size, search.kind) {
            return Some(block);
        }
        self.review(pcp);
        let block = if size == Size::HUGE {
            self.refill_huge(pcp, effort, search)
        } else {
            self.refill(pcp, size, effort, search);
            pcp.pop(size, search.kind)
        };
        self.serve_drain(pcp);
        block
    }

    /// Takes a pageblock, and fills the stock with more of them where there are many.
    fn refill_huge(&self, pcp: &PcpUse<'_>, effort: Effort, search: &Search) -> Option<Pfn> {
        let size = Size::HUGE;
        let spare = self.spare(effort, search.highest) >> size.order().get();
        let most = pcp.most_to_fill(size, 1).min(spare.max(1));
        let mut filler = pcp.filler(size, search.kind, most);
        self.with_buddy(|buddy| {
            buddy.take_pageblocks(most, effort.request(search.kind), |pfn| {
                self.mark(pfn);
                filler.push(pfn);
            });
            filler.finish();
            let block = pcp.pop(size, search.kind);
            self.note_large(pcp);
            block
        })
    }

    /// Fills an empty stack from the free lists. Linux: `rmqueue_bulk`.
    fn refill(&self, pcp: &PcpUse<'_>, size: Size, effort: Effort, search: &Search) {
        // Not below the low mark: what comes into the stock is not asked any more whether it may go.
        let spare = self.spare(effort, search.highest) >> size.order().get();
        let most = pcp.most_to_fill(size, self.pcp_batch.load(Relaxed));
        let mut filler = pcp.filler(size, search.kind, most.min(spare.max(1)));
        let most = filler.left();
        let mut fill = |buddy: &mut Buddy, request| match size {
            Size::PAGE => buddy.take_runs(most, request, |first, len| {
                (0..len).for_each(|i| self.mark(first + i));
                filler.push_run(first, len);
            }),
            _ => buddy.take_blocks(size.order(), most, request, |pfn| {
                self.mark(pfn);
                filler.push(pfn);
            }),
        };
        let request = effort.request(search.kind).up_to(self.window_end());
        let must_break = self.with_buddy(|buddy| {
            self.note_large(pcp);
            if pcp.has_homebound() {
                // They lie lower than what there is else. One that is refused was freed twice; whoever frees it next is told.
                let _ = self.put_home(pcp, buddy);
            }
            fill(buddy, request.sparing()) == 0 && buddy.has_free(size.order(), request)
        });
        if must_break {
            // One of the last whole pageblocks has to go, unless what is in stock of other sizes and types will do.
            let _ = self.drain_held(pcp);
            self.with_buddy(|buddy| fill(buddy, request));
        }
        filler.finish();
    }

    fn put_to_pcp(&self, pcp: &PcpUse<'_>, size: Size, pfn: Pfn) -> Result<(), Refused> {
        self.review(pcp);
        let result = if !pcp.holds(pfn) {
            // Since this review the stock counts from above it: memory went, and came back in another order.
            self.put_locked(pfn, size.order())
        } else if pcp.push(size, pfn) {
            Ok(())
        } else {
            // A full stock gives a batch of what it has most of, and then takes the block; what goes home does so as a whole.
            let kind = pcp.kind_of(size, pfn);
            if size.is_large() && kind.is_none() {
                self.serve_drain(pcp);
                return self.put_locked(pfn, size.order());
            }
            let fullest = kind.and_then(|kind| pcp.fullest(size, kind));
            let (is_kept, refused) = self.with_buddy(|buddy| {
                let (_, refused) = match fullest {
                    Some(most) => self.put_unused(pcp, buddy, most),
                    None => self.put_home(pcp, buddy),
                };
                let is_kept = pcp.push(size, pfn);
                self.note_large(pcp);
                (is_kept, refused)
            });
            let result = match is_kept {
                true => Ok(()),
                false => self.put_locked(pfn, size.order()),
            };
            refused.map_or(result, Err)
        };
        self.serve_drain(pcp);
        result
    }

    /// Empties the pageset if another CPU has asked for that.
    fn serve_drain(&self, pcp: &PcpUse<'_>) {
        if pcp.drain_request().pending().is_some() {
            // A frame that is refused was freed twice; whoever frees it next is told.
            let _ = self.drain_held(pcp);
        }
    }

    /// Takes note of what others have changed.
    fn review(&self, pcp: &PcpUse<'_>) {
        if pcp.must_empty() {
            let _ = self.drain_held(pcp);
        }
        pcp.review();
    }

    /// Takes note of how many pages of large blocks are in a stock: they count as free. The zone lock is held.
    fn note_large(&self, pcp: &PcpUse<'_>) {
        let more = pcp.more_large_pages();
        if more != 0 {
            let large = self.nr_large_in_stock.load(Relaxed).wrapping_add(more);
            self.nr_large_in_stock.store(large, Relaxed);
        }
    }

    /// Puts the blocks that wait to go home onto the free lists; how many pages, and one that was refused.
    /// Linux: `free_pcppages_bulk`.
    fn put_home(&self, pcp: &PcpUse<'_>, buddy: &mut Buddy) -> (usize, Option<Refused>) {
        let stacks = PcpUse::stacks().filter(|(size, _)| !size.is_large());
        let put = |sum: (usize, Option<Refused>), (size, kind)| {
            let (count, refused) = self.put_all(buddy, size, pcp.going_home(size, kind));
            (sum.0 + count, sum.1.or(refused))
        };
        stacks.fold((0, None), put)
    }

    /// Puts some blocks of a stack onto the free lists; how many pages, and one that was refused.
    fn put_unused(
        &self,
        pcp: &PcpUse<'_>,
        buddy: &mut Buddy,
        (size, kind, most): (Size, MigrateType, usize),
    ) -> (usize, Option<Refused>) {
        self.put_all(buddy, size, pcp.unused(size, kind, most))
    }

    /// Puts blocks of a stack onto the free lists; how many pages, and one that was refused.
    fn put_all(
        &self,
        buddy: &mut Buddy,
        size: Size,
        blocks: impl ExactSizeIterator<Item = Pfn>,
    ) -> (usize, Option<Refused>) {
        let (count, mut refused) = (blocks.len() << size.order().get(), None);
        if count > 0 {
            let blocks = blocks.inspect(|&pfn| self.unmark(pfn));
            let note = |pfn, why| refused = Some((pfn, why));
            match size {
                Size::PAGE => buddy.put_pages(blocks, note),
                _ => buddy.put_blocks(size.order(), blocks, note),
            }
        }
        (count, refused)
    }

    #[inline(never)]
    fn take_locked(&self, order: Order, effort: Effort, search: &Search) -> Option<Pfn> {
        self.with_buddy_here(|buddy| {
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

    /// Puts a block back onto the free lists.
    ///
    /// # Errors
    /// As for [`Zone::put_stocked`].
    #[inline(never)]
    pub(crate) fn put_locked(&self, pfn: Pfn, order: Order) -> Result<(), Refused> {
        self.unmark(pfn);
        self.with_buddy_here(|buddy| {
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

/// All free frames, those that are isolated included.
fn nr_pages_in(buddy: &Buddy) -> usize {
    buddy.nr_free_pages() + buddy.nr_free_pages_of(MigrateType::Isolate)
}

/// Adds to a counter that is written under the zone lock only, so without a locked instruction.
fn bump(counter: &AtomicU64, by: usize) {
    counter.store(counter.load(Relaxed) + by as u64, Relaxed);
}
