//! Who is told which frames object caches have.

use core::fmt;

use kmm_frame::PfnRange;

/// Is told of each slab that a cache takes from the page source or gives back, of kmalloc's caches as of any other; and of
/// allocations too large for a slab, as of the cache `kmalloc-large`. So it sees all memory that objects lie in.
///
/// `()` passes it over.
///
/// # Context
/// Where the page source is called: without locks; from interrupts, if objects are allocated there. Must not allocate.
pub trait SlabHook: fmt::Debug {
    /// These frames became a slab of `cache`; nobody has an object of it yet. Linux: the end of `new_slab`, mm/slub.c.
    fn slab_made(&self, frames: PfnRange, cache: &str) {
        let _ = (frames, cache);
    }

    /// These frames are no slab any more, and go back. Linux: the beginning of `__free_slab`.
    fn slab_gone(&self, frames: PfnRange) {
        let _ = frames;
    }
}

impl SlabHook for () {}
