//! A whole-zone check for tests, self-tests and audits.

use core::fmt;

use kmm_frame::{MAX_ORDER, MigrateType, NR_ORDERS, Order, Pfn, PfnRange};

use crate::areas::FreeAreas;
use crate::bits::{FRAMES, WORD_BITS};
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
    /// The number of blocks of an order in a pageblock differs from its frames (INV-2).
    WrongState(Pfn, Order),
    /// The summary says that a pageblock of a type has a free block of this order, or that it has none, and is wrong
    /// (INV-5, INV-6).
    WrongSummary(Pfn, MigrateType, Order),
    /// The type noted with the free blocks of a pageblock is not its own (INV-6).
    WrongType(Pfn),
    /// The number of free blocks of a type and order differs from what is counted (INV-5).
    WrongCount(MigrateType, Order),
    /// The number of free frames of a type differs from the blocks (INV-5).
    WrongTotal(MigrateType),
    /// The number of pageblocks that are kept back differs from the types (INV-5).
    WrongReserve,
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
            Self::WrongState(pfn, order) => {
                write!(
                    f,
                    "blocks of order {order} in pageblock {pfn} are miscounted"
                )
            }
            Self::WrongSummary(pfn, kind, order) => {
                write!(
                    f,
                    "pageblock {pfn} and the summary of {kind:?} order {order} differ"
                )
            }
            Self::WrongType(pfn) => write!(f, "pageblock {pfn} is taken for another type"),
            Self::WrongCount(kind, order) => {
                write!(f, "{kind:?} blocks of order {order} are miscounted")
            }
            Self::WrongTotal(kind) => write!(f, "{kind:?} free frames are miscounted"),
            Self::WrongReserve => f.write_str("pageblocks of the reserve are miscounted"),
        }
    }
}

impl core::error::Error for Broken {}

/// Blocks by order, or by type and order.
type Tally = [usize; NR_ORDERS];

impl Buddy {
    /// Looks at every bit of the zone. O(n) in frames.
    ///
    /// # Errors
    /// The first violation found.
    pub fn validate(&self) -> Result<(), Broken> {
        self.areas().validate(self.range())?;
        if self.count_reserved() != self.nr_reserved() {
            return Err(Broken::WrongReserve);
        }
        Ok(())
    }
}

impl FreeAreas {
    fn validate(&self, zone: PfnRange) -> Result<(), Broken> {
        let mut counts = [[0; NR_ORDERS]; MigrateType::COUNT];
        for slot in 0..self.nr_slots() {
            self.validate_frames(slot, zone)?;
            self.validate_whole(slot, zone)?;
            self.validate_summary(slot)?;
            let of_kind = &mut counts[self.kind(slot).index()];
            for (order, count) in Order::all().zip(of_kind) {
                *count += self.nr_blocks(slot, order);
            }
        }
        for (kind, counts) in MigrateType::ALL.into_iter().zip(counts) {
            for (order, count) in Order::all().zip(counts) {
                let is_sound = self.summary().is_sound(kind, order.index());
                if count != self.nr_free(kind, order) || !is_sound {
                    return Err(Broken::WrongCount(kind, order));
                }
            }
            let pages = counts
                .iter()
                .enumerate()
                .map(|(order, count)| count << order);
            if pages.sum::<usize>() != self.nr_pages(kind) {
                return Err(Broken::WrongTotal(kind));
            }
        }
        Ok(())
    }

    /// The bits of frames against the numbers of blocks, by trying all blocks.
    fn validate_frames(&self, slot: usize, zone: PfnRange) -> Result<(), Broken> {
        let (start, state) = (self.start_of(slot), self.state(slot));
        let mut tally: Tally = [0; NR_ORDERS];
        let mut at = 0;
        while state.is_known() && at < FRAMES {
            let Some(order) = self.largest_at(slot, at) else {
                at += 1;
                continue;
            };
            let pfn = start + at;
            let block = FreeBlock { pfn, order };
            if state.is_whole() {
                return Err(Broken::Overlap(block));
            }
            if order == Order::PAGEBLOCK {
                return Err(Broken::Unmerged(block));
            }
            if !zone.contains_range(block.range()) {
                return Err(Broken::Misplaced(block));
            }
            tally[order.index()] += 1;
            at += order.nr_pages();
        }
        for order in Order::ZERO.up_to(Order::PAGEBLOCK) {
            if tally[order.index()] != state.count(order.index()) {
                return Err(Broken::WrongState(start, order));
            }
        }
        Ok(())
    }

