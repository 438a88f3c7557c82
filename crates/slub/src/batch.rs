//! A handful of objects on the way from one place to another.

use core::ptr::{self, NonNull};

/// Up to [`Batch::CAPACITY`] objects, in order.
#[derive(Debug)]
pub(crate) struct Batch {
    len: usize,
    objects: [*mut u8; Self::CAPACITY],
}

impl Batch {
    /// As many as a CPU's array holds.
    pub(crate) const CAPACITY: usize = crate::front::CELLS;

    pub(crate) const fn new() -> Self {
        Self {
            len: 0,
            objects: [ptr::null_mut(); Self::CAPACITY],
        }
    }

    /// Adds one; there is room for it.
    pub(crate) fn push(&mut self, object: NonNull<u8>) {
        self.objects[self.len] = object.as_ptr();
        self.len += 1;
    }

    /// Lets `f` fill the rest and say how far it got.
    pub(crate) fn fill(&mut self, f: impl FnOnce(&mut [*mut u8]) -> usize) {
        self.len += f(&mut self.objects[self.len..]);
    }

    /// Adds those; there is room for them.
    pub(crate) fn extend(&mut self, objects: &[*mut u8]) {
        self.objects[self.len..][..objects.len()].copy_from_slice(objects);
        self.len += objects.len();
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.len == Self::CAPACITY
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// How many more it has room for.
    pub(crate) const fn room(&self) -> usize {
        Self::CAPACITY - self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies all to `place`, which has room for them; how many.
    pub(crate) fn copy_to(&self, place: &mut [*mut u8]) -> usize {
        let nr = self.len.min(place.len());
        place[..nr].copy_from_slice(&self.objects[..nr]);
        nr
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = NonNull<u8>> + '_ {
        let objects = self.objects.iter().take(self.len);
        objects.filter_map(|object| NonNull::new(*object))
    }
}
