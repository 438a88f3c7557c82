//! Any heap, with redzones around its objects.
#![expect(unsafe_code, reason = "implements GlobalAlloc")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use kmm_frame::VirtAddr;
use kmm_host::{Freed, ObjectSlot, Sanitizer};

use crate::shadow::GRANULE_BYTES;

/// So many bytes before an object are poisoned at least.
const LEAST_BEFORE_BYTES: usize = 16;
/// What reports call the cache of these objects.
const CACHE: &str = "heap";

/// A heap whose objects have a redzone before and behind them, and wait for a while when they were freed.
///
/// With `()` as the sanitizer it is the heap itself.
#[derive(Debug)]
pub struct KasanHeap<G, K> {
    inner: G,
    kasan: K,
}

/// How an object lies in the block that the heap has for it: behind a redzone, and before another.
#[derive(Clone, Copy)]
struct Room {
    whole: Layout,
    before_bytes: usize,
}

impl Room {
    /// The room of an object with this alignment and so many bytes, the redzone behind it included.
    fn new(align: usize, slot_bytes: usize) -> Option<Self> {
        let align = align.max(LEAST_BEFORE_BYTES);
        let size_bytes = slot_bytes.checked_add(align)?;
        let whole = Layout::from_size_align(size_bytes, align).ok()?;
        Some(Self {
            whole,
            before_bytes: align,
        })
    }
}

impl<G, K> KasanHeap<G, K> {
    /// `inner`, watched. It must have no objects yet.
    pub const fn new(inner: G, kasan: K) -> Self {
        Self { inner, kasan }
    }

    /// The heap itself.
    pub const fn inner(&self) -> &G {
        &self.inner
    }

    /// Who watches.
    pub const fn sanitizer(&self) -> &K {
        &self.kasan
    }
}

impl<G: GlobalAlloc, K: Sanitizer> KasanHeap<G, K> {
    /// Gives back all blocks whose objects were freed and wait.
    pub fn drain(&self) {
        self.kasan.drain(&mut |slot| self.let_go(slot));
    }

    /// Whether objects have redzones at all; never, for `()`.
    fn is_off(&self) -> bool {
        self.kasan.redzone_bytes(0) == 0
    }

    /// An object's bytes, rounded up, with the redzone behind it. The same for the same layout, always.
    fn slot_bytes(&self, layout: Layout) -> Option<usize> {
        let behind = self.kasan.redzone_bytes(layout.size());
        let rounded = layout.size().checked_next_multiple_of(GRANULE_BYTES)?;
        rounded.checked_add(behind)
    }

    fn take(&self, layout: Layout, alloc: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
        let Some(slot_bytes) = self.slot_bytes(layout) else {
            return ptr::null_mut();
        };
        let Some(room) = Room::new(layout.align(), slot_bytes) else {
            return ptr::null_mut();
        };
        let block = alloc(room.whole);
        if block.is_null() {
            return block;
        }
        let start = VirtAddr::new(block.expose_provenance() as u64);
        let slot = ObjectSlot {
            start: start + room.before_bytes as u64,
            size_bytes: slot_bytes,
            align: layout.align(),
        };
        self.kasan.slab_taken(start, room.before_bytes);
        self.kasan.object_taken(slot, layout.size(), CACHE);
        block.wrapping_add(room.before_bytes)
    }

    /// Gives a block back whose object was let go.
    fn let_go(&self, slot: ObjectSlot) {
        let Some(room) = Room::new(slot.align, slot.size_bytes) else {
            return;
        };
        // The heap may keep words of its own in there.
        let start = VirtAddr::new(slot.start.as_u64() - room.before_bytes as u64);
        self.kasan.pages_taken(start, room.whole.size());
        let block = ptr::with_exposed_provenance_mut(start.as_usize());
        // SAFETY: `take` made the object from a block of this layout, and its owner has freed it.
        unsafe { self.inner.dealloc(block, room.whole) };
    }
}

// SAFETY: objects lie in blocks of the inner heap, which are theirs from `take` to `let_go`; who frees what is no object changes
// nothing.
unsafe impl<G: GlobalAlloc, K: Sanitizer> GlobalAlloc for KasanHeap<G, K> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.is_off() {
            // SAFETY: passed on.
            return unsafe { self.inner.alloc(layout) };
        }
        // SAFETY: the room of an object is never of size 0.
        self.take(layout, |whole| unsafe { self.inner.alloc(whole) })
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        if self.is_off() {
            // SAFETY: passed on.
            return unsafe { self.inner.dealloc(object, layout) };
        }
        let Some(size_bytes) = self.slot_bytes(layout) else {
            return;
        };
        let at = VirtAddr::new(object.expose_provenance() as u64);
        let slot = ObjectSlot {
            start: at,
            size_bytes,
            align: layout.align(),
        };
        // What lies before the start of an object is redzone.
        let object = (!self.kasan.may_touch(at - 1)).then_some(slot);
        let freed = self
            .kasan
            .object_given(at, object, &mut |slot| self.let_go(slot));
        if freed == Freed::Now {
            self.let_go(slot);
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if self.is_off() {
            // SAFETY: passed on.
            return unsafe { self.inner.alloc_zeroed(layout) };
        }
        // SAFETY: the room of an object is never of size 0.
        self.take(layout, |whole| unsafe { self.inner.alloc_zeroed(whole) })
    }

    /// Always elsewhere, so that who still uses the old object is found out.
    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size_bytes: usize) -> *mut u8 {
        if self.is_off() {
            // SAFETY: passed on.
            return unsafe { self.inner.realloc(object, layout, new_size_bytes) };
        }
        let Ok(new_layout) = Layout::from_size_align(new_size_bytes, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: the new size is above zero, by the caller.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: two live objects, each at least as long as the shorter of the two sizes.
            unsafe { ptr::copy_nonoverlapping(object, new, layout.size().min(new_size_bytes)) };
            // SAFETY: the old object is the caller's to give up, now that the new one exists.
            unsafe { self.dealloc(object, layout) };
        }
        new
    }
}