    /// Pageblocks that are free as a whole, and types.
    fn validate_whole(&self, slot: usize, zone: PfnRange) -> Result<(), Broken> {
        let (pfn, order) = (self.start_of(slot), Order::PAGEBLOCK);
        let block = FreeBlock { pfn, order };
        if self.state(slot).is_whole() && !zone.contains_range(block.range()) {
            return Err(Broken::Misplaced(block));
        }
        if !self.has_its_type(slot) {
            return Err(Broken::WrongType(pfn));
        }
        Ok(())
    }

    /// How many blocks of an order begin in a pageblock.
    fn nr_blocks(&self, slot: usize, order: Order) -> usize {
        let state = self.state(slot);
        if order < Order::PAGEBLOCK {
            return state.count(order.index());
        }
        let is_whole = |slot: usize| self.state(slot).is_whole();
        let twin = slot ^ 1;
        let is_paired = is_whole(twin) && self.kind(slot) == self.kind(twin);
        let is_this = if order == MAX_ORDER {
            is_paired && slot < twin
        } else {
            !is_paired
        };
        usize::from(is_whole(slot) && is_this)
    }

    fn validate_summary(&self, slot: usize) -> Result<(), Broken> {
        let largest = Order::all()
            .rev()
            .find(|&order| self.nr_blocks(slot, order) != 0);
        for kind in MigrateType::ALL {
            for order in Order::all() {
                let expected = largest == Some(order) && kind == self.kind(slot);
                if self.summary().test(kind, slot, order.index()) != expected {
                    return Err(Broken::WrongSummary(self.start_of(slot), kind, order));
                }
            }
        }
        Ok(())
    }

