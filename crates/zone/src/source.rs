//! The room where frame numbers become owned blocks.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: handing out a frame twice breaks memory safety"
)]

use kmm_frame::{Gfp, MigrateType, NodeId, NodeItem, Order, Page, PageFlags, Pfn, ZoneType};
use kmm_host::{AllocError, CpuPin, Cpus, PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use crate::bulk::{Slots, TAKEN_AT_ONCE};
use crate::pcp::{Put, Size, Way};
use crate::rmqueue::Outcome;
use crate::{AllowedNodes, Pressure, Zones};

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// Takes a block out, its first page held once and without flags; and says what that means for the rest.
    ///
    /// Linux: `__alloc_pages` without reclaim, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep, whatever `gfp` allows.
    ///
    /// # Errors
    /// [`AllocError::NoSuchNode`] if the node asked for does not exist; else as for [`Zones::rmqueue`].
    #[inline(always)]
    pub fn alloc_pages(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        let (mut block, pressure) = self.take::<{ Way::Counted as u8 }>(req)?;
        if req.gfp.contains(Gfp::ZERO) {
            self.phys().clear(&mut block);
        }
        Ok((block, pressure))
    }

    /// As [`Zones::alloc_pages`], on allowed nodes only. The node to begin with need not be one of them.
    ///
    /// Linux: `__alloc_pages` with a nodemask, and the checks of cpusets in `get_page_from_freelist`.
    ///
    /// # Context
    /// Does not sleep, whatever `gfp` allows.
    ///
    /// # Errors
    /// As for [`Zones::alloc_pages`]; [`AllocError::OutOfMemory`] also when no allowed node has memory.
    pub fn alloc_pages_allowed(
        &self,
        req: PageReq,
        allowed: AllowedNodes,
    ) -> Result<(PageBlock, Pressure), AllocError> {
        let node = req.node.unwrap_or_else(|| self.this_node());
        let (pfn, pressure) = self.take_from(req, node, allowed)?;
        // SAFETY: as in `take`.
        let mut block = unsafe { PageBlock::from_raw(pfn, req.order) };
        self.finish(&mut block, req.gfp);
        Ok((block, pressure))
    }

    /// Takes a block out whose owner wants no reference count: `PageBlock` alone says whose it is. Its descriptors are not
    /// touched, and are as the owner before has left them. It goes back by [`Zones::free_frozen_pages`]; who changes his
    /// mind calls [`Zones::set_page_refcounted`] first.
    ///
    /// Linux: `__alloc_frozen_pages` without reclaim, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep, whatever `gfp` allows.
    ///
    /// # Errors
    /// As for [`Zones::alloc_pages`].
    #[inline(always)]
    pub fn alloc_frozen_pages(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        let (mut block, pressure) = self.take::<{ Way::Frozen as u8 }>(req)?;
        if cfg!(debug_assertions) {
            self.map().page(block.pfn()).set_private(0);
        }
        if req.gfp.contains(Gfp::ZERO) {
            self.phys().clear(&mut block);
        }
        Ok((block, pressure))
    }

    /// Takes a block back that nobody holds a reference to: one of [`Zones::alloc_frozen_pages`].
    ///
    /// In debug builds, a block that is not free to go is reported and dropped. Others touch no descriptor; a frame that
    /// is free already is noticed when it gets to the free lists. Linux: `free_frozen_pages`.
    ///
    /// # Context
    /// Does not sleep. From any context, interrupts included.
    #[inline]
    pub fn free_frozen_pages(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        if cfg!(debug_assertions) {
            let checked = self.check_free(pfn, order, 0);
            if let Err(bad) = checked.and_then(|_| self.check_lists(pfn, order)) {
                return self.report(bad);
            }
        }
        self.give(pfn, order);
    }

    /// A block, counted or not.
    #[inline(always)]
    fn take<const WAY: u8>(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        // Closures are inlined where they are small: this one is for pages only.
        let (highest, kind) = (req.gfp.zone(), req.gfp.migrate_type());
        let fast = move |pin: CpuPin<'_>| self.take_stocked::<WAY>(pin, Size::PAGE, highest, kind);
        let page = match req.node {
            None if req.order == Order::ZERO => self.cpus().with_pin(fast),
            _ => None,
        };
        let (pfn, pressure) = match page {
            Some(pfn) => (pfn, Pressure::None),
            None => self.take_slow::<WAY>(req)?,
        };
        // SAFETY: INV-1: frames that leave a zone are RAM, aligned, and nobody else's until they are put back.
        let block = unsafe { PageBlock::from_raw(pfn, req.order) };
        Ok((block, pressure))
    }

    /// From this CPU's stock of the first zone.
    #[inline(always)]
    fn take_stocked<const WAY: u8>(
        &self,
        pin: CpuPin<'_>,
        size: Size,
        highest: ZoneType,
        kind: MigrateType,
    ) -> Option<Pfn> {
        if WAY == Way::Frozen as u8 {
            return self.first_pcp(pin, highest, Way::Frozen).take(size, kind);
        }
        let pcp = self.first_pcp(pin, highest, Way::Counted);
        let pfn = pcp.take(size, kind)?;
        // SAFETY: the way of the pageset, which had the frame in stock.
        prepare(unsafe { pcp.page(pfn) });
        Some(pfn)
    }

    #[inline(always)]
    fn take_slow<const WAY: u8>(&self, req: PageReq) -> Result<(Pfn, Pressure), AllocError> {
        let found = match req.node {
            None if req.order == Order::ZERO => {
                let (pfn, outcome) = self.take_unstocked::<WAY>(Order::ZERO, req.gfp);
                return outcome.with(pfn);
            }
            None => {
                let (pfn, outcome) = self.take_block::<WAY>(req.order, req.gfp);
                return outcome.with(pfn);
            }
            Some(node) => self.take_from(req, node, AllowedNodes::ALL),
        };
        if WAY == Way::Counted as u8 {
            if let Ok((pfn, _)) = found {
                prepare(self.map_ref().page(pfn));
            }
        }
        found
    }

    /// A block that is larger than a page.
    #[inline(never)]
    fn take_block<const WAY: u8>(&self, order: Order, gfp: Gfp) -> (Pfn, Outcome) {
        let (highest, kind) = (gfp.zone(), gfp.migrate_type());
        let size = Size::of(order);
        let fast = |pin: CpuPin<'_>| self.take_stocked::<WAY>(pin, size, highest, kind);
        match self.cpus().with_pin(fast) {
            Some(pfn) => (pfn, Outcome::Calm),
            None => self.take_unstocked::<WAY>(order, gfp),
        }
    }

    /// When there is nothing in stock.
    #[cold]
    #[inline(never)]
    fn take_unstocked<const WAY: u8>(&self, order: Order, gfp: Gfp) -> (Pfn, Outcome) {
        let found = self
            .cpus()
            .with_pin(|pin| self.rmqueue_here(pin, order, gfp));
        let found = Outcome::of(found);
        if WAY == Way::Counted as u8 && !matches!(found.1, Outcome::Failed) {
            prepare(self.map_ref().page(found.0));
        }
        found
    }

    /// A request that is not for the node of this CPU, whichever that is.
    #[inline(never)]
    fn take_from(
        &self,
        req: PageReq,
        node: NodeId,
        allowed: AllowedNodes,
    ) -> Result<(Pfn, Pressure), AllocError> {
        self.cpus().with_pin(|pin| {
            let local = self.topology().node_of_cpu(pin.cpu().index());
            if node == local && allowed == AllowedNodes::ALL {
                self.rmqueue(pin, req.order, req.gfp)
            } else {
                self.rmqueue_from(pin, req.order, req.gfp, node, allowed)
            }
        })
    }

    /// The node of this CPU. Linux: `numa_node_id`.
    #[must_use]
    pub fn this_node(&self) -> NodeId {
        let cpu = self.cpus().with_pin(|pin| pin.cpu());
        self.topology().node_of_cpu(cpu.index())
    }

    /// Fills `out` from the front with single pages as far as they reach; how many, and what that means for the rest. Each
    /// page is as if by [`Zones::alloc_pages`], but many share a lock.
    ///
    /// Linux: `alloc_pages_bulk`.
    ///
    /// # Context
    /// Does not sleep, whatever `gfp` allows.
    pub fn alloc_pages_bulk(
        &self,
        gfp: Gfp,
        node: Option<NodeId>,
        out: &mut [Option<PageBlock>],
    ) -> (usize, Pressure) {
        let mut sum = (0, Pressure::None);
        let node = node.unwrap_or_else(|| self.this_node());
        if node.index() >= self.nodes().len() {
            return sum;
        }
        for chunk in out.chunks_mut(TAKEN_AT_ONCE) {
            let most = chunk.len();
            let mut slots = Slots::new(self.map_ref(), chunk);
            let (count, pressure) = self
                .cpus()
                .with_pin(|pin| self.rmqueue_bulk(pin, most, gfp, node, &mut slots));
            if gfp.contains(Gfp::ZERO) {
                for block in chunk[..count].iter_mut().flatten() {
                    self.phys().clear(block);
                }
            }
            sum.0 += count;
            if pressure == Pressure::WakeKswapd {
                sum.1 = pressure;
            }
            if count < most {
                break;
            }
        }
        sum
    }

    /// Makes a page of a block that has left its zone. Linux: `prep_new_page`.
    #[inline]
    fn finish(&self, block: &mut PageBlock, gfp: Gfp) {
        self.set_page_refcounted(block);
        if gfp.contains(Gfp::ZERO) {
            self.phys().clear(block);
        }
    }

    /// Counts a block of [`Zones::alloc_frozen_pages`]: one reference to its first page, no flags. From then on it goes back
    /// by [`PageSource::free`] or [`Zones::put_page`]. Linux: `set_page_refcounted`.
    #[inline]
    pub fn set_page_refcounted(&self, block: &PageBlock) {
        prepare(self.map_ref().page(block.pfn()));
    }

    /// Gives up a reference to a page; the last one frees it. Linux: `put_page`.
    ///
    /// For single pages: the zones do not know the order of a larger block.
    ///
    /// # Safety
    /// 1. The caller holds a reference to the page and gives it up: it does not use the frame any more.
    /// 2. Whoever owns the frame counts every use of it by a reference, so that the last one is the end of all.
    #[inline(always)]
    pub unsafe fn put_page(&self, pfn: Pfn) {
        // Closures are inlined where they are small: this one is for pages only.
        let put = move |pin: CpuPin<'_>| {
            let pcp = self.first_pcp(pin, ZoneType::Movable, Way::Counted);
            // SAFETY: the way of the pageset; by the caller, who puts a page that he holds, and nobody but who holds it uses it.
            unsafe { pcp.put_page(pfn) }
        };
        let put = if cfg!(debug_assertions) {
            Put::Elsewhere
        } else {
            self.cpus().with_pin(put)
        };
        match put {
            Put::Done => {}
            Put::NoRoom => self.give_slow(pfn, Order::ZERO),
            Put::Bad => self.put_back_slow(pfn, Order::ZERO, 0),
            Put::Elsewhere => self.put_page_elsewhere(pfn),
        }
    }

    /// As [`Zones::put_page`], of a page that this CPU does not keep.
    #[cold]
    #[inline(never)]
    fn put_page_elsewhere(&self, pfn: Pfn) {
        if self.map_ref().page(pfn).put_and_test() {
            self.put_back_slow(pfn, Order::ZERO, 0);
        }
    }
}

