//! The room where frame numbers become owned blocks.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: handing out a frame twice breaks memory safety"
)]

use kmm_frame::{Gfp, Order, PageFlags, Pfn};
use kmm_host::{AllocError, Cpus, PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use crate::{Pressure, Zones};

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Takes a block out, its first page held once and without flags; and says what that means for the rest.
    ///
    /// Linux: `__alloc_pages` without reclaim, and `prep_new_page`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep, whatever `gfp` allows.
    ///
    /// # Errors
    /// [`AllocError::NoSuchNode`] if another node was asked for; else as for [`Zones::rmqueue`].
    pub fn alloc_pages(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        if req.node.is_some_and(|node| node != self.node()) {
            return Err(AllocError::NoSuchNode);
        }
        let (pfn, pressure) = self
            .cpus()
            .with_pin(|pin| self.rmqueue(pin, req.order, req.gfp))?;
        let page = self.map().page(pfn);
        page.reset_flags(PageFlags::empty());
        page.set_private(0);
        page.set_mapping(0);
        page.set_ref_count(1);
        // SAFETY: INV-1: frames that leave a zone are RAM, aligned, and nobody else's until they are put back.
        let mut block = unsafe { PageBlock::from_raw(pfn, req.order) };
        if req.gfp.contains(Gfp::ZERO) {
            self.phys().clear(&mut block);
        }
        Ok((block, pressure))
    }

    /// Gives up a reference to a page; the last one frees it. Linux: `put_page`.
    ///
    /// For single pages: the zones do not know the order of a larger block.
    ///
    /// # Safety
    /// 1. The caller holds a reference to the page and gives it up: it does not use the frame any more.
    /// 2. Whoever owns the frame counts every use of it by a reference, so that the last one is the end of all.
    pub unsafe fn put_page(&self, pfn: Pfn) {
        if self.map().page(pfn).put_and_test() {
            self.put_back(pfn, Order::ZERO);
        }
    }

    /// Gives the stock of every CPU back to the zones; how many pages. Linux: `drain_all_pages`.
    ///
    /// # Safety
    /// No other CPU allocates or frees pages of these zones meanwhile.
    pub unsafe fn drain_all(&self) -> usize {
        let mut sum = 0;
        for zone in self.all() {
            for pcp in zone.pcps() {
                match zone.drain_one(pcp) {
                    Ok(count) => sum += count,
                    Err(refused) => self.report_refused(refused, Order::ZERO),
                }
            }
        }
        sum
    }
}

// SAFETY: INV-1 and INV-2: a frame is in exactly one of: free list, pageset, owner's hands; it goes to an owner only
// from the first two, and comes back only through `free` or the last `put_page`. The buddy allocator aligns blocks;
// `add_present` and `free_at_boot` let in RAM only; `alloc_pages` fills `ZERO` blocks.
unsafe impl<L: RawMutex, C: Cpus, P: PhysMap> PageSource for Zones<L, C, P> {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        self.alloc_pages(req).map(|(block, _)| block)
    }

    /// A block that is not free to go is reported and dropped.
    fn free(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        self.put_back(pfn, order);
    }
}
