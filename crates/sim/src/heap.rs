//! A heap that runs out on demand.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::null_mut;
use std::alloc::System;

thread_local! {
    static ALLOCATIONS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The host's heap as a test's `#[global_allocator]`, which fails for the thread that asked for it.
///
/// ```
/// use kmm_sim::FailingHeap;
///
/// #[global_allocator]
/// static HEAP: FailingHeap = FailingHeap;
///
/// let refused = FailingHeap::after(1, || (Box::new(1), Vec::<u8>::new().try_reserve(9).is_err()));
/// assert_eq!(refused, (Box::new(1), true));
/// ```
#[derive(Clone, Copy, Default, Debug)]
pub struct FailingHeap;

impl FailingHeap {
    /// Runs `f`, in which only the first `allocations` allocations and moves of this thread succeed.
    ///
    /// # Panics
    /// When `f` does; the heap then goes on failing for this thread.
    pub fn after<R>(allocations: u32, f: impl FnOnce() -> R) -> R {
        ALLOCATIONS_LEFT.set(Some(allocations));
        let result = f();
        ALLOCATIONS_LEFT.set(None);
        result
    }

    fn may_allocate() -> bool {
        match ALLOCATIONS_LEFT.try_with(Cell::get) {
            Ok(Some(0)) => false,
            Ok(Some(left)) => {
                ALLOCATIONS_LEFT.set(Some(left - 1));
                true
            }
            _ => true,
        }
    }
}

// SAFETY: every call goes to `System`, or reports failure as null, as the trait allows.
unsafe impl GlobalAlloc for FailingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::may_allocate() {
            return null_mut();
        }
        // SAFETY: the caller keeps `alloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !Self::may_allocate() {
            return null_mut();
        }
        // SAFETY: the caller keeps `realloc`'s contract; the block came from `System`.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}
