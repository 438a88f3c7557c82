//! `allocator_api2`'s `Box` and `Vec` in memory of an allocator of this crate: collections that can fail, without nightly.
#![expect(unsafe_code, reason = "Allocator is an unsafe trait")]

use core::alloc::Layout;
use core::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};
use kmm_frame::Gfp;

use crate::kmem::Kmem;

/// Memory of an allocator, asked for in one way. `Box::try_new_in(value, &heap)`, `Vec::new_in(&heap)`.
///
/// What may not wait (`Gfp::ATOMIC`, `Gfp::NOWAIT`) does not.
#[derive(Debug)]
pub struct GfpHeap<'k, K> {
    kmem: &'k K,
    gfp: Gfp,
}

impl<K> Clone for GfpHeap<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for GfpHeap<'_, K> {}

impl<'k, K: Kmem> GfpHeap<'k, K> {
    /// Memory of `kmem`, asked for with `gfp`, of which `DMA`, `DMA32` and `RECLAIMABLE` choose other caches.
    #[must_use]
    pub const fn new(kmem: &'k K, gfp: Gfp) -> Self {
        Self { kmem, gfp }
    }

    fn get(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            let end = core::ptr::without_provenance_mut(layout.align());
            let end = NonNull::new(end).ok_or(AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(end, 0));
        }
        let object = self
            .kmem
            .kmalloc_aligned(layout.size(), layout.align(), gfp);
        let object = object.map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(object, layout.size()))
    }
}

// SAFETY: `Kmem` hands out memory of the layout asked for, nobody else's until it is freed; a copy is the same allocator.
unsafe impl<K: Kmem> Allocator for GfpHeap<'_, K> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.get(layout, self.gfp)
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.get(layout, self.gfp | Gfp::ZERO)
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() > 0 {
            // SAFETY: the caller's obligations: it came from `get`, and nobody uses it any more.
            unsafe { self.kmem.kfree(ptr) };
        }
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's obligations.
        unsafe { self.resize(ptr, old, new, self.gfp) }
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's obligations.
        let grown = unsafe { self.resize(ptr, old, new, self.gfp) }?;
        // SAFETY: the block is as large as `new`, which is not less than `old`.
        let tail = unsafe { grown.cast::<u8>().add(old.size()) };
        // SAFETY: as above; nobody has written there.
        unsafe { tail.write_bytes(0, new.size() - old.size()) };
        Ok(grown)
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's obligations.
        unsafe { self.resize(ptr, old, new, self.gfp) }
    }
}

impl<K: Kmem> GfpHeap<'_, K> {
    /// In place if the room is what the new size would get anyhow, else elsewhere.
    ///
    /// # Safety
    /// `ptr` came from `get` with `old`, and is the caller's.
    unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        gfp: Gfp,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let room = |layout: Layout| {
            self.kmem
                .kmalloc_size_roundup(layout.size(), layout.align())
        };
        let is_aligned = ptr.addr().get() % new.align() == 0;
        let fits = old.size() > 0 && new.size() > 0 && is_aligned && room(old) == room(new);
        // SAFETY: the caller's obligation.
        if fits && unsafe { self.kmem.resize_in_place(ptr, new.size()) } {
            return Ok(NonNull::slice_from_raw_parts(ptr, new.size()));
        }
        let moved = self.get(new, gfp)?;
        let count = old.size().min(new.size());
        // SAFETY: both have so many bytes, and the new one is nobody else's.
        unsafe { moved.cast::<u8>().copy_from_nonoverlapping(ptr, count) };
        // SAFETY: the caller gives the old block up.
        unsafe { self.deallocate(ptr, old) };
        Ok(moved)
    }
}
