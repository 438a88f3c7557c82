//! Freed objects that wait before anybody gets them again, so that whoever still writes to one is found out.
//!
//! First in, first out, chained through the word behind each object that the free list has while it is free. Whoever writes to
//! a link is noticed, as what it leads to then is no object that waits; the chain is made anew from the marks of all objects.
//! To the slab all of them are in use.

use core::ptr::{self, NonNull};

use super::Violation;
use super::object::{read_link, write_link, wrong_link};
use crate::geometry::Geometry;

/// The chain, for whoever holds the cache's lock.
#[derive(Debug)]
pub(crate) struct Quarantine {
    first: *mut u8,
    last: *mut u8,
    nr: usize,
}

// SAFETY: the objects are the allocator's own while they wait, whoever holds the lock.
#[expect(unsafe_code, reason = "pointers to objects that nobody else has")]
unsafe impl Send for Quarantine {}

/// Somebody has written to the link of this object, or to what says that the next one waits; nothing has changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BrokenChain {
    pub(crate) object: NonNull<u8>,
    /// The address of the next one, if the link is whole.
    pub(crate) next: usize,
}

impl Quarantine {
    pub(crate) const fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            nr: 0,
        }
    }

    /// Objects that wait.
    pub(crate) const fn len(&self) -> usize {
        self.nr
    }

    /// The last to wait from now on. `of` says how an object that waits is laid out.
    pub(crate) fn push(
        &mut self,
        object: NonNull<u8>,
        of: impl Fn(NonNull<u8>) -> Option<Geometry>,
    ) {
        set_link(object, &of, 0);
        match NonNull::new(self.last) {
            None => self.first = object.as_ptr(),
            Some(last) => set_link(last, &of, object.addr().get()),
        }
        self.last = object.as_ptr();
        self.nr += 1;
    }

    /// The one that has waited longest. `find` says which object that waits is at an address.
    ///
    /// # Errors
    /// [`BrokenChain`].
    pub(crate) fn pop(
        &mut self,
        of: impl Fn(NonNull<u8>) -> Option<Geometry>,
        find: impl Fn(usize) -> Option<NonNull<u8>>,
    ) -> Result<Option<NonNull<u8>>, BrokenChain> {
        let Some(object) = NonNull::new(self.first) else {
            return Ok(None);
        };
        let next = self.behind(object, &of, find)?;
        self.first = next.map_or(ptr::null_mut(), NonNull::as_ptr);
        if next.is_none() {
            self.last = ptr::null_mut();
        }
        self.nr -= 1;
        Ok(Some(object))
    }

    /// Calls `visit` with each, the oldest first.
    ///
    /// # Errors
    /// [`BrokenChain`], after those before it.
    pub(crate) fn for_each(
        &self,
        of: impl Fn(NonNull<u8>) -> Option<Geometry>,
        find: impl Fn(usize) -> Option<NonNull<u8>>,
        mut visit: impl FnMut(NonNull<u8>),
    ) -> Result<(), BrokenChain> {
        let mut at = NonNull::new(self.first);
        for _ in 0..self.nr {
            let Some(object) = at else { break };
            visit(object);
            at = self.behind(object, &of, &find)?;
        }
        Ok(())
    }

    /// Begins anew, before each object that waits is pushed again.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    fn behind(
        &self,
        object: NonNull<u8>,
        of: impl Fn(NonNull<u8>) -> Option<Geometry>,
        find: impl Fn(usize) -> Option<NonNull<u8>>,
    ) -> Result<Option<NonNull<u8>>, BrokenChain> {
        let geometry = of(object).ok_or(BrokenChain { object, next: 0 })?;
        let link = read_link(object, &geometry) ^ key(object, &geometry);
        let next = usize::try_from(link).unwrap_or(usize::MAX);
        let found = find(next);
        let is_last = object.as_ptr() == self.last;
        if if is_last { next == 0 } else { found.is_some() } {
            Ok(found)
        } else {
            Err(BrokenChain { object, next })
        }
    }
}

impl BrokenChain {
    /// What is to be told of it.
    pub(crate) fn violation(self, geometry: &Geometry) -> Option<Violation> {
        wrong_link(self.object, geometry, key(self.object, geometry))
    }
}

/// One whose layout nobody knows any more keeps its link, which is found broken.
fn set_link(object: NonNull<u8>, of: impl Fn(NonNull<u8>) -> Option<Geometry>, next: usize) {
    if let Some(geometry) = of(object) {
        let link = key(object, &geometry) ^ next as u64;
        write_link(object, &geometry, link);
    }
}

/// What the link of an object is sealed with.
fn key(object: NonNull<u8>, geometry: &Geometry) -> u64 {
    (object.addr().get() as u64 ^ geometry.secret.rotate_left(13))
        .wrapping_mul(0xa076_1d64_78bd_642f)
}
