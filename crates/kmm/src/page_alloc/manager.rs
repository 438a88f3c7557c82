//! The allocator's functions, as functions of the whole manager. Each is [`PageAlloc`]'s of the same name.
#![expect(unsafe_code, reason = "passes on what callers promise")]

use core::ptr::NonNull;

use kmm_frame::{Folio, Gfp, NodeId, NodeMask, Order, Pfn};
use kmm_host::{AllocError, Host, PageBlock, PageReq};

#[cfg(doc)]
use super::PageAlloc;
use super::{Caller, ExactPages, SplitPages};
use crate::Manager;

impl<H: Host> Manager<H> {
    /// Takes a block of pages out. Linux: `alloc_pages`.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages`].
    #[inline]
    pub fn alloc_pages(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        order: Order,
    ) -> Result<PageBlock, AllocError> {
        self.page_alloc().alloc_pages(caller, gfp, order)
    }

    /// Takes one page out. Linux: `alloc_page`.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_page`].
    #[inline]
    pub fn alloc_page(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
    ) -> Result<PageBlock, AllocError> {
        self.page_alloc().alloc_page(caller, gfp)
    }

    /// Takes a block of pages out, of `node` if it has one. Linux: `alloc_pages_node`.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages_node`].
    #[inline]
    pub fn alloc_pages_node(
        &self,
        caller: &mut (impl Caller + ?Sized),
        node: NodeId,
        gfp: Gfp,
        order: Order,
    ) -> Result<PageBlock, AllocError> {
        self.page_alloc().alloc_pages_node(caller, node, gfp, order)
    }

    /// Takes a block of pages out, from the nodes of `mask` alone. Linux: `__alloc_pages`.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages_nodemask`].
    #[inline]
    pub fn alloc_pages_nodemask(
        &self,
        caller: &mut (impl Caller + ?Sized),
        req: PageReq,
        mask: NodeMask,
    ) -> Result<PageBlock, AllocError> {
        self.page_alloc().alloc_pages_nodemask(caller, req, mask)
    }

    /// Takes a block out that has an address. Linux: `__get_free_pages`.
    ///
    /// # Errors
    /// As for [`PageAlloc::get_free_pages`].
    #[inline]
    pub fn get_free_pages(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        order: Order,
    ) -> Result<NonNull<u8>, AllocError> {
        self.page_alloc().get_free_pages(caller, gfp, order)
    }

    /// Takes a page out that has an address. Linux: `__get_free_page`.
    ///
    /// # Errors
    /// As for [`PageAlloc::get_free_page`].
    #[inline]
    pub fn get_free_page(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
    ) -> Result<NonNull<u8>, AllocError> {
        self.page_alloc().get_free_page(caller, gfp)
    }

    /// Takes a page of zeros out that has an address. Linux: `get_zeroed_page`.
    ///
    /// # Errors
    /// As for [`PageAlloc::get_zeroed_page`].
    #[inline]
    pub fn get_zeroed_page(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
    ) -> Result<NonNull<u8>, AllocError> {
        self.page_alloc().get_zeroed_page(caller, gfp)
    }

    /// Takes as many pages as hold `size_bytes`, in one piece. Linux: `alloc_pages_exact`.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages_exact`].
    #[inline]
    pub fn alloc_pages_exact(
        &self,
        caller: &mut (impl Caller + ?Sized),
        size_bytes: usize,
        gfp: Gfp,
    ) -> Result<ExactPages, AllocError> {
        self.page_alloc().alloc_pages_exact(caller, size_bytes, gfp)
    }

    /// Takes a folio out, held once. Linux: `folio_alloc`.
    ///
    /// # Errors
    /// As for [`PageAlloc::folio_alloc`].
    #[inline]
    pub fn folio_alloc(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        order: Order,
    ) -> Result<Folio, AllocError> {
        self.page_alloc().folio_alloc(caller, gfp, order)
    }

    /// Takes a block of pages out without waiting. Linux: `alloc_pages(gfp & ~__GFP_DIRECT_RECLAIM)`.
    ///
    /// # Errors
    /// As for [`PageAlloc::alloc_pages_nowait`].
    #[inline]
    pub fn alloc_pages_nowait(&self, gfp: Gfp, order: Order) -> Result<PageBlock, AllocError> {
        self.page_alloc().alloc_pages_nowait(gfp, order)
    }

    /// Fills the empty places of `out` with single pages; how many places are full. Linux: `alloc_pages_bulk_array`.
    #[inline]
    pub fn alloc_pages_bulk(
        &self,
        caller: &mut (impl Caller + ?Sized),
        gfp: Gfp,
        node: Option<NodeId>,
        out: &mut [Option<PageBlock>],
    ) -> usize {
        self.page_alloc().alloc_pages_bulk(caller, gfp, node, out)
    }

    /// Gives a block back. Linux: `__free_pages`.
    #[inline]
    pub fn free_pages(&self, block: PageBlock) {
        self.page_alloc().free_pages(block);
    }

    /// Gives one page back. Linux: `__free_page`.
    #[inline]
    pub fn free_page(&self, block: PageBlock) {
        self.page_alloc().free_page(block);
    }

    /// Gives every block back, leaving `None`. Linux: `release_pages`.
    #[inline]
    pub fn free_pages_bulk(&self, blocks: &mut [Option<PageBlock>]) {
        self.page_alloc().free_pages_bulk(blocks);
    }

    /// Gives back what [`Manager::alloc_pages_exact`] returned. Linux: `free_pages_exact`.
    #[inline]
    pub fn free_pages_exact(&self, pages: ExactPages) {
        self.page_alloc().free_pages_exact(pages);
    }

    /// Gives back what [`Manager::get_free_pages`] returned. Linux: `free_pages`.
    ///
    /// # Safety
    /// As for [`PageAlloc::free_pages_at`].
    #[inline]
    pub unsafe fn free_pages_at(&self, address: NonNull<u8>, order: Order) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.page_alloc().free_pages_at(address, order) };
    }

    /// Gives back what [`Manager::get_free_page`] or [`Manager::get_zeroed_page`] returned. Linux: `free_page`.
    ///
    /// # Safety
    /// As for [`PageAlloc::free_page_at`].
    #[inline]
    pub unsafe fn free_page_at(&self, address: NonNull<u8>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.page_alloc().free_page_at(address) };
    }

    /// Makes single pages of a block. Linux: `split_page`.
    ///
    /// # Errors
    /// As for [`PageAlloc::split_page`].
    #[inline]
    pub fn split_page(&self, block: PageBlock) -> Result<SplitPages, PageBlock> {
        self.page_alloc().split_page(block)
    }

    /// One more user of a page that the caller holds. Linux: `get_page`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[inline]
    pub fn get_page(&self, pfn: Pfn) {
        self.page_alloc().get_page(pfn);
    }

    /// Gives up a reference to a page; the last one frees it. Linux: `put_page`.
    ///
    /// # Safety
    /// As for [`PageAlloc::put_page`].
    #[inline]
    pub unsafe fn put_page(&self, pfn: Pfn) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.page_alloc().put_page(pfn) };
    }
}
