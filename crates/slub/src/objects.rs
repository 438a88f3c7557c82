//! An allocator as a source of objects, for who does not name it.
#![expect(unsafe_code, reason = "ObjectSource is an unsafe trait")]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::Gfp;
use kmm_host::{AllocError, Cpus, ObjectSource, PageSource, PhysMap};
use lock_api::RawMutex;

use crate::SlubError;
use crate::front::ObjectCaches;
use crate::kmem::Kmem;
use crate::slab::SlabKind;
use crate::slob::Slob;

// SAFETY: `Kmem` promises the same.
unsafe impl<K, A, P, L, C> ObjectSource for ObjectCaches<K, A, P, L, C>
where
    K: SlabKind,
    A: PageSource,
    P: PhysMap,
    L: RawMutex,
    C: Cpus,
{
    fn alloc_object(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        let object = self.kmalloc_aligned(layout.size(), layout.align(), gfp);
        object.map_err(to_source)
    }

    unsafe fn free_object(&self, object: NonNull<u8>, _layout: Layout) {
        // Not by its layout: that path is for requests without `DMA` and its like.
        // SAFETY: the caller's obligations.
        unsafe { self.kfree(object) };
    }
}

// SAFETY: as above.
unsafe impl<A: PageSource, P: PhysMap, L: RawMutex> ObjectSource for Slob<A, P, L> {
    fn alloc_object(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        let object = self.kmalloc_aligned(layout.size(), layout.align(), gfp);
        object.map_err(to_source)
    }

    unsafe fn free_object(&self, object: NonNull<u8>, _layout: Layout) {
        // SAFETY: the caller's obligations.
        unsafe { self.kfree(object) };
    }
}

fn to_source(error: SlubError) -> AllocError {
    match error {
        SlubError::OutOfMemory => AllocError::OutOfMemory,
        _ => AllocError::BadSize,
    }
}
