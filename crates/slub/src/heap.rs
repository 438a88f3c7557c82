//! `GlobalAlloc`, for `alloc::` collections in the kernel.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use kmm_frame::Gfp;
use kmm_host::{PageSource, PhysMap};
use lock_api::RawMutex;

use crate::Slub;
use crate::kmalloc::KMALLOC_MIN_SIZE;

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

/// A global allocator that is empty at compile time, serves from an early heap, and from a [`Slub`] once one is set.
///
/// What came from the early heap goes back to it whenever it is freed; when it grows, it moves to slub.
pub struct SlubAlloc<A: 'static, P: 'static, L: RawMutex + 'static, E = NoEarlyHeap> {
    slub: AtomicPtr<Slub<A, P, L>>,
    early: E,
}

impl<A, P, L: RawMutex, E> fmt::Debug for SlubAlloc<A, P, L, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlubAlloc")
            .field("slub", &self.slub)
            .finish_non_exhaustive()
    }
}

impl<A, P, L: RawMutex, E> SlubAlloc<A, P, L, E> {
    /// A heap for a `static`, with what serves it until [`SlubAlloc::set`].
    #[must_use]
    pub const fn new(early: E) -> Self {
        Self {
            slub: AtomicPtr::new(core::ptr::null_mut()),
            early,
        }
    }

    /// The early heap, to give it its memory.
    pub const fn early(&self) -> &E {
        &self.early
    }
}

impl<A, P, L, E> SlubAlloc<A, P, L, E>
where
    A: PageSource + Sync,
    P: PhysMap + Sync,
    L: RawMutex + Send + Sync,
    E: EarlyHeap,
{
    /// From now on, serves from `slub`. Only the first call counts; whether this was it.
    pub fn set(&self, slub: &'static Slub<A, P, L>) -> bool {
        let slub = core::ptr::from_ref(slub).cast_mut();
        self.slub
            .compare_exchange(
                core::ptr::null_mut(),
                slub,
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// The allocator behind the heap, once set.
    pub fn slub(&self) -> Option<&'static Slub<A, P, L>> {
        // SAFETY: null or a `&'static` of `set`.
        unsafe { self.slub.load(Ordering::Acquire).as_ref() }
    }

    fn allocate(&self, layout: Layout, gfp: Gfp) -> *mut u8 {
        match self.slub() {
            Some(slub) => slub
                .kmalloc_aligned(layout.size(), layout.align(), gfp)
                .map_or(core::ptr::null_mut(), NonNull::as_ptr),
            None => self.early.alloc(layout),
        }
    }

    /// Whether slub may keep an allocation where it is: it fits, and half the room would not do.
    fn stays(&self, ptr: NonNull<u8>, new_size: usize) -> bool {
        match self.slub() {
            Some(slub) if !self.early.owns(ptr.as_ptr()) => {
                let room = slub.ksize(ptr);
                new_size <= room && (new_size > room / 2 || room == KMALLOC_MIN_SIZE)
            }
            _ => false,
        }
    }
}

// SAFETY: slub hands out disjoint memory of the size and alignment asked for, until it is freed; so does the early heap,
// and `owns` tells the two apart.
unsafe impl<A, P, L, E> GlobalAlloc for SlubAlloc<A, P, L, E>
where
    A: PageSource + Sync,
    P: PhysMap + Sync,
    L: RawMutex + Send + Sync,
    E: EarlyHeap,
{
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

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if self.early.owns(ptr) {
            // SAFETY: what lies in the early heap's memory came from it; the rest is the caller's obligation.
            return unsafe { self.early.dealloc(ptr, layout) };
        }
        if let (Some(slub), Some(ptr)) = (self.slub(), NonNull::new(ptr)) {
            // SAFETY: the caller's obligation: it came from `alloc`, not from the early heap, and nobody uses it.
            unsafe { slub.kfree(ptr) };
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(old) = NonNull::new(ptr) else {
            return core::ptr::null_mut();
        };
        if self.stays(old, new_size) {
            return ptr;
        }
        let Ok(new_layout) = Layout::from_size_align(new_size, layout.align()) else {
            return core::ptr::null_mut();
        };
        let Some(new) = NonNull::new(self.allocate(new_layout, HEAP_GFP)) else {
            return if new_size <= layout.size() {
                ptr
            } else {
                core::ptr::null_mut()
            };
        };
        // SAFETY: both have that many bytes, and the new one is fresh.
        unsafe { new.copy_from_nonoverlapping(old, layout.size().min(new_size)) };
        // SAFETY: the caller gives the old allocation up when another is returned.
        unsafe { self.dealloc(ptr, layout) };
        new.as_ptr()
    }
}
