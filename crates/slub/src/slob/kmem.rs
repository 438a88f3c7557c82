//! The interface of all back ends, by the functions of this one.
#![expect(unsafe_code, reason = "an unsafe trait")]

use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId, PfnRange};
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use super::{Slob, natural_align};
use crate::geometry::CacheArgs;
use crate::stats::{Broken, CacheInfo, SlabPages, SlabUse};
use crate::{Kmem, KmemCache, SlubError};

// SAFETY: INV-13: blocks lie apart, and each is free or one owner's.
unsafe impl<A: PageSource, P: PhysMap, L: RawMutex> Kmem for Slob<A, P, L> {
    fn cache_create(&self, args: &CacheArgs) -> Result<KmemCache, SlubError> {
        self.cache_create(args)
    }

    unsafe fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        self.cache_destroy(cache)
    }

    /// Nothing is kept: 0.
    fn shrink(&self, cache: KmemCache) -> Result<usize, SlubError> {
        self.state.lock().cache_mut(cache).map(|_| 0)
    }

    /// Nothing is kept: 0.
    fn shrink_all(&self) -> usize {
        0
    }

    fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.alloc(cache, gfp)
    }

    fn alloc_node(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError> {
        self.alloc_from(cache, gfp, Some(node))
    }

    unsafe fn free(&self, cache: KmemCache, object: NonNull<u8>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.free(cache, object) }
    }

    fn kmalloc_aligned(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_aligned(size_bytes, align, gfp)
    }

    fn kmalloc_node(
        &self,
        size_bytes: usize,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_from(size_bytes, natural_align(size_bytes), gfp, Some(node))
    }

    unsafe fn kfree(&self, ptr: NonNull<u8>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.kfree(ptr) }
    }

    fn ksize(&self, ptr: NonNull<u8>) -> usize {
        self.ksize(ptr)
    }

    fn kmalloc_size_roundup(&self, size_bytes: usize, align: usize) -> usize {
        Self::room_of(size_bytes, align)
    }

    fn for_each_cache(&self, visit: &mut dyn FnMut(&CacheInfo)) {
        self.for_each_info(visit);
    }

    fn for_each_frame(&self, visit: &mut dyn FnMut(PfnRange, SlabUse)) {
        self.visit_frames(visit);
    }

    fn nr_pages(&self) -> SlabPages {
        self.pages_in_use()
    }

    fn validate(&self) -> Result<(), Broken> {
        self.check()
    }

    fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc(size_bytes, gfp)
    }
}
