//! A whole-zone check for tests, self-tests and audits.

use core::fmt;

use kmm_frame::{MAX_ORDER, NR_ORDERS, Order, Pfn, PfnRange};

use crate::areas::FreeAreas;
use crate::bits::Node;
use crate::{Buddy, FreeBlock};

/// What [`Buddy::validate`] found wrong: which invariant of MODEL.md does not hold, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// A free block leaves the zone (INV-1).
    Misplaced(FreeBlock),
    /// A block inside a free block is free too (INV-3).
    Overlap(FreeBlock),
    /// A block and its buddy are both free and were not merged (INV-4).
    Unmerged(FreeBlock),
    /// The summary says that a pageblock has a free block of this order, or that it has none, and is wrong (INV-5).
    WrongSummary(Pfn, Order),
    /// The number of free blocks of an order differs from what is counted (INV-5).
    WrongCount(Order),
    /// The number of free frames differs from the blocks (INV-5).
    WrongTotal,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misplaced(b) => {
                write!(f, "free block {} of order {} is misplaced", b.pfn, b.order)
            }
            Self::Overlap(b) => {
                write!(f, "block {} of order {} is free twice", b.pfn, b.order)
            }
            Self::Unmerged(b) => write!(f, "block {} of order {} is unmerged", b.pfn, b.order),
            Self::WrongSummary(pfn, order) => {
                write!(f, "pageblock {pfn} and the summary of order {order} differ")
            }
            Self::WrongCount(order) => write!(f, "blocks of order {order} are miscounted"),
            Self::WrongTotal => f.write_str("free frames are miscounted"),
        }
    }
}

impl core::error::Error for Broken {}

impl Buddy {
    /// Looks at every bit of the zone. O(n) in frames.
    ///
    /// # Errors
    /// The first violation found.
    pub fn validate(&self) -> Result<(), Broken> {
        self.areas().validate(self.range())?;
        let free_pages = |order: Order| self.nr_free(order) * order.nr_pages();
        if Order::all().map(free_pages).sum::<usize>() != self.nr_free_pages() {
            return Err(Broken::WrongTotal);
        }
        Ok(())
    }
}

impl FreeAreas {
    fn validate(&self, zone: PfnRange) -> Result<(), Broken> {
        let mut counts = [0; NR_ORDERS];
        for slot in 0..self.nr_slots() {
            self.validate_pageblock(slot, zone, &mut counts)?;
        }
        for order in Order::all() {
            if counts[order.index()] != self.nr_free(order) || !self.is_counted(order) {
                return Err(Broken::WrongCount(order));
            }
        }
        Ok(())
    }

    fn validate_pageblock(
        &self,
        slot: usize,
        zone: PfnRange,
        counts: &mut [usize; NR_ORDERS],
    ) -> Result<(), Broken> {
        for order in Order::all() {
            let mut count = 0;
            for pfn in self.blocks_in(slot, order) {
                let block = FreeBlock { pfn, order };
                if !zone.contains_range(block.range()) {
                    return Err(Broken::Misplaced(block));
                }
                if self.is_in_another(slot, block) {
                    return Err(Broken::Overlap(block));
                }
                if order != MAX_ORDER && self.has_block(pfn.buddy(order), order) {
                    return Err(Broken::Unmerged(block));
                }
                count += 1;
            }
            if self.is_summarised(slot, order) != (count > 0) {
                return Err(Broken::WrongSummary(self.start_of(slot), order));
            }
            counts[order.index()] += count;
        }
        Ok(())
    }

    /// Whether a larger free block holds this one.
    fn is_in_another(&self, slot: usize, block: FreeBlock) -> bool {
        let order = block.order.index();
        match block.order {
            MAX_ORDER => false,
            Order::PAGEBLOCK => self.is_summarised(slot & !1, MAX_ORDER),
            _ => {
                let parent = Node::of(block.pfn, order).parent();
                self.is_whole(slot) || self.bits(slot).is_held(parent, order + 1)
            }
        }
    }

