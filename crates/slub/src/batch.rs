//! A handful of objects on the way from one place to another.
#![expect(unsafe_code, reason = "reads what it has written")]

use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Up to [`Batch::CAPACITY`] objects, in order.
pub(crate) struct Batch {
    len: usize,
    objects: [MaybeUninit<NonNull<u8>>; Self::CAPACITY],
}

impl Batch {
    /// As many as a CPU's array holds.
    pub(crate) const CAPACITY: usize = crate::front::CELLS;

    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            len: 0,
            objects: [const { MaybeUninit::uninit() }; Self::CAPACITY],
        }
    }

    /// Adds one; there is room for it.
    #[inline]
    pub(crate) fn push(&mut self, object: NonNull<u8>) {
        self.objects[self.len].write(object);
        self.len += 1;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == Self::CAPACITY
    }

    #[inline]
    pub(crate) fn objects(&self) -> &[NonNull<u8>] {
        let first = self.objects.as_ptr().cast();
        // SAFETY: the first `len` were written by `push`.
        unsafe { core::slice::from_raw_parts(first, self.len) }
    }
}
