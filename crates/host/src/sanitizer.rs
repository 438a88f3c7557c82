//! Which memory may be touched: a seam for KASAN, which costs nothing when it is off.

use core::fmt;

use kmm_frame::VirtAddr;

/// The place of an object: what its owner may have at most, and what it takes to give it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObjectSlot {
    /// The first byte of the object.
    pub start: VirtAddr,
    /// How many bytes there are, asked for or not.
    pub size_bytes: usize,
    /// The alignment that was asked for; only handed back to who lets objects go.
    pub align: usize,
}

/// What becomes of an object that was freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "an object that waits or was refused must not be handed out again"]
pub enum Freed {
    /// It may be handed out again.
    Now,
    /// It may be handed out again once it was let go.
    Later,
    /// It was no object, or is free already. That was reported; nothing else has changed.
    Refused,
}

/// Is told of all memory that is handed out or taken back, and so knows which may be touched. Linux: KASAN's hooks,
/// include/linux/kasan.h.
///
/// `()` knows nothing: every call is empty.
///
/// # Context
/// Any, interrupts included. Must not allocate.
pub trait Sanitizer: fmt::Debug {
    /// How much room an allocator leaves before and after an object of `size_bytes`. Always the same for the same size.
    fn redzone_bytes(&self, size_bytes: usize) -> usize;

    /// Pages were handed out: all of them may be touched. Linux: `kasan_unpoison_pages`.
    fn pages_taken(&self, start: VirtAddr, size_bytes: usize);

    /// Pages are about to be freed; whether they may be. Linux: `kasan_poison_pages`.
    fn pages_given(&self, start: VirtAddr, size_bytes: usize) -> bool;

    /// An area of `size_bytes` was mapped: so much of it may be touched. Linux: `kasan_unpoison_vmalloc`.
    fn vmalloc(&self, start: VirtAddr, size_bytes: usize);

    /// An area is about to be unmapped. Linux: `kasan_poison_vmalloc`.
    fn vfree(&self, start: VirtAddr, size_bytes: usize);

    /// Pages became a slab: nothing there may be touched but objects. Linux: `kasan_poison_slab`.
    fn slab_taken(&self, start: VirtAddr, size_bytes: usize);

    /// An object was handed out, of which `requested_bytes` may be touched. Linux: `kasan_kmalloc`.
    fn object_taken(&self, slot: ObjectSlot, requested_bytes: usize, cache: &str);

    /// `at` is about to be freed, and lies in `slot`, if in any. Calls `let_go` with every object that has waited long enough: may
    /// be with this one, may be with others. Linux: `kasan_slab_free`.
    fn object_given(
        &self,
        at: VirtAddr,
        slot: Option<ObjectSlot>,
        let_go: &mut dyn FnMut(ObjectSlot),
    ) -> Freed;

    /// Lets every object go that waits, the oldest first. Linux: `kasan_quarantine_remove_cache`, of all caches.
    fn drain(&self, let_go: &mut dyn FnMut(ObjectSlot));

    /// Whether a byte may be touched, as far as is known. Linux: `kasan_byte_accessible`.
    fn may_touch(&self, addr: VirtAddr) -> bool;
}

impl Sanitizer for () {
    #[inline(always)]
    fn redzone_bytes(&self, _size_bytes: usize) -> usize {
        0
    }

    #[inline(always)]
    fn pages_taken(&self, _start: VirtAddr, _size_bytes: usize) {}

    #[inline(always)]
    fn pages_given(&self, _start: VirtAddr, _size_bytes: usize) -> bool {
        true
    }

    #[inline(always)]
    fn vmalloc(&self, _start: VirtAddr, _size_bytes: usize) {}

    #[inline(always)]
    fn vfree(&self, _start: VirtAddr, _size_bytes: usize) {}

    #[inline(always)]
    fn slab_taken(&self, _start: VirtAddr, _size_bytes: usize) {}

    #[inline(always)]
    fn object_taken(&self, _slot: ObjectSlot, _requested_bytes: usize, _cache: &str) {}

    #[inline(always)]
    fn object_given(
        &self,
        _at: VirtAddr,
        _slot: Option<ObjectSlot>,
        _let_go: &mut dyn FnMut(ObjectSlot),
    ) -> Freed {
        Freed::Now
    }

    #[inline(always)]
    fn drain(&self, _let_go: &mut dyn FnMut(ObjectSlot)) {}

    #[inline(always)]
    fn may_touch(&self, _addr: VirtAddr) -> bool {
        true
    }
}

impl<K: Sanitizer + ?Sized> Sanitizer for &K {
    fn redzone_bytes(&self, size_bytes: usize) -> usize {
        (**self).redzone_bytes(size_bytes)
    }

    fn pages_taken(&self, start: VirtAddr, size_bytes: usize) {
        (**self).pages_taken(start, size_bytes);
    }

    fn pages_given(&self, start: VirtAddr, size_bytes: usize) -> bool {
        (**self).pages_given(start, size_bytes)
    }

    fn vmalloc(&self, start: VirtAddr, size_bytes: usize) {
        (**self).vmalloc(start, size_bytes);
    }

    fn vfree(&self, start: VirtAddr, size_bytes: usize) {
        (**self).vfree(start, size_bytes);
    }

    fn slab_taken(&self, start: VirtAddr, size_bytes: usize) {
        (**self).slab_taken(start, size_bytes);
    }

    fn object_taken(&self, slot: ObjectSlot, requested_bytes: usize, cache: &str) {
        (**self).object_taken(slot, requested_bytes, cache);
    }

    fn object_given(
        &self,
        at: VirtAddr,
        slot: Option<ObjectSlot>,
        let_go: &mut dyn FnMut(ObjectSlot),
    ) -> Freed {
        (**self).object_given(at, slot, let_go)
    }

    fn drain(&self, let_go: &mut dyn FnMut(ObjectSlot)) {
        (**self).drain(let_go);
    }

    fn may_touch(&self, addr: VirtAddr) -> bool {
        (**self).may_touch(addr)
    }
}