    fn has_block(&self, pfn: Pfn, order: Order) -> bool {
        let slot = self.slot(pfn);
        self.blocks_in(slot, order).any(|other| other == pfn)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    use kmm_frame::{MemMap, Page, PageFlags};

    use super::*;
    use crate::{FreeBits, Pageblocks};

    /// 4096 frames: 32 from 0, 8 from 40, 8 from 56, and all from 1024 on are free.
    fn sound() -> Buddy {
        let range = PfnRange::new(Pfn::new(0), Pfn::new(4096));
        let pages: Vec<Page> = range.iter().map(|_| Page::new()).collect();
        let map = MemMap::new(range, pages.leak()).unwrap();
        range
            .iter()
            .for_each(|pfn| map.page(pfn).clear(PageFlags::RESERVED));
        let storage = vec![FreeBits::EMPTY; Buddy::storage_for(range)];
        let mut buddy = Buddy::new(range, map, storage.leak(), Pageblocks::EMPTY).unwrap();
        for (start, end) in [(0, 32), (40, 48), (56, 64), (1024, 4096)] {
            let range = PfnRange::new(Pfn::new(start), Pfn::new(end));
            buddy.add_free_range(range).unwrap();
        }
        buddy.validate().unwrap();
        buddy
    }

    fn block(pfn: usize, order: u8) -> FreeBlock {
        FreeBlock {
            pfn: Pfn::new(pfn),
            order: Order::new(order).unwrap(),
        }
    }

    /// Frees a block that is not, or the other way round, and tells nobody.
    fn flip(areas: &mut FreeAreas, pfn: usize, order: usize) {
        let (pfn, slot) = (Pfn::new(pfn), areas.slot(Pfn::new(pfn)));
        if order >= Order::PAGEBLOCK.index() {
            return areas.summary_mut().set(slot, order);
        }
        let node = Node::of(pfn, order);
        let bits = areas.bits_mut(slot);
        if bits.test(node) {
            bits.unset(node);
        } else {
            bits.set(node);
        }
    }

    #[test]
    fn validate_finds_what_is_spoiled() {
        type Spoil = Box<dyn Fn(&mut FreeAreas)>;
        let flipped = |pfn, order| -> Spoil { Box::new(move |areas| flip(areas, pfn, order)) };
        let summary = |order: Order| Broken::WrongSummary(Pfn::ZERO, order);
        let cases: [(Spoil, Broken); 11] = [
            // A frame of a free block, and a block that holds free blocks.
            (flipped(7, 0), Broken::Overlap(block(7, 0))),
            (flipped(32, 5), Broken::Overlap(block(40, 3))),
            (flipped(2560, 9), Broken::Overlap(block(2560, 9))),
            (flipped(0, 9), Broken::Overlap(block(40, 3))),
            (flipped(0, 10), Broken::Overlap(block(40, 3))),
            (flipped(1024, 3), Broken::Overlap(block(1024, 3))),
            (flipped(512, 9), Broken::WrongCount(Order::PAGEBLOCK)),
            (flipped(48, 3), Broken::Unmerged(block(48, 3))),
            // Bits that the counts and the summary know nothing of.
            (
                flipped(600, 3),
                Broken::WrongSummary(Pfn::new(512), block(0, 3).order),
            ),
            (flipped(100, 3), Broken::WrongCount(block(0, 3).order)),
            (flipped(0, 5), summary(block(0, 5).order)),
        ];
        for (spoil, expected) in cases {
            let mut buddy = sound();
            spoil(buddy.areas_mut());
            assert_eq!(buddy.validate(), Err(expected));
        }
        let mut buddy = sound();
        buddy.areas_mut().summary_mut().spoil();
        assert_eq!(buddy.validate(), Err(Broken::WrongCount(Order::ZERO)));
    }

    #[test]
    fn blocks_beyond_the_zone_are_found() {
        let mut buddy = sound();
        let cut = PfnRange::new(Pfn::ZERO, Pfn::new(4095));
        let found = buddy.areas_mut().validate(cut);
        assert_eq!(found, Err(Broken::Misplaced(block(3072, 10))));
    }
}
