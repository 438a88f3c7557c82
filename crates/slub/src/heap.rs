//! `GlobalAlloc`, for `alloc::` collections in the kernel.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use kmm_frame::Gfp;

use crate::Kmem;

/// How the heap asks for pages: it cannot know whether its caller may wait, and to fail is usually the end.
const HEAP_GFP: Gfp = Gfp::ATOMIC;

/// The heap of early boot, before there are pages to take.
///
/// # Safety
/// Implementors guarantee what [`GlobalAlloc`] asks, and that [`EarlyHeap::owns`] is true of exactly the addresses that
/// lie in their own memory, at all times.
pub unsafe trait EarlyHeap {
    /// Memory of that layout, or null.
    fn alloc(&self, layout: Layout) -> *mut u8;

    /// Takes memory back.
    ///
    /// # Safety
    /// `ptr` came from [`EarlyHeap::alloc`] of this heap with this layout, and nobody uses it any more.
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout);

    /// Whether `ptr` lies in this heap's memory.
    fn owns(&self, ptr: *mut u8) -> bool;
}

/// No early heap: allocations fail until slub is up.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEarlyHeap;

// SAFETY: hands out nothing and owns nothing.
unsafe impl EarlyHeap for NoEarlyHeap {
    fn alloc(&self, _layout: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _ptr: *mut u8, _layout: Layout) {}

    fn owns(&self, _ptr: *mut u8) -> bool {
        false
    }
}

/// A global allocator that is empty at compile time, serves from an early heap, and from a [`Kmem`] once one is set.
///
/// What came from the early heap goes back to it whenever it is freed; when it grows, it moves.
pub struct KmemAlloc<S: 'static, E = NoEarlyHeap> {
    kmem: AtomicPtr<S>,
    early: E,
}

impl<S, E> fmt::Debug for KmemAlloc<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmemAlloc")
            .field("kmem", &self.kmem)
            .finish_non_exhaustive()
    }
}

impl<S, E> KmemAlloc<S, E> {
    /// A heap for a `static`, with what serves it until [`KmemAlloc::set`].
    #[must_use]
    pub const fn new(early: E) -> Self {
        Self {
            kmem: AtomicPtr::new(core::ptr::null_mut()),
            early,
        }
    }

    /// The early heap, to give it its memory.
    pub const fn early(&self) -> &E {
        &self.early
    }
}

impl<S: Kmem + Sync, E: EarlyHeap> KmemAlloc<S, E> {
    /// From now on, serves from `kmem`. Only the first call counts; whether this was it.
    pub fn set(&self, kmem: &'static S) -> bool {
        let kmem = core::ptr::from_ref(kmem).cast_mut();
        self.kmem
            .compare_exchange(
                core::ptr::null_mut(),
                kmem,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// The allocator behind the heap, once set.
    #[inline(always)]
    pub fn kmem(&self) -> Option<&'static S> {
        // SAFETY: null or a `&'static` of `set`.
        unsafe { self.kmem.load(Ordering::Acquire).as_ref() }
    }

    #[inline]
    fn allocate(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        match self.kmem() {
            Some(kmem) => kmem
                .kmalloc_aligned(layout.size(), layout.align(), gfp)
                .map_or(core::ptr::null_mut(), NonNull::as_ptr),
            None => self.early.alloc(layout),
        }
    }

    /// Whether an allocation may stay where it is: it would get as much room elsewhere.
    ///
    /// # Safety
    /// `ptr` came from here with `layout`, and is the caller's.
    unsafe fn stays(&self, ptr: NonNull<u8>, layout: Layout, new_layout: Layout) -> bool {
        match self.kmem() {
            Some(kmem) if !self.early.owns(ptr.as_ptr()) => {
                let room =
                    |layout: Layout| kmem.kmalloc_size_roundup(layout.size(), layout.align());
                // SAFETY: the caller's obligation; not of the early heap.
                room(layout) == room(new_layout)
                    && unsafe { kmem.resize_in_place(ptr, new_layout.size()) }
            }
            _ => false,
        }
    }
}

// SAFETY: a `Kmem` hands out disjoint memory of the size and alignment asked for, until it is freed; so does the early heap,
// and `owns` tells the two apart.
unsafe impl<S: Kmem + Sync, E: EarlyHeap> GlobalAlloc for KmemAlloc<S, E> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocate(layout, HEAP_GFP)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let ptr = self.allocate(layout, HEAP_GFP | Gfp::ZERO);
        if let Some(object) = NonNull::new(ptr).filter(|_| self.early.owns(ptr)) {
            // SAFETY: fresh from the early heap, with that many bytes.
            unsafe { object.write_bytes(0, layout.size()) };
        }
        ptr
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if self.early.owns(ptr) {
            // SAFETY: what lies in the early heap's memory came from it; the rest is the caller's obligation.
            return unsafe { self.early.dealloc(ptr, layout) };
        }
        if let (Some(kmem), Some(ptr)) = (self.kmem(), NonNull::new(ptr)) {
            // SAFETY: the caller's obligation: it came from `alloc` with this layout, not from the early heap, and nobody uses
            // it. `HEAP_GFP` has none of those flags.
            unsafe { kmem.kfree_sized(ptr, layout) };
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(old) = NonNull::new(ptr) else {
            return core::ptr::null_mut();
        };
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return core::ptr::null_mut();
        };
        // SAFETY: the caller's obligation.
        if unsafe { self.stays(old, layout, new_layout) } {
            return ptr;
        }
        // Who wants less is about to give back more than he takes.
        let shrinks = new_size < layout.size();
        let gfp = if shrinks {
            HEAP_GFP | Gfp::MEMALLOC
        } else {
            HEAP_GFP
        };
        let Some(new) = NonNull::new(self.allocate(new_layout, gfp)) else {
            return core::ptr::null_mut();
        };
        // SAFETY: both have that many bytes, and the new one is fresh.
        unsafe { new.copy_from_nonoverlapping(old, layout.size().min(new_size)) };
        // SAFETY: the caller gives the old allocation up when another is returned.
        unsafe { self.dealloc(ptr, layout) };
        new.as_ptr()
    }
}
