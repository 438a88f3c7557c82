//! Which pageblocks of a type have what: for each type and order a tree of bits, 64 to a word, of the pageblocks whose
//! largest free block is of that order.
//!
//! Each pageblock has one bit at most, so that few bits change when blocks split and merge.
//!
//! The words of all orders that speak of the same pageblocks lie side by side, in one row of 128 bytes; the rows of a type
//! lie together.

use kmm_frame::{MigrateType, NR_ORDERS, Order};

use crate::bits::{FreeBits, NR_WORDS, WORD_BITS};
use crate::state::NONE;

/// Levels that a tree over all frames of a 64-bit machine has.
const MAX_LEVELS: usize = 8;

const _: () = assert!(NR_ORDERS <= NR_WORDS);

/// A tree of bits for each type and order, the lowest level first in the rows of each type.
#[derive(Debug)]
pub(crate) struct Summary {
    rows: &'static mut [FreeBits],
    /// Rows of each type.
    stride: usize,
    nr_levels: usize,
    /// Where each level starts in the rows of a type.
    starts: [usize; MAX_LEVELS],
    /// By type. Bit `n` is set while the tree of order `n` has a bit.
    nonempty: [u32; MigrateType::COUNT],
}

impl Summary {
    /// How many rows the trees over `nr_blocks` pageblocks have.
    pub(crate) const fn rows_for(nr_blocks: usize) -> usize {
        let mut level = nr_blocks.div_ceil(WORD_BITS);
        let mut sum = level;
        while level > 1 {
            level = level.div_ceil(WORD_BITS);
            sum += level;
        }
        MigrateType::COUNT * sum
    }

    /// Trees over `nr_blocks` pageblocks, none of which has anything; `rows` are clear, and as many as
    /// [`Summary::rows_for`] says.
    pub(crate) fn new(nr_blocks: usize, rows: &'static mut [FreeBits]) -> Self {
        let (mut starts, mut nr_levels, mut start) = ([0; MAX_LEVELS], 0, 0);
        let mut level = nr_blocks;
        let stride = rows.len() / MigrateType::COUNT;
        while start < stride {
            level = level.div_ceil(WORD_BITS);
            starts[nr_levels] = start;
            start += level;
            nr_levels += 1;
        }
        Self {
            rows,
            stride,
            nr_levels,
            starts,
            nonempty: [0; MigrateType::COUNT],
        }
    }

    /// The orders of the largest free blocks of all pageblocks of a type, as bits.
    #[inline]
    pub(crate) const fn nonempty(&self, kind: MigrateType) -> u32 {
        self.nonempty[kind.index()]
    }

    /// Says that the largest free block of a pageblock of a type was of one order, and is of another; [`NONE`] if it has
    /// no free block.
    #[inline]
    pub(crate) fn replace(&mut self, kind: MigrateType, block: usize, before: usize, after: usize) {
        let row = &mut self.rows[self.stride * kind.index() + block / WORD_BITS];
        let bit = 1 << (block % WORD_BITS);
        let mut is_first = false;
        if after != NONE {
            let word = row.word_mut(after);
            is_first = *word == 0;
            *word |= bit;
        }
        if before != NONE {
            let word = row.word_mut(before);
            *word &= !bit;
            if *word == 0 {
                self.clear_above(kind, block / WORD_BITS, before);
            }
        }
        if is_first {
            self.set_above(kind, block / WORD_BITS, after);
        }
    }

    /// Not inlined, as is its like: the compiler would prepare all levels ahead of need.
    #[inline(never)]
    fn set_above(&mut self, kind: MigrateType, mut at: usize, order: usize) {
        let first = self.stride * kind.index();
        for start in &self.starts[1..self.nr_levels.max(1)] {
            let word = self.rows[first + start + at / WORD_BITS].word_mut(order);
            let before = *word;
            *word |= 1 << (at % WORD_BITS);
            if before != 0 {
                return;
            }
            at /= WORD_BITS;
        }
        self.nonempty[kind.index()] |= 1 << order;
    }

    #[inline(never)]
    fn clear_above(&mut self, kind: MigrateType, mut at: usize, order: usize) {
        let first = self.stride * kind.index();
        for start in &self.starts[1..self.nr_levels.max(1)] {
            let word = self.rows[first + start + at / WORD_BITS].word_mut(order);
            *word &= !(1 << (at % WORD_BITS));
            if *word != 0 {
                return;
            }
            at /= WORD_BITS;
        }
        self.nonempty[kind.index()] &= !(1 << order);
    }

    /// The first pageblock of a type whose largest free block is of `order`.
    #[inline]
    pub(crate) fn first(&self, kind: MigrateType, order: usize) -> Option<usize> {
        self.descend(kind, |row| row.word(order))
    }

    /// The first pageblock of a type that has a free block smaller than itself.
    #[inline]
    pub(crate) fn first_fragmented(&self, kind: MigrateType) -> Option<usize> {
        const SMALLER: usize = Order::PAGEBLOCK.index();
        self.descend(kind, |row| {
            (0..SMALLER).fold(0, |all, order| all | row.word(order))
        })
    }

    /// Whether the largest free block of a pageblock is said to be of `order`, and the type.
    #[inline]
    pub(crate) fn test(&self, kind: MigrateType, block: usize, order: usize) -> bool {
        let row = &self.rows[self.stride * kind.index() + block / WORD_BITS];
        row.word(order) >> (block % WORD_BITS) & 1 != 0
    }

    /// Whether each bit above the lowest level says what is below it.
    pub(crate) fn is_sound(&self, kind: MigrateType, order: usize) -> bool {
        let rows = &self.rows[self.stride * kind.index()..][..self.stride];
        let top = rows.last().map_or(0, |row| row.word(order));
        if (top != 0) != (self.nonempty(kind) & 1 << order != 0) {
            return false;
        }
        (1..self.nr_levels).all(|level| {
            let (below, here) = (self.starts[level - 1], self.starts[level]);
            (below..here).all(|row| {
                let at = row - below;
                let said = rows[here + at / WORD_BITS].word(order) >> (at % WORD_BITS) & 1;
                (said != 0) == (rows[row].word(order) != 0)
            })
        })
    }

    /// Says what is not so of a pageblock.
    #[cfg(test)]
    pub(crate) fn claim(&mut self, kind: MigrateType, block: usize, order: usize) {
        self.replace(kind, block, NONE, order);
    }

    /// Says that a movable block of order 0 is free where none is.
    #[cfg(test)]
    pub(crate) const fn spoil(&mut self) {
        self.nonempty[MigrateType::Movable.index()] |= 1;
    }

    #[inline]
    fn descend(&self, kind: MigrateType, word_of: impl Fn(&FreeBits) -> u64) -> Option<usize> {
        let first = self.stride * kind.index();
        let mut at = 0;
        for start in self.starts[..self.nr_levels].iter().rev() {
            let word = word_of(&self.rows[first + start + at]);
            if word == 0 {
                return None;
            }
            at = at * WORD_BITS + word.trailing_zeros() as usize;
        }
        (self.nr_levels != 0).then_some(at)
    }
}
