//! The one interface of all back ends.
#![expect(unsafe_code, reason = "frees and copies what callers say is theirs")]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::{Gfp, MAX_ORDER, NodeId, PfnRange};

use crate::geometry::CacheArgs;
use crate::stats::{Broken, CacheInfo, SlabPages, SlabUse};
use crate::{KmemCache, SlubError};

/// The largest size that `kmalloc` serves. Linux: `KMALLOC_MAX_SIZE`.
pub const KMALLOC_MAX_SIZE: usize = MAX_ORDER.size_bytes();
/// What `kmalloc(0)` returns: 16-aligned, not null, in no page that anybody maps. Linux: `ZERO_SIZE_PTR`.
pub const ZERO_SIZE_PTR: NonNull<u8> = match NonNull::new(core::ptr::without_provenance_mut(16)) {
    Some(ptr) => ptr,
    None => NonNull::dangling(),
};

/// An object allocator: caches, and memory by size. Linux: include/linux/slab.h.
///
/// Which one it is, its type says: [`Slub`](crate::Slub), for one. Each has the hot functions as its own, too, so that they are
/// found without the trait.
///
/// # Safety
/// Implementors guarantee that memory which was handed out has the size and alignment asked for, is nobody else's until it comes
/// back, and is filled with zeros if `Gfp::ZERO` says so.
pub unsafe trait Kmem {
    /// A new cache. Takes no page yet. Linux: `kmem_cache_create`.
    ///
    /// # Errors
    /// [`SlubError::InvalidLayout`], [`SlubError::TooLarge`] or [`SlubError::NoSlot`].
    fn cache_create(&self, args: &CacheArgs) -> Result<KmemCache, SlubError>;

    /// Ends a cache and returns its pages. Linux: `kmem_cache_destroy`.
    ///
    /// # Errors
    /// [`SlubError::Busy`] when objects are in use: they are reported as leaked, and the cache stays as it is.
    /// [`SlubError::NoSuchCache`].
    ///
    /// # Safety
    /// While this runs nobody uses the cache, on any CPU; nor the handle afterwards, if it returns `Ok`.
    unsafe fn cache_destroy(&self, cache: KmemCache) -> Result<(), SlubError>;

    /// Returns what a cache has to spare; how many pages that were. Linux: `kmem_cache_shrink`.
    ///
    /// # Errors
    /// [`SlubError::NoSuchCache`].
    fn shrink(&self, cache: KmemCache) -> Result<usize, SlubError>;

    /// Returns what all caches have to spare; how many pages that were.
    fn shrink_all(&self) -> usize;

    /// An object of the cache. Linux: `kmem_cache_alloc`.
    ///
    /// # Errors
    /// [`SlubError::OutOfMemory`]; [`SlubError::Constructed`] when zeros are asked for; [`SlubError::NoSuchCache`].
    fn alloc(&self, cache: KmemCache, gfp: Gfp) -> Result<NonNull<u8>, SlubError>;

