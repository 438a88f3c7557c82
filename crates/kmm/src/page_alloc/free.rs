//! Back again: what is freed is checked against what is known of it, then goes to the zones.
#![expect(
    unsafe_code,
    reason = "single pages of a block, and last references, become blocks"
)]

use core::fmt;
use core::ptr::NonNull;

use kmm_frame::{Folio, Order, Page, PageFlags, Pfn};
use kmm_host::{Host, Misuse, Owners, PageBlock, PageSource, PhysMap};
use kmm_zone::BadPage;

use super::{BadFree, ExactPages, PageAlloc};

/// The page is counted to an account.
pub(super) const CHARGED: PageFlags = PageFlags::ACCOUNTED;
/// What has to be undone before a page goes back.
const MARKS: PageFlags = CHARGED.union(PageFlags::HEAD);

/// Whether a page carries something that has to be undone.
fn is_marked(page: &Page) -> bool {
    page.flags().intersects(MARKS)
}

impl<H: Host> PageAlloc<H> {
    /// Gives a block back. Linux: `__free_pages`.
    ///
    /// One that is not free to go is reported and dropped: lost, but harmless.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn free_pages(&self, block: PageBlock) {
        if let Some(block) = self.check_free(block, 1) {
            self.zones.free(block);
        }
    }

    /// Gives one page back. Linux: `__free_page`.
    ///
    /// # Context
    /// As for [`PageAlloc::free_pages`].
    #[inline]
    pub fn free_page(&self, block: PageBlock) {
        debug_assert!(block.order() == Order::ZERO, "a block freed as a page");
        self.free_pages(block);
    }

    /// Gives every block back, leaving `None`. Linux: `free_pages_bulk_array` of old, `release_pages`.
    ///
    /// # Context
    /// As for [`PageAlloc::free_pages`].
    pub fn free_pages_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        for slot in blocks.iter_mut() {
            *slot = slot.take().and_then(|block| self.check_free(block, 1));
        }
        self.zones.free_bulk(blocks);
    }

    /// One more user of the page, or of the compound page that it is in. The caller holds it already. Linux: `get_page`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[inline]
    pub fn get_page(&self, pfn: Pfn) {
        self.zones.map().get_page(pfn);
    }

    /// Gives up a reference to a page, or to the compound page that it is in; the last one frees it. Linux: `put_page`,
    /// `folio_put`. In debug builds one of a page that nobody holds is reported, and nothing happens.
    ///
    /// # Context
    /// As for [`PageAlloc::free_pages`].
    ///
    /// # Safety
    /// 1. The caller holds a reference and gives it up: it does not use the frames any more.
    /// 2. Whoever owns the frames counts every use of them by a reference, so that the last one is the end of all. A block
    ///    that is no single page is a compound page.
    #[inline]
    pub unsafe fn put_page(&self, pfn: Pfn) {
        let map = self.zones.map();
        let is_held = |folio: Folio| folio.ref_count() > 0;
        if cfg!(debug_assertions) && !map.folio(pfn).is_some_and(is_held) {
            return self.report(pfn, Order::ZERO, Misuse::DoubleFree);
        }
        if let Some(folio) = map.put_page(pfn) {
            self.free_folio(folio);
        }
    }

    /// Nobody holds the folio any more.
    fn free_folio(&self, folio: Folio) {
        // SAFETY: the last reference is gone, so nobody but this call knows of the frames; heads are aligned.
        let block = unsafe { PageBlock::from_raw(folio.pfn(), folio.order()) };
        if let Some(block) = self.check_free(block, 0) {
            self.zones.free(block);
        }
    }

    /// Gives back what [`PageAlloc::get_free_pages`] returned. An address that the permanent map does not have is
    /// reported, and nothing happens. Linux: `free_pages`.
    ///
    /// # Context
    /// As for [`PageAlloc::free_pages`].
    ///
    /// # Safety
    /// If the address is one of this allocator's: it was returned by [`PageAlloc::get_free_pages`] for the same order, was
    /// not given back since, and is not used any more.
    pub unsafe fn free_pages_at(&self, address: NonNull<u8>, order: Order) {
        let pfn = self.host.phys().virt_to_pfn(address);
        let is_block = |pfn: &Pfn| pfn.is_aligned(order) && self.zones.map().get(*pfn).is_some();
        match pfn.filter(is_block) {
            // SAFETY: ours by the caller; aligned, as was just looked at.
            Some(pfn) => self.free_pages(unsafe { PageBlock::from_raw(pfn, order) }),
            None => self.report(pfn.unwrap_or_default(), order, Misuse::Foreign),
        }
    }

    /// Gives back what [`PageAlloc::get_free_page`] or [`PageAlloc::get_zeroed_page`] returned. Linux: `free_page`.
    ///
    /// # Context
    /// As for [`PageAlloc::free_pages`].
    ///
    /// # Safety
    /// As for [`PageAlloc::free_pages_at`], with order 0.
    pub unsafe fn free_page_at(&self, address: NonNull<u8>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.free_pages_at(address, Order::ZERO) };
    }

    /// Gives back what [`PageAlloc::alloc_pages_exact`] returned. Linux: `free_pages_exact`.
    ///
    /// # Context
    /// As for [`PageAlloc::free_pages`].
    pub fn free_pages_exact(&self, pages: ExactPages) {
        let frames = pages.frames();
        let parts = SplitPages {
            next: frames.start(),
            end: frames.end(),
        };
        parts.for_each(|part| self.free_pages(part));
    }

    /// Makes single pages of a block, each held once and to be freed by itself. Linux: `split_page`.
    ///
    /// # Errors
    /// The block, when it is a compound page, or others hold it: it cannot be split so.
    pub fn split_page(&self, block: PageBlock) -> Result<SplitPages, PageBlock> {
        let (pfn, order) = (block.pfn(), block.order());
        let map = self.zones.map();
        if map.split_page(pfn, order).is_err() {
            return Err(block);
        }
        if map.page(pfn).test(CHARGED) {
            let parts = block.range().iter().skip(1);
            parts.for_each(|pfn| map.page(pfn).set(CHARGED));
        }
        self.host.owners().split(pfn, order, Order::ZERO);
        let range = block.range();
        let _ = block.into_raw();
        Ok(SplitPages {
            next: range.start(),
            end: range.end(),
        })
    }

    /// What is known of a page that the zones found to be freed wrongly, with its owner. Linux: `dump_page`.
    pub fn explain(&self, bad: BadPage) -> impl fmt::Display + '_ {
        Explained {
            bad,
            owner: self.owner_of(bad.pfn),
        }
    }

    /// Who has a page or had it last, as far as the host keeps records. Linux: `dump_page_owner`.
    pub fn owner_of(&self, pfn: Pfn) -> impl fmt::Display + '_ {
        Owner {
            owners: self.host.owners(),
            pfn,
        }
    }

    /// The block, without what the zones do not know, if it is free to go. Its owner holds it once, or no more.
    #[inline]
    fn check_free(&self, block: PageBlock, held: i32) -> Option<PageBlock> {
        let is_marked = || self.zones.map().get(block.pfn()).is_some_and(is_marked);
        if H::Owners::ENABLED || cfg!(debug_assertions) || is_marked() {
            return self.unmark(block, held);
        }
        Some(block)
    }

    /// Undoes what [`PageAlloc::finish`] did: all of it, or nothing when the block is not free to go.
    #[inline(never)]
    fn unmark(&self, block: PageBlock, held: i32) -> Option<PageBlock> {
        let (pfn, order) = (block.pfn(), block.order());
        let map = self.zones.map();
        let checked = self
            .check_compound(pfn, order)
            .and_then(|()| self.check_held(&block, held))
            .and_then(|()| self.host.owners().gave(pfn, order));
        if let Err(misuse) = checked {
            self.report(pfn, order, misuse);
            return None;
        }
        if let Some(page) = map.get(pfn).filter(|page| is_marked(page)) {
            if page.test(PageFlags::HEAD) {
                map.destroy_compound_page(pfn, order).ok()?;
            }
            if page.test(CHARGED) {
                page.clear(CHARGED);
                self.hooks.accountant.uncharge(pfn, order);
            }
        }
        Some(block)
    }

    /// Who frees a block holds it, and nobody else any part of it. Parts, and whether it is held at all, are looked at in
    /// debug builds.
    fn check_held(&self, block: &PageBlock, held: i32) -> Result<(), Misuse> {
        let map = self.zones.map();
        let count = |pfn| map.get(pfn).map_or(0, Page::ref_count);
        let first = count(block.pfn());
        let mut tails = block.range().iter().skip(1);
        if first > 1 || cfg!(debug_assertions) && tails.any(|pfn| count(pfn) > 0) {
            return Err(Misuse::Held);
        }
        // Records tell more of it.
        let is_ours = map.get(block.pfn()).is_some();
        if cfg!(debug_assertions) && is_ours && !H::Owners::ENABLED && first < held {
            return Err(Misuse::DoubleFree);
        }
        Ok(())
    }

    /// A compound page is freed as a whole. That `pfn` is in the midst of one is found in debug builds.
    fn check_compound(&self, pfn: Pfn, order: Order) -> Result<(), Misuse> {
        let map = self.zones.map();
        let head = if cfg!(debug_assertions) && map.get(pfn).is_some() {
            map.compound_head(pfn)
        } else {
            pfn
        };
        match map.get(head).and_then(Page::compound_order) {
            Some(is) if (head, is) != (pfn, order) => Err(Misuse::WrongOrder { head, order: is }),
            _ => Ok(()),
        }
    }

    /// Gives a block back that nobody has seen yet.
    pub(super) fn give_to_zones(&self, block: PageBlock) {
        self.zones.free(block);
    }

    #[cold]
    fn report(&self, pfn: Pfn, order: Order, misuse: Misuse) {
        let owner = self.owner_of(pfn);
        (self.hooks.on_bad_free)(&BadFree {
            pfn,
            order,
            misuse,
            owner: &owner,
        });
    }
}

struct Owner<'a, O> {
    owners: &'a O,
    pfn: Pfn,
}

impl<O: Owners> fmt::Display for Owner<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.owners.describe(self.pfn, f)
    }
}

struct Explained<O> {
    bad: BadPage,
    owner: O,
}

impl<O: fmt::Display> fmt::Display for Explained<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.bad, self.owner)
    }
}

/// The single pages of a block that was split. Those that are not taken out of it are lost.
#[derive(Debug)]
#[must_use = "pages that are not taken out are lost"]
pub struct SplitPages {
    next: Pfn,
    end: Pfn,
}

impl Iterator for SplitPages {
    type Item = PageBlock;

    fn next(&mut self) -> Option<PageBlock> {
        let pfn = self.next;
        if pfn == self.end {
            return None;
        }
        self.next += 1;
        // SAFETY: the block owned its frames, and gave its claim up; each is claimed once.
        Some(unsafe { PageBlock::from_raw(pfn, Order::ZERO) })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for SplitPages {}
