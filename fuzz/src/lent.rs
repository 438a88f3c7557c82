//! Memory that is given back when a target is done: a fuzzer runs it a million times.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Zeroed memory that is called `'static` by those who use it, and is not: it must outlive them.
#[derive(Debug)]
pub(crate) struct Lent {
    base: NonNull<u8>,
    layout: Layout,
}

impl Lent {
    pub(crate) fn new(layout: Layout) -> Self {
        let layout = Layout::from_size_align(layout.size().max(1), layout.align()).expect("small");
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
        Self { base, layout }
    }

    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Values made by `make`, which have no `Drop`.
    pub(crate) fn array<T: 'static>(n: usize, make: impl Fn() -> T) -> (Self, &'static mut [T]) {
        const { assert!(!core::mem::needs_drop::<T>()) };
        let lent = Self::new(Layout::array::<T>(n).expect("small"));
        let first = lent.base.cast::<T>();
        for nth in 0..n {
            // SAFETY: within the array.
            let slot = unsafe { first.add(nth) };
            // SAFETY: room for a value that nobody uses yet.
            unsafe { slot.write(make()) };
        }
        // SAFETY: written above, and nobody else's.
        let slice = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), n) };
        (lent, slice)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
