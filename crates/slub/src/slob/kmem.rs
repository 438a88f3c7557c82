//! The interface of all back ends, by the functions of this one.
#![expect(unsafe_code, reason = "an unsafe trait")]

use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId, PfnRange};
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use super::{Slob, natural_align};
use crate::geometry::CacheArgs;
use crate::stats::{Broken, CacheInfo, SlabPages, SlabUse};
use crate::{Kmem, KmemCache, SlubError, ZERO_SIZE_PTR};

// SAFETY: INV-13: blocks lie apart, and each is free or one owner's.
unsafe impl<A: PageSource, P: PhysMap, L: RawMutex> Kmem for Slob<A, P, L> {
    fn cache_create(&self, args: &CacheArgs) -> Result<KmemCache, SlubError> {
        self.new_cache(args)
    }

    unsafe fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        self.end_cache(cache)
    }

    /// Nothing is kept but freed objects that are debugged, of all caches.
    fn shrink(&self, cache: KmemCache) -> Result<usize, SlubError> {
        self.state.lock().cache_mut(cache).map(|_| ())?;
        Ok(self.thin_out(0))
    }

    /// Nothing is kept but freed objects that are debugged.
    fn shrink_all(&self) -> usize {
        self.thin_out(0)
    }

    fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.alloc_from(cache, gfp, None)
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
        self.free_to(object, Some(cache));
    }

    /// At a multiple of `align`, and of 8: no more than that.
    fn kmalloc_aligned(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_from(size_bytes, align, gfp, None)
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
        if ptr != ZERO_SIZE_PTR {
            self.free_to(ptr, None);
        }
    }

    unsafe fn resize_in_place(&self, ptr: NonNull<u8>, size_bytes: usize) -> bool {
        if let Some(room) = self.size_of_sampled(ptr) {
            return size_bytes <= room;
        }
        self.note_requested(ptr, size_bytes);
        true
    }

    fn ksize(&self, ptr: NonNull<u8>) -> usize {
        self.room_at(ptr)
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

    fn check_objects(&self) -> usize {
        self.check_all()
    }

    fn validate(&self) -> Result<(), Broken> {
        self.check()
    }

    /// A power of two is aligned to itself, up to a page; other sizes to 8.
    fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_from(size_bytes, natural_align(size_bytes), gfp, None)
    }
}
