//! SLUB: the free list threads the free objects themselves.
//!
//! A free object holds one word: the number of the next free object, and a tag made of its own address and the cache's
//! secret. A word whose tag does not fit was written by somebody else, and is not followed (INV-4). A tag that does fit at
//! a free says "probably free already", and the list is walked to be sure; so a double free costs a walk and all others a
//! compare.
#![expect(unsafe_code, reason = "free objects hold the free list")]

use core::ptr::NonNull;

use super::state::NIL;
use super::{Corrupt, Slab, SlabKind};
use crate::geometry::Geometry;

/// SLUB (Lameter 2007): all state in the descriptor, the free list in the free objects, nothing else.
#[derive(Clone, Copy, Debug)]
pub struct InObject(());

const TAG_MASK: u64 = !(NIL as u64);

impl SlabKind for InObject {
    const NAME: &'static str = "SLUB";

    #[inline]
    fn next(slab: &Slab, geometry: &Geometry, index: u16) -> Result<u16, Corrupt> {
        let object = slab.object(geometry, index);
        let word = word(object, geometry);
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        let next = word as u16;
        if word & TAG_MASK == tag(object, geometry) && (next < slab.objects() || next == NIL) {
            Ok(next)
        } else {
            Err(Corrupt(index))
        }
    }

    #[inline]
    fn set_next(slab: &Slab, geometry: &Geometry, index: u16, next: u16) {
        let object = slab.object(geometry, index);
        set_word(object, geometry, tag(object, geometry) | u64::from(next));
    }

    #[inline]
    fn set_used(slab: &Slab, geometry: &Geometry, index: u16) {
        // Else an object that its user never wrote to would look free when it is freed.
        set_word(slab.object(geometry, index), geometry, 0);
    }

    #[inline]
    fn looks_free(slab: &Slab, geometry: &Geometry, index: u16) -> bool {
        let object = slab.object(geometry, index);
        word(object, geometry) & TAG_MASK == tag(object, geometry)
    }
}

/// 48 bits that stand for an object's address.
#[inline]
fn tag(object: NonNull<u8>, geometry: &Geometry) -> u64 {
    (object.addr().get() as u64 ^ geometry.secret).wrapping_mul(0x9e37_79b9_7f4a_7c15) & TAG_MASK
}

#[inline]
fn word(object: NonNull<u8>, geometry: &Geometry) -> u64 {
    // SAFETY: the word lies within the object's stride (INV-1).
    let word = unsafe { object.add(geometry.word_at) }.cast::<u64>();
    // SAFETY: in the slab and aligned (INV-1); the object is free or being freed (INV-2).
    unsafe { word.read() }
}

#[inline]
fn set_word(object: NonNull<u8>, geometry: &Geometry, value: u64) {
    // SAFETY: the word lies within the object's stride (INV-1).
    let word = unsafe { object.add(geometry.word_at) }.cast::<u64>();
    // SAFETY: in the slab and aligned (INV-1); the object is free or being freed, by us (INV-2).
    unsafe { word.write(value) };
}
