//! The interface of all back ends, by the functions of this one.
#![expect(unsafe_code, reason = "an unsafe trait")]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId, PfnRange};
use kmm_host::{Cpus, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use crate::classes::room_of;
use crate::geometry::CacheArgs;
use crate::slab::SlabKind;
use crate::stats::{Broken, CacheInfo, SlabPages, SlabUse};
use crate::{Kmem, KmemCache, SlubError};

// SAFETY: INV-1 and INV-2: objects lie apart, and each is in one place.
unsafe impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> Kmem
    for ObjectCaches<K, A, P, L, C>
{
    fn cache_create(&self, args: &CacheArgs) -> Result<KmemCache, SlubError> {
        self.cache_create(args)
    }

    unsafe fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError> {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.cache_destroy(cache) }
    }

    fn shrink(&self, cache: KmemCache) -> Result<usize, SlubError> {
        self.shrink(cache)
    }

    fn shrink_all(&self) -> usize {
        self.shrink_all()
    }

    #[inline]
    fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.alloc(cache, gfp)
    }

    fn alloc_node(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError> {
        self.alloc_node(cache, gfp, node)
    }

    #[inline]
    unsafe fn free(&self, cache: KmemCache, object: NonNull<u8>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.free(cache, object) }
    }

    #[inline]
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
        self.kmalloc_node(size_bytes, gfp, node)
    }

    #[inline]
    unsafe fn kfree(&self, ptr: NonNull<u8>) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.kfree(ptr) }
    }

    #[inline]
    unsafe fn kfree_sized(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.kfree_sized(ptr, layout) }
    }

    unsafe fn resize_in_place(&self, ptr: NonNull<u8>, size_bytes: usize) -> bool {
        if let Some(room) = self.size_of_sampled(ptr) {
            return size_bytes <= room;
        }
        self.note_requested(ptr, size_bytes);
        true
    }

    fn ksize(&self, ptr: NonNull<u8>) -> usize {
        self.ksize(ptr)
    }

    fn kmalloc_size_roundup(&self, size_bytes: usize, align: usize) -> usize {
        // Watched objects do not grow in place: no more may be touched than was asked for.
        if self.config.sanitizer.is_some() {
            return size_bytes;
        }
        room_of(size_bytes, align)
    }

    fn for_each_cache(&self, visit: &mut dyn FnMut(&CacheInfo)) {
        self.cache_infos().for_each(|info| visit(&info));
    }

    fn for_each_frame(&self, visit: &mut dyn FnMut(PfnRange, SlabUse)) {
        self.for_each_frame(visit);
    }

    fn nr_pages(&self) -> SlabPages {
        self.nr_pages()
    }

    fn check_objects(&self) -> usize {
        self.check_objects()
    }

    fn validate(&self) -> Result<(), Broken> {
        self.validate()
    }

    #[inline]
    fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc(size_bytes, gfp)
    }

    fn alloc_bulk(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        out: &mut [Option<NonNull<u8>>],
    ) -> Result<(), SlubError> {
        self.alloc_bulk(cache, gfp, out)
    }

    unsafe fn free_bulk(&self, cache: KmemCache, objects: &mut [Option<NonNull<u8>>]) {
        // SAFETY: the caller's obligations are the same.
        unsafe { self.free_bulk(cache, objects) }
    }
}