    /// The largest aligned block of free frames that begins at a frame of a pageblock.
    fn largest_at(&self, slot: usize, at: usize) -> Option<Order> {
        let is_free = |at: usize| self.words(slot)[at / WORD_BITS] >> (at % WORD_BITS) & 1 != 0;
        let fits = |order: &Order| {
            let size = order.nr_pages();
            at % size == 0 && (at..at + size).all(is_free)
        };
        Order::ZERO
            .up_to_max()
            .take_while(|order| *order <= Order::PAGEBLOCK && fits(order))
            .last()
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
    use crate::state::State;
    use crate::{FreeBits, Pageblock, Pageblocks};

    /// 4096 frames: 32 from 0, 8 from 40, 8 from 56, and all from 1024 on are free.
    fn sound() -> Buddy {
        let range = PfnRange::new(Pfn::new(0), Pfn::new(4096));
        let pages: Vec<Page> = range.iter().map(|_| Page::new()).collect();
        let map = MemMap::new(range, pages.leak()).unwrap();
        range
            .iter()
            .for_each(|pfn| map.page(pfn).clear(PageFlags::RESERVED));
        let storage = vec![FreeBits::FULL; Buddy::storage_for(range)];
        let types: Vec<Pageblock> = (0..Pageblocks::count_for(range))
            .map(|_| Pageblock::new())
            .collect();
        let types = Pageblocks::new(range, types.leak()).unwrap();
        let mut buddy = Buddy::new(range, map, storage.leak(), types).unwrap();
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

    /// Frees a frame that is not, or the other way round, and tells nobody.
    fn flip(areas: &mut FreeAreas, pfn: usize) {
        let (word, bit) = areas.place(Pfn::new(pfn));
        areas.flip(word, bit);
    }

    #[test]
    fn validate_finds_what_is_spoiled() {
        use MigrateType::{Cma, Movable};
        type Spoil = Box<dyn Fn(&mut FreeAreas)>;
        let flipped = |pfn| -> Spoil { Box::new(move |areas| flip(areas, pfn)) };
        let at = |slot, change: fn(State) -> State| -> Spoil {
            Box::new(move |areas| areas.set_state(slot, change(areas.state(slot))))
        };
        let summary = |slot, order: u8| -> Spoil {
            Box::new(move |areas| areas.summary_mut().claim(Movable, slot, usize::from(order)))
        };
        let order = |order| block(0, order).order;
        let (first, second, third) = (Pfn::ZERO, Pfn::new(512), Pfn::new(1024));
        let cases: [(Spoil, Broken); 14] = [
            // Frames against the numbers of blocks.
            (flipped(7), Broken::WrongState(first, order(0))),
            (flipped(48), Broken::WrongState(first, order(0))),
            (
                at(0, |state| state.plus(3)),
                Broken::WrongState(first, order(3)),
            ),
            (
                at(0, |state| state.minus(5)),
                Broken::WrongState(first, order(5)),
            ),
            // A frame of a block that is more than a pageblock, once in its lower and once in its upper half.
            (flipped(1027), Broken::Overlap(block(1027, 0))),
            (flipped(1536), Broken::Overlap(block(1536, 0))),
            // Whole pageblocks that are not, and the other way round.
            (
                at(0, |state| state.with_all().with_known()),
                Broken::Overlap(block(0, 5)),
            ),
            (
                at(0, State::with_all),
                Broken::WrongSummary(first, Movable, order(5)),
            ),
            (
                at(1, State::with_all),
                Broken::WrongSummary(second, Movable, order(9)),
            ),
            (
                at(2, State::with_none),
                Broken::WrongSummary(third, Movable, MAX_ORDER),
            ),
            (
                at(3, State::with_none),
                Broken::WrongSummary(third, Movable, order(9)),
            ),
            (
                at(1, |state| state.with_kind(Cma)),
                Broken::WrongType(second),
            ),
            // Summaries.
            (
                summary(0, 4),
                Broken::WrongSummary(first, Movable, order(4)),
            ),
            (
                Box::new(|areas| areas.summary_mut().claim(Cma, 0, 3)),
                Broken::WrongSummary(first, Cma, order(3)),
            ),
        ];
        for (nr, (spoil, expected)) in cases.into_iter().enumerate() {
            let mut buddy = sound();
            spoil(buddy.areas_mut());
            assert_eq!(buddy.validate(), Err(expected), "{nr}");
        }
        let mut buddy = sound();
        buddy.areas_mut().summary_mut().spoil();
        let found = buddy.validate();
        assert_eq!(found, Err(Broken::WrongCount(Movable, Order::ZERO)));
        let mut buddy = sound();
        buddy.areas_mut().forget_pages(Movable, 1);
        assert_eq!(buddy.validate(), Err(Broken::WrongTotal(Movable)));
        let mut buddy = sound();
        buddy.areas_mut().set_kind(0, MigrateType::HighAtomic);
        assert_eq!(buddy.validate(), Err(Broken::WrongReserve));
    }

    #[test]
    fn what_storage_holds_does_not_matter() {
        let mut buddy = sound();
        let all = buddy.nr_free_pages();
        let mut pages = Vec::new();
        while let Ok(pfn) = buddy.take(block(0, 7).order, MigrateType::Unmovable) {
            pages.push((pfn, 7));
            buddy.validate().unwrap();
        }
        let mut singles = Vec::new();
        buddy.take_pages(all, MigrateType::Movable, |pfn| singles.push(pfn));
        assert_eq!(buddy.nr_free_pages(), 0);
        // Into pageblocks that were never used, too.
        pages.extend((512..1024).map(|pfn| (Pfn::new(pfn), 0)));
        pages.extend(singles.into_iter().map(|pfn| (pfn, 0)));
        for (nr, (pfn, order)) in pages.into_iter().enumerate() {
            buddy.put(pfn, block(0, order).order).unwrap();
            if nr % 50 == 0 {
                buddy.validate().unwrap();
            }
        }
        buddy.validate().unwrap();
        assert_eq!(buddy.nr_free_pages(), all + 512);
    }

    #[test]
    fn twins_that_are_free_are_one_block() {
        let mut buddy = sound();
        buddy.set_type(Pfn::new(1024), MigrateType::Cma);
        buddy.validate().unwrap();
        assert_eq!(buddy.nr_free(Order::PAGEBLOCK), 2);
        buddy.set_type(Pfn::new(1024), MigrateType::Movable);
        buddy.validate().unwrap();
        assert_eq!(buddy.nr_free(Order::PAGEBLOCK), 0);
        buddy
            .areas_mut()
            .summary_mut()
            .claim(MigrateType::Movable, 3, 9);
        let found = buddy.validate();
        let expected = Broken::WrongSummary(Pfn::new(1536), MigrateType::Movable, Order::PAGEBLOCK);
        assert_eq!(found, Err(expected));
    }

    #[test]
    fn blocks_beyond_the_zone_are_found() {
        let mut buddy = sound();
        let cut = |end| PfnRange::new(Pfn::ZERO, Pfn::new(end));
        let areas = buddy.areas_mut();
        let whole = areas.validate(cut(4095));
        assert_eq!(whole, Err(Broken::Misplaced(block(3584, 9))));
        let small = areas.validate(cut(60));
        assert_eq!(small, Err(Broken::Misplaced(block(56, 3))));
    }
}