/// Makes a page of a frame that is handed out: one holder, no flags, nothing of who had it before. Linux: `prep_new_page`.
#[inline(always)]
pub(crate) fn prepare(page: &Page) {
    page.reset_flags(PageFlags::empty());
    page.set_private(0);
    page.set_mapping(0);
    page.set_ref_count(1);
}

// SAFETY: INV-1 and INV-2: a frame is in exactly one of: free list, pageset, owner's hands; it goes to an owner only
// from the first two, and comes back only through `free` or the last `put_page`. The buddy allocator aligns blocks;
// `add_present` and `free_at_boot` let in RAM only; `alloc_pages` fills `ZERO` blocks.
unsafe impl<L: RawMutex, C: Cpus, P: PhysMap> PageSource for Zones<L, C, P> {
    #[inline]
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        self.alloc_pages(req).map(|(block, _)| block)
    }

    /// A block that is not free to go is reported and dropped.
    #[inline]
    fn free(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        // SAFETY: who has a block has it alone, and gives it up.
        unsafe { self.put_back(pfn, order, 1) };
    }

    fn alloc_bulk(&self, gfp: Gfp, node: Option<NodeId>, out: &mut [Option<PageBlock>]) -> usize {
        self.alloc_pages_bulk(gfp, node, out).0
    }

    #[inline]
    fn count(&self, pfn: Pfn, item: NodeItem, delta: isize) {
        self.mod_node_count(pfn, item, delta);
    }

    /// Blocks that are not free to go are reported and dropped.
    fn free_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        self.put_back_bulk(blocks);
    }
}
