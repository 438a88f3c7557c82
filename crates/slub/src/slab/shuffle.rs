//! The free list of a new slab in random order, so that nobody knows which object comes behind his. Linux:
//! `CONFIG_SLAB_FREELIST_RANDOM`.

use super::state::NIL;
use super::{Slab, SlabKind};
use crate::geometry::Geometry;

/// Random numbers for one slab.
#[derive(Debug)]
pub(crate) struct Shuffle(u64);

impl Shuffle {
    /// Of the `nth` slab of some cache.
    pub(crate) const fn new(secret: u64, nth: u64) -> Self {
        Self(secret ^ nth.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// Puts object `index` anywhere into a list of all before it, `first` in front; which one is in front then.
    ///
    /// Each of the `index + 1` places is as likely, so in the end each order is, as far as the numbers are random.
    pub(super) fn insert<K: SlabKind>(
        &mut self,
        slab: &Slab,
        geometry: &Geometry,
        first: u16,
        index: u16,
    ) -> u16 {
        let Some(before) = self.below(index + 1).checked_sub(1) else {
            K::set_next(slab, geometry, index, first);
            return index;
        };
        let behind = K::next(slab, geometry, before).unwrap_or(NIL);
        K::set_next(slab, geometry, index, behind);
        K::set_next(slab, geometry, before, index);
        first
    }

    /// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    #[expect(clippy::cast_possible_truncation, reason = "less than `end`")]
    fn below(&mut self, end: u16) -> u16 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed >> 48) * u64::from(end)) >> 16) as u16
    }
}
