//! Frames between the page source and the tables, chained through their descriptors.
//!
//! An area of any size then needs no array of its frames: on the way in, the chain holds those that are not mapped yet;
//! on the way out, those that wait for the flush. In between, the tables themselves know the frames.
#![expect(unsafe_code, reason = "frames taken from tables become blocks again")]

use kmm_frame::{Gfp, MemMap, Order, PageFlags, Pfn};
use kmm_host::{PageBlock, PageSource};

use crate::VmallocError;

/// Frames asked for at once.
const BULK: usize = 32;

/// Single frames that this chain owns (INV-1).
#[derive(Debug)]
pub(crate) struct Frames {
    map: MemMap,
    head: Option<Pfn>,
}

impl Frames {
    pub(crate) const fn new(map: MemMap) -> Self {
        Self { map, head: None }
    }

    /// Takes `nr_pages` frames from `pages`, or none. Linux: `vm_area_alloc_pages`, mm/vmalloc.c.
    pub(crate) fn alloc<A: PageSource>(
        map: MemMap,
        pages: &A,
        nr_pages: usize,
        gfp: Gfp,
    ) -> Result<Self, VmallocError> {
        let mut frames = Self::new(map);
        let mut missing = nr_pages;
        while missing > 0 {
            let mut bulk = [const { None }; BULK];
            let nr = pages.alloc_bulk(gfp, None, &mut bulk[..missing.min(BULK)]);
            for block in bulk.into_iter().flatten() {
                frames.push(block);
            }
            if nr == 0 {
                frames.free(pages);
                return Err(VmallocError::OutOfMemory);
            }
            missing -= nr;
        }
        Ok(frames)
    }

    /// The first frame.
    pub(crate) const fn first(&self) -> Option<Pfn> {
        self.head
    }

    /// The frame after `pfn`.
    pub(crate) fn after(&self, pfn: Pfn) -> Option<Pfn> {
        self.map.page(pfn).lru_next()
    }

    /// Says that the frames before `rest` now belong to the tables.
    pub(crate) fn advance_to(&mut self, rest: Option<Pfn>) {
        self.head = rest;
    }

    /// Takes a frame back whose entry is gone, but maybe not forgotten by every CPU.
    pub(crate) fn put_back(&mut self, pfn: Pfn) {
        self.map.page(pfn).set_lru_next(self.head);
        self.head = Some(pfn);
    }

    /// Frees every frame. No CPU may remember one of them any more.
    pub(crate) fn free<A: PageSource>(mut self, pages: &A) {
        while let Some(pfn) = self.head {
            let page = self.map.page(pfn);
            self.head = page.lru_next();
            page.set_lru_next(None);
            page.clear(PageFlags::VMALLOC);
            // SAFETY: the chain owns its frames (INV-1), and this one has just left it.
            pages.free(unsafe { PageBlock::from_raw(pfn, Order::ZERO) });
        }
    }

    fn push(&mut self, block: PageBlock) {
        let (pfn, _) = block.into_raw();
        self.map.page(pfn).set(PageFlags::VMALLOC);
        self.put_back(pfn);
    }
}