    /// As [`Kmem::alloc`], of memory of that node if it has any. Linux: `kmem_cache_alloc_node`.
    ///
    /// # Errors
    /// As [`Kmem::alloc`].
    fn alloc_node(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError>;

    /// Takes an object back. Linux: `kmem_cache_free`.
    ///
    /// # Safety
    /// 1. `object` came from [`Kmem::alloc`] of this allocator and this cache.
    /// 2. Nobody uses it any more; if the cache has a constructor, it is as constructed.
    unsafe fn free(&self, cache: KmemCache, object: NonNull<u8>);

    /// Memory at a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// [`SlubError::TooLarge`], [`SlubError::OutOfMemory`], [`SlubError::InvalidLayout`].
    fn kmalloc_aligned(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError>;

    /// As [`Kmem::kmalloc`], of memory of that node if it has any. Linux: `kmalloc_node`.
    ///
    /// # Errors
    /// As [`Kmem::kmalloc`].
    fn kmalloc_node(
        &self,
        size_bytes: usize,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError>;

    /// Frees what the kmalloc family returned, or an object of any cache. Linux: `kfree`.
    ///
    /// # Safety
    /// 1. `ptr` came from this allocator.
    /// 2. Nobody uses it any more.
    unsafe fn kfree(&self, ptr: NonNull<u8>);

    /// As [`Kmem::kfree`], for who knows what was asked for.
    ///
    /// # Safety
    /// 1. `ptr` came from [`Kmem::kmalloc_aligned`] of this allocator with that layout, and a `gfp` without `DMA`, `DMA32` and
    ///    `RECLAIMABLE`.
    /// 2. Nobody uses it any more.
    #[inline]
    unsafe fn kfree_sized(&self, ptr: NonNull<u8>, layout: Layout) {
        let _ = layout;
        // SAFETY: obligations 1 and 2.
        unsafe { self.kfree(ptr) };
    }

    /// Notes that an allocation which stays where it is is as large as this from now on; whether it may be. What watches for those
    /// who write behind what they asked for must know.
    ///
    /// # Safety
    /// `ptr` came from the kmalloc family of this allocator, and is the caller's.
    #[inline]
    unsafe fn resize_in_place(&self, ptr: NonNull<u8>, size_bytes: usize) -> bool {
        let _ = (ptr, size_bytes);
        true
    }

    /// How many bytes an allocation has room for; 0, reported, for what is none. Linux: `ksize`.
    fn ksize(&self, ptr: NonNull<u8>) -> usize;

    /// How much room [`Kmem::kmalloc_aligned`] gives for that much; 0 for more than there is. Linux: `kmalloc_size_roundup`.
    fn kmalloc_size_roundup(&self, size_bytes: usize, align: usize) -> usize;

    /// Calls `visit` with the figures of each cache: the lines of `/proc/slabinfo`.
    fn for_each_cache(&self, visit: &mut dyn FnMut(&CacheInfo));

    /// Calls `visit` with each block of frames that holds objects. O(frames): for audits.
    fn for_each_frame(&self, visit: &mut dyn FnMut(PfnRange, SlabUse));

    /// Pages in use for objects.
    fn nr_pages(&self) -> SlabPages;

    /// Checks every object that is debugged, reports and restores what is wrong; how many objects that were. For audits, while nobody
    /// allocates. Linux: `validate_slab_cache`, by /sys/kernel/slab/NAME/validate.
    fn check_objects(&self) -> usize {
        0
    }

    /// Checks all books. For audits, while nobody allocates.
    ///
    /// # Errors
    /// The first thing that is wrong.
    fn validate(&self) -> Result<(), Broken>;

    /// `size_bytes` of physically contiguous memory; [`ZERO_SIZE_PTR`] for none. Linux: `kmalloc`.
    ///
    /// # Errors
    /// [`SlubError::TooLarge`] above [`KMALLOC_MAX_SIZE`]; [`SlubError::OutOfMemory`].
    #[inline]
    fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_aligned(size_bytes, 1, gfp)
    }

    /// As [`Kmem::kmalloc`], filled with zeros. Linux: `kzalloc`.
    ///
    /// # Errors
    /// As [`Kmem::kmalloc`].
    #[inline]
    fn kzalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc(size_bytes, gfp | Gfp::ZERO)
    }

    /// Room for `n` objects of `size_bytes`. Linux: `kmalloc_array`.
    ///
    /// # Errors
    /// As [`Kmem::kmalloc`]; [`SlubError::TooLarge`] also when the product overflows.
    #[inline]
    fn kmalloc_array(
        &self,
        n: usize,
        size_bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        let total = n.checked_mul(size_bytes).ok_or(SlubError::TooLarge)?;
        self.kmalloc(total, gfp)
    }

    /// As [`Kmem::kmalloc_array`], filled with zeros. Linux: `kcalloc`.
    ///
    /// # Errors
    /// As [`Kmem::kmalloc_array`].
    #[inline]
    fn kcalloc(&self, n: usize, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_array(n, size_bytes, gfp | Gfp::ZERO)
    }

    /// Makes an allocation `new_size_bytes` large: in place if it has the room, else elsewhere, with its contents.
    ///
    /// With `Gfp::ZERO`, bytes beyond the old room are 0. `None` and [`ZERO_SIZE_PTR`] are allocated anew; a new size of
    /// 0 frees. Linux: `krealloc`.
    ///
    /// # Errors
    /// As [`Kmem::kmalloc`]; [`SlubError::InvalidLayout`], reported, when `ptr` is no allocation. The old allocation
    /// is untouched then.
    ///
    /// # Safety
    /// 1. `ptr` came from the kmalloc family of this allocator and was not freed.
    /// 2. Nobody uses it while this runs, nor afterwards if another address is returned.
    unsafe fn krealloc(
        &self,
        ptr: Option<NonNull<u8>>,
        new_size_bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        let Some(old) = ptr.filter(|ptr| *ptr != ZERO_SIZE_PTR) else {
            return self.kmalloc(new_size_bytes, gfp);
        };
        if new_size_bytes == 0 {
            // SAFETY: obligations 1 and 2.
            unsafe { self.kfree(old) };
            return Ok(ZERO_SIZE_PTR);
        }
        let old_room = self.ksize(old);
        if old_room == 0 {
            return Err(SlubError::InvalidLayout);
        }
        // SAFETY: obligations 1 and 2.
        if new_size_bytes <= old_room && unsafe { self.resize_in_place(old, new_size_bytes) } {
            return Ok(old);
        }
        let new = self.kmalloc(new_size_bytes, gfp)?;
        // SAFETY: both have room for so many bytes; `new` is fresh, so they do not overlap.
        unsafe { new.copy_from_nonoverlapping(old, old_room.min(new_size_bytes)) };
        // SAFETY: obligations 1 and 2.
        unsafe { self.kfree(old) };
        Ok(new)
    }

    /// Fills `out` with objects. Linux: `kmem_cache_alloc_bulk`.
    ///
    /// # Errors
    /// As [`Kmem::alloc`]; all of `out` is `None` then.
    fn alloc_bulk(
        &self,
        cache: KmemCache,
        gfp: Gfp,
        out: &mut [Option<NonNull<u8>>],
    ) -> Result<(), SlubError> {
        for nr in 0..out.len() {
            match self.alloc(cache, gfp) {
                Ok(object) => out[nr] = Some(object),
                Err(error) => {
                    let (got, rest) = out.split_at_mut(nr);
                    rest.fill(None);
                    // SAFETY: allocated above.
                    unsafe { self.free_bulk(cache, got) };
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes every object of `objects` back, leaving `None`. Linux: `kmem_cache_free_bulk`.
    ///
    /// # Safety
    /// As [`Kmem::free`], for each of them.
    unsafe fn free_bulk(&self, cache: KmemCache, objects: &mut [Option<NonNull<u8>>]) {
        for object in objects.iter_mut().filter_map(Option::take) {
            // SAFETY: the caller's obligations.
            unsafe { self.free(cache, object) };
        }
    }
}
