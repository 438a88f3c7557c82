//! SLAB: the free list is an array of numbers beside the objects, and nothing is ever written into a free one.
//!
//! Entry `i` says what follows object `i` on the free list, or that the object is in use. The array lies at the end of the slab;
//! for large objects it is memory of a small kmalloc cache, so that as many of them fit as if there were none (an eighth of a
//! page is Bonwick's limit). What is left over at the end moves the objects of each new slab back by another colour, so that the
//! same field of many objects does not fall into few lines of the CPU's cache.
//!
//! The array says exactly which objects are free. So a double free is found without a walk, and a client that writes to what it
//! has freed spoils other clients' data, but no list.
#![expect(
    unsafe_code,
    reason = "entries lie in the slab, or in memory of its own"
)]

use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

use kmm_frame::{Order, PAGE_SIZE};

use super::state::NIL;
use super::{Corrupt, Slab, SlabKind};
use crate::SlubError;
use crate::geometry::{CACHE_LINE_BYTES, Geometry, Request, WORD_BYTES};

/// SLAB (Bonwick 1994): an array of indices beside the objects, colours, state of free objects untouched.
#[derive(Clone, Copy, Debug)]
pub struct IndexArray(());

/// Objects from this size on have their array elsewhere. Linux: `OFF_SLAB_MIN_SIZE`.
const OFF_SLAB_FROM: usize = PAGE_SIZE / 8;
const ENTRY_BYTES: usize = size_of::<AtomicU16>();
/// The entry of an object in use: not [`NIL`], and no object's number.
const USED: u16 = NIL - 1;

impl SlabKind for IndexArray {
    const NAME: &'static str = "SLAB";
    const HAS_INDEX: bool = true;

    fn geometry(request: &Request) -> Result<Geometry, SlubError> {
        let bare = Geometry::new(request)?;
        // Nothing lies behind a constructed object.
        let stride = bare
            .object_size
            .saturating_add(request.redzone_bytes)
            .next_multiple_of(bare.align.max(WORD_BYTES));
        let beside = if stride < OFF_SLAB_FROM {
            ENTRY_BYTES
        } else {
            0
        };
        bare.packed(stride, beside, request.nr_cpus)
    }

    fn colour(geometry: &Geometry, order: Order, nth: u64) -> u8 {
        let taken = usize::from(geometry.objects(order)) * (geometry.stride + geometry.beside);
        let step = (CACHE_LINE_BYTES / geometry.align).max(1);
        let most = (order.size_bytes() - taken) / (step * geometry.align);
        let nr_colours = most.min(usize::from(u8::MAX) / step) as u64 + 1;
        u8::try_from(nth % nr_colours * step as u64).unwrap_or(0)
    }

    fn index_bytes(geometry: &Geometry, order: Order) -> usize {
        if geometry.beside == 0 {
            usize::from(geometry.objects(order)) * ENTRY_BYTES
        } else {
            0
        }
    }

    #[inline]
    fn next(slab: &Slab, geometry: &Geometry, index: u16) -> Result<u16, Corrupt> {
        let next = entry(slab, geometry, index).load(Relaxed);
        if next < slab.objects() || next == NIL {
            Ok(next)
        } else {
            Err(Corrupt(index))
        }
    }

    #[inline]
    fn set_next(slab: &Slab, geometry: &Geometry, index: u16, next: u16) {
        entry(slab, geometry, index).store(next, Relaxed);
    }

    #[inline]
    fn set_used(slab: &Slab, geometry: &Geometry, index: u16) {
        entry(slab, geometry, index).store(USED, Relaxed);
    }

    #[inline]
    fn looks_free(slab: &Slab, geometry: &Geometry, index: u16) -> bool {
        entry(slab, geometry, index).load(Relaxed) != USED
    }
}

/// The entry of an object.
#[inline]
fn entry<'a>(slab: &'a Slab, geometry: &Geometry, index: u16) -> &'a AtomicU16 {
    let state = slab.state();
    let objects = usize::from(state.objects());
    debug_assert!(usize::from(index) < objects, "entry {index} of {objects}");
    let first = if geometry.beside == 0 {
        let addr = usize::try_from(slab.page.index()).ok();
        let addr = addr.and_then(core::num::NonZero::new);
        slab.base.with_addr(addr.unwrap_or(slab.base.addr()))
    } else {
        let at = slab.order().size_bytes() - objects * ENTRY_BYTES;
        // SAFETY: within the slab (INV-1).
        unsafe { slab.base.add(at) }
    };
    // SAFETY: INV-12: one entry for each object.
    let entry = unsafe { first.cast::<AtomicU16>().add(usize::from(index)) };
    // SAFETY: INV-12: the entries live as long as the slab, at even addresses, and nobody has them but the slab.
    unsafe { entry.as_ref() }
}
