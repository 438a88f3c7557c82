//! A [`PageSource`] as the frame allocator of the `x86_64` crate, for kernels that map with its `Mapper`s.
#![expect(
    unsafe_code,
    reason = "frames of that crate are plain addresses, so ownership is vouched for"
)]

use kmm_frame::{Gfp, Order, PhysAddr};
use kmm_host::{PageBlock, PageReq, PageSource};
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, PageSize, PhysFrame, Size2MiB, Size4KiB,
};

/// Hands out frames of 4 KiB and 2 MiB from a page source.
#[derive(Clone, Copy, Debug)]
pub struct Frames<A> {
    pages: A,
    gfp: Gfp,
}

impl<A: PageSource> Frames<A> {
    /// Frames from `pages`, asked for with `gfp`.
    pub const fn new(pages: A, gfp: Gfp) -> Self {
        Self { pages, gfp }
    }

    fn alloc<S: PageSize>(&self, order: Order) -> Option<PhysFrame<S>> {
        let block = self.pages.alloc(PageReq::new(order, self.gfp)).ok()?;
        let (pfn, _) = block.into_raw();
        let start = x86_64::PhysAddr::new(pfn.phys().as_u64());
        Some(PhysFrame::containing_address(start))
    }

    /// # Safety
    /// The frame came from `alloc` with this order, and nobody uses it any more.
    unsafe fn free<S: PageSize>(&self, frame: PhysFrame<S>, order: Order) {
        let pfn = PhysAddr::new(frame.start_address().as_u64()).pfn();
        // SAFETY: the frame came from this source, whose claim was given up then; nobody uses it, by the caller.
        self.pages.free(unsafe { PageBlock::from_raw(pfn, order) });
    }
}

// SAFETY: a page source hands out a block only once before it comes back, aligned to its size.
unsafe impl<A: PageSource> FrameAllocator<Size4KiB> for Frames<A> {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size4KiB>> {
        self.alloc(Order::ZERO)
    }
}

// SAFETY: a page source hands out a block only once before it comes back, aligned to its size.
unsafe impl<A: PageSource> FrameAllocator<Size2MiB> for Frames<A> {
    fn allocate_frame(&mut self) -> Option<PhysFrame<Size2MiB>> {
        self.alloc(Order::PAGEBLOCK)
    }
}

impl<A: PageSource> FrameDeallocator<Size4KiB> for Frames<A> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame<Size4KiB>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.free(frame, Order::ZERO) };
    }
}

impl<A: PageSource> FrameDeallocator<Size2MiB> for Frames<A> {
    unsafe fn deallocate_frame(&mut self, frame: PhysFrame<Size2MiB>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.free(frame, Order::PAGEBLOCK) };
    }
}
