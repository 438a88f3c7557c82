//! What the two kinds of slabs differ in: where the number of the next free object is kept.

use kmm_frame::Order;

use super::{Corrupt, Slab};
use crate::SlubError;
use crate::geometry::{Geometry, Request};

/// How the free objects of a slab are kept: the type that tells `Slub` and `Slab` apart.
///
/// Everything else is shared: the state word, the lists, the front. A kind keeps, for each object, the number of the one
/// behind it on the free list.
pub trait SlabKind: Sized + 'static {
    /// The name of the back end.
    const NAME: &'static str;
    /// Whether slabs of some caches need memory besides their pages.
    #[doc(hidden)]
    const HAS_INDEX: bool = false;

    /// How objects lie in the slabs of such a cache.
    ///
    /// # Errors
    /// What is wrong with the request.
    #[doc(hidden)]
    fn geometry(request: &Request) -> Result<Geometry, SlubError> {
        Geometry::new(request)
    }

    /// How far the next slab's objects are moved back, in units of [`Geometry::colour_bytes`]. `nth` counts the slabs of the
    /// cache.
    #[doc(hidden)]
    fn colour(geometry: &Geometry, order: Order, nth: u64) -> u8 {
        let _ = (geometry, order, nth);
        0
    }

    /// Bytes that a slab of `order` needs besides its pages; 0 for none. Its head's `index` says where they are.
    #[doc(hidden)]
    fn index_bytes(geometry: &Geometry, order: Order) -> usize {
        let _ = (geometry, order);
        0
    }

    /// The free object behind `index`, which is free.
    ///
    /// # Errors
    /// [`Corrupt`] when what is there was written by somebody else.
    #[doc(hidden)]
    fn next(slab: &Slab, geometry: &Geometry, index: u16) -> Result<u16, Corrupt>;

    /// Notes that `index` is free, with `next` behind it.
    #[doc(hidden)]
    fn set_next(slab: &Slab, geometry: &Geometry, index: u16, next: u16);

    /// Notes that `index` is in use.
    #[doc(hidden)]
    fn set_used(slab: &Slab, geometry: &Geometry, index: u16);

    /// Whether an object that is being freed looks as if it were free: the list is walked then. Never `false` of a free one
    /// that nobody has written to.
    #[doc(hidden)]
    fn looks_free(slab: &Slab, geometry: &Geometry, index: u16) -> bool;
}
