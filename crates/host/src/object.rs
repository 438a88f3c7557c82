//! Where memory by size comes from.
#![expect(
    unsafe_code,
    reason = "an unsafe trait: handing out memory twice breaks memory safety"
)]

use core::alloc::Layout;
use core::ptr::NonNull;

use kmm_frame::Gfp;

use crate::AllocError;

/// Hands out memory of any size, physically contiguous, and takes it back. Linux: `kmalloc`, `kfree`.
///
/// What floor 4 takes instead of naming `kmm-slub`, so that a stranger's heap fits as well.
///
/// # Safety
/// Implementors guarantee that memory which was handed out has the size and alignment asked for, is nobody else's until it
/// comes back, and is filled with zeros if `Gfp::ZERO` says so.
pub unsafe trait ObjectSource {
    /// Memory of that layout, whose size is not 0.
    ///
    /// # Context
    /// May sleep when `gfp` allows it.
    ///
    /// # Errors
    /// [`AllocError`]; nothing has changed then.
    fn alloc_object(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<u8>, AllocError>;

    /// Takes memory back. Never sleeps; allowed from interrupts.
    ///
    /// # Safety
    /// 1. `object` came from [`ObjectSource::alloc_object`] of this source with that layout.
    /// 2. Nobody uses it any more.
    unsafe fn free_object(&self, object: NonNull<u8>, layout: Layout);
}

// SAFETY: every call goes to the source behind the reference, which keeps the guarantees.
unsafe impl<O: ObjectSource + ?Sized> ObjectSource for &O {
    fn alloc_object(&self, layout: Layout, gfp: Gfp) -> Result<NonNull<u8>, AllocError> {
        (**self).alloc_object(layout, gfp)
    }

    unsafe fn free_object(&self, object: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's obligations are the same.
        unsafe { (**self).free_object(object, layout) };
    }
}
