//! blog_os's `BootInfoFrameAllocator`, grown up a little: it takes frames back, in blocks of 2^order frames.
//!
//! Freed blocks are linked by frame number through their descriptors. `kmm-buddy` would join them again, `kmm-zone`
//! would replace the whole file.

use kmm_frame::{Gfp, MemMap, NR_ORDERS, Order, Pfn, PfnRange};
use kmm_host::{AllocError, DirectMap, PageBlock, PageReq, PageSource, PhysMap};

pub struct Frames {
    free: spin::Mutex<FreeFrames>,
    phys: DirectMap,
}

struct FreeFrames {
    /// Not used yet.
    fresh: PfnRange,
    /// The first freed block of each order.
    lists: [Option<Pfn>; NR_ORDERS],
    map: MemMap,
}

impl Frames {
    /// # Safety
    /// `fresh` frames are RAM that nobody uses, shown by `phys` and described by `map`.
    pub unsafe fn new(fresh: PfnRange, map: MemMap, phys: DirectMap) -> Self {
        let lists = [None; NR_ORDERS];
        let free = spin::Mutex::new(FreeFrames { fresh, lists, map });
        Self { free, phys }
    }
}

impl FreeFrames {
    fn take(&mut self, order: Order) -> Option<Pfn> {
        if let Some(pfn) = self.lists[order.index()] {
            self.lists[order.index()] = self.map.page(pfn).lru_next();
            return Some(pfn);
        }
        let start = self.fresh.start().align_up(order);
        let end = start.checked_add(order.nr_pages())?;
        if end > self.fresh.end() {
            return None;
        }
        // Blocks are aligned to their size; what has to be skipped for that is kept.
        for skipped in PfnRange::new(self.fresh.start(), start).iter() {
            self.put(skipped, Order::ZERO);
        }
        self.fresh = PfnRange::new(end, self.fresh.end());
        Some(start)
    }

    fn put(&mut self, pfn: Pfn, order: Order) {
        self.map.page(pfn).set_lru_next(self.lists[order.index()]);
        self.lists[order.index()] = Some(pfn);
    }
}

// SAFETY: a block is neither fresh nor on a list while it is out; it is RAM, mapped, aligned, and zeroed if asked for.
unsafe impl PageSource for Frames {
    fn alloc(&self, req: PageReq) -> Result<PageBlock, AllocError> {
        let pfn = self.free.lock().take(req.order);
        let pfn = pfn.ok_or(AllocError::OutOfMemory)?;
        // SAFETY: `take` gave the frames away just now.
        let mut block = unsafe { PageBlock::from_raw(pfn, req.order) };
        if req.gfp.contains(Gfp::ZERO) {
            self.phys.clear(&mut block);
        }
        Ok(block)
    }

    fn free(&self, block: PageBlock) {
        let (pfn, order) = block.into_raw();
        self.free.lock().put(pfn, order);
    }
}
