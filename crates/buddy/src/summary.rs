//! Which pageblocks have a free block of an order: for each order a tree of bits, 64 to a word. A block of a pageblock or
//! more is nowhere else: one row has all that is to be known of 64 of them.
//!
//! The words of all orders that speak of the same pageblocks lie side by side, in one row of 128 bytes.

use kmm_frame::{MAX_ORDER, NR_ORDERS, Order};

use crate::bits::{FreeBits, NR_WORDS, WORD_BITS};

/// Levels that a tree over all frames of a 64-bit machine has.
const MAX_LEVELS: usize = 8;

const _: () = assert!(NR_ORDERS <= NR_WORDS);

/// A tree of bits for each order, the lowest level first in `rows`.
#[derive(Debug)]
pub(crate) struct Summary {
    rows: &'static mut [FreeBits],
    nr_levels: usize,
    /// Where each level starts in `rows`.
    starts: [usize; MAX_LEVELS],
    /// Bit `n` is set while the tree of order `n` has a bit.
    nonempty: u32,
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
        sum
    }

    /// Trees over `nr_blocks` pageblocks, none of which has anything; `rows` are clear, and as many as
    /// [`Summary::rows_for`] says.
    pub(crate) fn new(nr_blocks: usize, rows: &'static mut [FreeBits]) -> Self {
        let (mut starts, mut nr_levels, mut start) = ([0; MAX_LEVELS], 0, 0);
        let mut level = nr_blocks;
        while start < rows.len() {
            level = level.div_ceil(WORD_BITS);
            starts[nr_levels] = start;
            start += level;
            nr_levels += 1;
        }
        Self {
            rows,
            nr_levels,
            starts,
            nonempty: 0,
        }
    }

    /// The orders of which there is a free block, as bits.
    #[inline]
    pub(crate) const fn nonempty(&self) -> u32 {
        self.nonempty
    }

    /// Says that a pageblock has a free block of `order`.
    #[inline]
    pub(crate) fn set(&mut self, block: usize, order: usize) {
        let word = &mut self.rows[block / WORD_BITS].0[order % NR_WORDS];
        let before = *word;
        *word |= 1 << (block % WORD_BITS);
        if before == 0 {
            self.set_above(block / WORD_BITS, order);
        }
    }

    /// Not inlined, as are its like: the compiler would prepare all levels ahead of need.
    #[inline(never)]
    fn set_above(&mut self, mut at: usize, order: usize) {
        for start in &self.starts[1..self.nr_levels.max(1)] {
            let word = &mut self.rows[start + at / WORD_BITS].0[order % NR_WORDS];
            let before = *word;
            *word |= 1 << (at % WORD_BITS);
            if before != 0 {
                return;
            }
            at /= WORD_BITS;
        }
        self.nonempty |= 1 << order;
    }

    /// Says that a pageblock has no free block of `order` any more.
    #[inline]
    pub(crate) fn clear(&mut self, block: usize, order: usize) {
        let word = &mut self.rows[block / WORD_BITS].0[order % NR_WORDS];
        *word &= !(1 << (block % WORD_BITS));
        if *word == 0 {
            self.clear_above(block / WORD_BITS, order);
        }
    }

    #[inline(never)]
    fn clear_above(&mut self, mut at: usize, order: usize) {
        for start in &self.starts[1..self.nr_levels.max(1)] {
            let word = &mut self.rows[start + at / WORD_BITS].0[order % NR_WORDS];
            *word &= !(1 << (at % WORD_BITS));
            if *word != 0 {
                return;
            }
            at /= WORD_BITS;
        }
        self.nonempty &= !(1 << order);
    }

    /// The first pageblock that has a free block of `order`.
    #[inline]
    pub(crate) fn first(&self, order: usize) -> Option<usize> {
        self.descend(|row| row.0[order % NR_WORDS])
    }

    /// The first pageblock that has a free block smaller than itself.
    #[inline]
    pub(crate) fn first_fragmented(&self) -> Option<usize> {
        const SMALLER: usize = Order::PAGEBLOCK.index();
        self.descend(|row| row.0[..SMALLER].iter().fold(0, |all, word| all | word))
    }

    /// Whether a pageblock is said to have a free block of `order`.
    #[inline]
    pub(crate) fn test(&self, block: usize, order: usize) -> bool {
        let row = &self.rows[block / WORD_BITS].0;
        row[order % NR_WORDS] >> (block % WORD_BITS) & 1 != 0
    }

    /// Whether a pageblock is free as a whole, or is half of a block that is.
    #[inline]
    pub(crate) fn is_whole(&self, block: usize) -> bool {
        let row = &self.rows[block / WORD_BITS].0;
        let bits = row[Order::PAGEBLOCK.index()] | both_halves(row[MAX_ORDER.index()]);
        bits >> (block % WORD_BITS) & 1 != 0
    }

    /// Whether a frame of a pageblock, or of its twin if `order` is that of both, is free.
    #[inline]
    pub(crate) fn has_any(&self, block: usize, order: Order) -> bool {
        let row = &self.rows[block / WORD_BITS].0;
        let smaller = row[..MAX_ORDER.index()]
            .iter()
            .fold(0, |all, word| all | word);
        let bits = smaller | both_halves(row[MAX_ORDER.index()]);
        let mask = if order == MAX_ORDER { 0b11 } else { 0b1 };
        bits >> (block % WORD_BITS) & mask != 0
    }

    /// Whether each bit above the lowest level says what is below it.
    pub(crate) fn is_sound(&self, order: usize) -> bool {
        let top = self.rows.last().map_or(0, |row| row.0[order]);
        if (top != 0) != (self.nonempty & 1 << order != 0) {
            return false;
        }
        (1..self.nr_levels).all(|level| {
            let (below, here) = (self.starts[level - 1], self.starts[level]);
            (below..here).all(|row| {
                let at = row - below;
                let said = self.rows[here + at / WORD_BITS].0[order] >> (at % WORD_BITS) & 1;
                (said != 0) == (self.rows[row].0[order] != 0)
            })
        })
    }

    /// Says that a block of order 0 is free where none is.
    #[cfg(test)]
    pub(crate) const fn spoil(&mut self) {
        self.nonempty |= 1;
    }

    #[inline]
    fn descend(&self, word_of: impl Fn(&FreeBits) -> u64) -> Option<usize> {
        let mut at = 0;
        for start in self.starts[..self.nr_levels].iter().rev() {
            let word = word_of(&self.rows[start + at]);
            if word == 0 {
                return None;
            }
            at = at * WORD_BITS + word.trailing_zeros() as usize;
        }
        (self.nr_levels != 0).then_some(at)
    }
}

/// From the bits of blocks of [`MAX_ORDER`], at their first pageblocks, those of all their pageblocks.
const fn both_halves(bits: u64) -> u64 {
    bits | bits << 1
}
