//! The room where frame numbers become owned blocks.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: handing out a frame twice breaks memory safety"
)]

use kmm_frame::{Gfp, NodeId, NodeItem, Order, PageFlags, Pfn};
use kmm_host::{AllocError, CpuPin, Cpus, PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use crate::bulk::CHUNK;
use crate::pcp::Size;
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
    #[inline]
    pub fn alloc_pages(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        let (mut block, pressure) = self.take(req)?;
        self.prepare(&mut block, req.gfp);
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
        self.prepare(&mut block, req.gfp);
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
    #[inline]
    pub fn alloc_frozen_pages(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        let (mut block, pressure) = self.take(req)?;
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

    #[inline(always)]
    fn take(&self, req: PageReq) -> Result<(PageBlock, Pressure), AllocError> {
        // Closures are inlined where they are small: this one is for pages only.
        let (highest, kind) = (req.gfp.zone(), req.gfp.migrate_type());
        let fast = move |pin: CpuPin<'_>| self.first_pcp(pin, highest).take(Size::PAGE, kind);
        let page = match req.node {
            None if req.order == Order::ZERO => self.cpus().with_pin(fast),
            _ => None,
        };
        let (pfn, pressure) = match page {
            Some(pfn) => (pfn, Pressure::None),
            None => self.take_slow(req)?,
        };
        // SAFETY: INV-1: frames that leave a zone are RAM, aligned, and nobody else's until they are put back.
        let block = unsafe { PageBlock::from_raw(pfn, req.order) };
        Ok((block, pressure))
    }

    #[inline(always)]
    fn take_slow(&self, req: PageReq) -> Result<(Pfn, Pressure), AllocError> {
        match req.node {
            None => {
                let (pfn, outcome) = self.take_local(req.order, req.gfp);
                outcome.with(pfn)
            }
            Some(node) => self.take_from(req, node, AllowedNodes::ALL),
        }
    }

    /// What is not a page of this CPU's stock.
    #[cold]
    #[inline(never)]
    fn take_local(&self, order: Order, gfp: Gfp) -> (Pfn, Outcome) {
        Outcome::of(self.cpus().with_pin(|pin| self.rmqueue(pin, order, gfp)))
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
        for chunk in out.chunks_mut(CHUNK) {
            let most = chunk.len();
            let mut slots = chunk.iter_mut();
            let sink = |pfn| {
                if let Some(slot) = slots.next() {
                    // SAFETY: as in `alloc_pages`.
                    *slot = Some(unsafe { PageBlock::from_raw(pfn, Order::ZERO) });
                }
            };
            let (count, pressure) = self
                .cpus()
                .with_pin(|pin| self.rmqueue_bulk(pin, most, gfp, node, sink));
            for block in chunk[..count].iter_mut().flatten() {
                self.prepare(block, gfp);
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
    fn prepare(&self, block: &mut PageBlock, gfp: Gfp) {
        self.set_page_refcounted(block);
        if gfp.contains(Gfp::ZERO) {
            self.phys().clear(block);
        }
    }

    /// Counts a block of [`Zones::alloc_frozen_pages`]: one reference to its first page, no flags. From then on it goes back
    /// by [`PageSource::free`] or [`Zones::put_page`]. Linux: `set_page_refcounted`.
    #[inline]
    pub fn set_page_refcounted(&self, block: &PageBlock) {
        let page = self.map_ref().page(block.pfn());
        page.reset_flags(PageFlags::empty());
        page.set_private(0);
        page.set_mapping(0);
        page.set_ref_count(1);
    }

    /// Gives up a reference to a page; the last one frees it. Linux: `put_page`.
    ///
    /// For single pages: the zones do not know the order of a larger block.
    ///
    /// # Safety
    /// 1. The caller holds a reference to the page and gives it up: it does not use the frame any more.
    /// 2. Whoever owns the frame counts every use of it by a reference, so that the last one is the end of all.
    #[inline]
    pub unsafe fn put_page(&self, pfn: Pfn) {
        if self.map_ref().page(pfn).put_and_test() {
            self.put_back(pfn, Order::ZERO, 0);
        }
    }
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
        self.put_back(pfn, order, 1);
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
        for chunk in blocks.chunks_mut(CHUNK) {
            self.put_back_chunk(chunk);
        }
    }
}
