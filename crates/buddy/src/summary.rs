//! Which pageblocks of a type have what: for each type and order a tree of bits, 64 to a word, of the pageblocks whose
//! largest free block is of that order.
//!
//! Each pageblock has one bit at most, so that few bits change when blocks split and merge. Of two that are one block the
//! lower one has it: whether a pageblock that becomes free as a whole has a twin to join, the word of its own bit says.
//!
//! Of each tree one word is not told to the levels above, so that a tree of one word, or whose first pageblocks come and go,
//! costs the same whatever its height: the others all lie above that word in number ([`Heads`]).
//!
//! The words of all orders that speak of the same pageblocks lie side by side, in one row of 128 bytes; the rows of a type
//! lie together.

use kmm_frame::{MAX_ORDER, MigrateType, NR_ORDERS, Order};

use crate::bits::{FreeBits, NR_WORDS, WORD_BITS, bits};
use crate::state::NONE;

const WHOLE: usize = Order::PAGEBLOCK.index();
const PAIR: usize = MAX_ORDER.index();
/// The largest block that is left of a pageblock of which a part was taken.
const HALF: usize = WHOLE - 1;

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
    /// By type.
    heads: [Heads; MigrateType::COUNT],
}

/// What is known of the trees of a type without looking at them.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Heads {
    /// Bit `n` is set while the tree of order `n` has a bit.
    nonempty: u32,
    /// The same, of the levels above the lowest.
    above: u32,
    /// By order, the row whose word is not told to the levels above: no row below it has a bit.
    first: [u32; NR_ORDERS],
}

impl Heads {
    const EMPTY: Self = Self {
        nonempty: 0,
        above: 0,
        first: [0; NR_ORDERS],
    };
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
            heads: [Heads::EMPTY; MigrateType::COUNT],
        }
    }

    /// The orders of the largest free blocks of all pageblocks of a type, as bits.
    #[inline]
    pub(crate) const fn nonempty(&self, kind: MigrateType) -> u32 {
        self.heads[kind.index()].nonempty
    }

    /// Says that the largest free block of a pageblock of a type was of one order, and is of another; [`NONE`] if it has
    /// no free block.
    #[inline]
    pub(crate) fn replace(&mut self, kind: MigrateType, block: usize, before: usize, after: usize) {
        let at = block / WORD_BITS;
        let row = &mut self.rows[self.stride * kind.index() + at];
        let bit = bit(block);
        let (mut is_first, mut is_last) = (false, false);
        if after != NONE {
            let word = row.word_mut(after);
            is_first = *word == 0;
            *word |= bit;
        }
        if before != NONE {
            let word = row.word_mut(before);
            *word &= !bit;
            is_last = *word == 0;
        }
        if is_last {
            self.lose_row(kind, at, before);
        }
        if is_first {
            self.gain_row(kind, at, after);
        }
    }

    /// As [`Summary::take_whole`] of one pageblock, of which the largest block is [`HALF`] then.
    #[inline(always)]
    pub(crate) fn split_whole(&mut self, kind: MigrateType) -> Option<(usize, usize)> {
        let (block, from) = self.take_whole(kind)?;
        self.replace(kind, block, NONE, HALF);
        Some((block, from))
    }

    /// As [`Summary::join`], of a pageblock whose largest block was [`HALF`].
    #[inline(always)]
    pub(crate) fn complete(&mut self, kind: MigrateType, block: usize) -> usize {
        let at = block / WORD_BITS;
        let row = &mut self.rows[self.stride * kind.index() + at];
        let (own, twin) = (bit(block), bit(block ^ 1));
        let halves = row.word_mut(HALF);
        *halves &= !own;
        let is_last = *halves == 0;
        let alone = row.word_mut(WHOLE);
        let others = *alone & !twin;
        let is_alone = *alone == others;
        *alone = if is_alone { others | own } else { others };
        if is_last {
            self.lose_row(kind, at, HALF);
        }
        if !is_alone {
            self.pair_up(kind, block, others);
            return PAIR;
        }
        if others == 0 {
            self.gain_row(kind, at, WHOLE);
        }
        WHOLE
    }

    /// A pageblock, of which no block was told, is free as a whole: alone, or as one block with its twin of the same type; the
    /// order of that block.
    #[inline(always)]
    pub(crate) fn join(&mut self, kind: MigrateType, block: usize) -> usize {
        let at = block / WORD_BITS;
        let row = &mut self.rows[self.stride * kind.index() + at];
        let (own, twin) = (block % WORD_BITS, (block % WORD_BITS) ^ 1);
        let alone = row.word_mut(WHOLE);
        let before = *alone;
        // Without a jump, as it cannot be foreseen.
        let is_pair = before >> twin & 1;
        let after = (before | bit(block)) & !((is_pair << own) | (is_pair << twin));
        *alone = after;
        let pairs = row.word_mut(PAIR);
        let pairs_before = *pairs;
        *pairs |= is_pair << (own & !1);
        if before == 0 || after == 0 || pairs_before == 0 {
            self.told(kind, at, [before, after], [pairs_before, is_pair]);
        }
        WHOLE + is_pair as usize
    }

    /// What [`Summary::join`] has done to a row, where it may have made its first or taken its last.
    #[inline(never)]
    fn told(&mut self, kind: MigrateType, at: usize, alone: [u64; 2], pairs: [u64; 2]) {
        if alone[0] == 0 {
            self.gain_row(kind, at, WHOLE);
        } else if alone[1] == 0 {
            self.lose_row(kind, at, WHOLE);
        }
        if pairs[0] == 0 && pairs[1] != 0 {
            self.gain_row(kind, at, PAIR);
        }
    }

    /// A pageblock and its twin are one block now; which others of the row are alone.
    #[inline]
    fn pair_up(&mut self, kind: MigrateType, block: usize, others: u64) {
        let at = block / WORD_BITS;
        let pairs = self.rows[self.stride * kind.index() + at].word_mut(PAIR);
        let is_first = *pairs == 0;
        *pairs |= bit(block & !1);
        if others == 0 {
            self.lose_row(kind, at, WHOLE);
        }
        if is_first {
            self.gain_row(kind, at, PAIR);
        }
    }

    /// Takes the lowest pageblock of a type that is free as a whole and alone, else the lower half of the lowest pair; its
    /// number, and the order of the block that it was of.
    #[inline(always)]
    pub(crate) fn take_whole(&mut self, kind: MigrateType) -> Option<(usize, usize)> {
        if let Some(block) = self.take_first(kind, WHOLE) {
            return Some((block, WHOLE));
        }
        let block = self.take_first(kind, PAIR)?;
        let at = block / WORD_BITS;
        let alone = self.rows[self.stride * kind.index() + at].word_mut(WHOLE);
        let is_first = *alone == 0;
        *alone |= bit(block | 1);
        if is_first {
            self.gain_row(kind, at, WHOLE);
        }
        Some((block, PAIR))
    }

    /// Takes the lowest pageblock of a tree out of it.
    #[inline(always)]
    pub(crate) fn take_first(&mut self, kind: MigrateType, order: usize) -> Option<usize> {
        if self.nonempty(kind) >> order & 1 == 0 {
            return None;
        }
        loop {
            let heads = &mut self.heads[kind.index()];
            let at = heads.first[order] as usize;
            let word = self.rows[self.stride * kind.index() + at].word_mut(order);
            let before = *word;
            if before == 0 {
                self.next_row(kind, order);
                continue;
            }
            *word = before & (before - 1);
            if *word == 0 {
                // As in `lose_row`, of the first row.
                heads.nonempty &= !(1 << order) | heads.above;
            }
            return Some(at * WORD_BITS + before.trailing_zeros() as usize);
        }
    }

    /// A pageblock that is free as a whole is so no more; the order of the block that it was, or was a half of: the other is
    /// alone then.
    #[inline]
    pub(crate) fn leave(&mut self, kind: MigrateType, block: usize) -> usize {
        let at = block / WORD_BITS;
        let row = &mut self.rows[self.stride * kind.index() + at];
        let alone = row.word_mut(WHOLE);
        let others = *alone & !bit(block);
        if *alone != others {
            *alone = others;
            if others == 0 {
                self.lose_row(kind, at, WHOLE);
            }
            return WHOLE;
        }
        *alone |= bit(block ^ 1);
        let pairs = row.word_mut(PAIR);
        *pairs &= !bit(block & !1);
        let is_last = *pairs == 0;
        if is_last {
            self.lose_row(kind, at, PAIR);
        }
        if others == 0 {
            self.gain_row(kind, at, WHOLE);
        }
        PAIR
    }

    /// A row has a bit of an order now.
    #[inline]
    fn gain_row(&mut self, kind: MigrateType, at: usize, order: usize) {
        let heads = &mut self.heads[kind.index()];
        let was_empty = heads.nonempty >> order & 1 == 0;
        heads.nonempty |= 1 << order;
        if was_empty {
            heads.first[order] = row_number(at);
        } else if heads.first[order] != row_number(at) {
            self.gain_row_above(kind, at, order);
        }
    }

    /// Tells the levels above, of this row or of the one that was first.
    #[inline(never)]
    fn gain_row_above(&mut self, kind: MigrateType, at: usize, order: usize) {
        let first = self.heads[kind.index()].first[order] as usize;
        if at > first {
            return self.set_above(kind, at, order);
        }
        self.heads[kind.index()].first[order] = row_number(at);
        if self.row(kind, first).word(order) != 0 {
            self.set_above(kind, first, order);
        }
    }

    /// A row has no bit of an order any more.
    #[inline]
    fn lose_row(&mut self, kind: MigrateType, at: usize, order: usize) {
        let heads = &mut self.heads[kind.index()];
        if heads.first[order] == row_number(at) {
            // The next one is looked for when it is wanted: this one may come back before.
            heads.nonempty &= !(1 << order) | heads.above;
        } else {
            self.clear_above(kind, at, order);
        }
    }

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
        self.heads[kind.index()].above |= 1 << order;
    }

    /// Not inlined: the compiler would prepare all levels ahead of need.
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
        let heads = &mut self.heads[kind.index()];
        heads.above &= !(1 << order);
        let row = heads.first[order] as usize;
        if self.row(kind, row).word(order) == 0 {
            self.heads[kind.index()].nonempty &= !(1 << order);
        }
    }

    /// The first pageblock of a type whose largest free block is of `order`.
    #[inline]
    pub(crate) fn first(&mut self, kind: MigrateType, order: usize) -> Option<usize> {
        let has_some = self.nonempty(kind) >> order & 1 != 0;
        has_some.then(|| self.first_of(kind, order))
    }

    /// The same, of a tree that is not empty.
    #[inline(always)]
    pub(crate) fn first_of(&mut self, kind: MigrateType, order: usize) -> usize {
        let row = self.heads[kind.index()].first[order] as usize;
        match self.row(kind, row).word(order) {
            0 => self.first_of_next(kind, order),
            word => row * WORD_BITS + word.trailing_zeros() as usize,
        }
    }

    #[cold]
    #[inline(never)]
    fn first_of_next(&mut self, kind: MigrateType, order: usize) -> usize {
        let row = self.next_row(kind, order);
        let word = self.row(kind, row).word(order);
        row * WORD_BITS + word.trailing_zeros() as usize
    }

    /// The first pageblock of a type that has a free block smaller than itself.
    #[inline]
    pub(crate) fn first_fragmented(&mut self, kind: MigrateType) -> Option<usize> {
        const SMALLER: usize = Order::PAGEBLOCK.index();
        let mut orders = self.nonempty(kind) & ((1 << SMALLER) - 1);
        let mut first = usize::MAX;
        while orders != 0 {
            let order = orders.trailing_zeros() as usize;
            first = first.min(self.first_row(kind, order));
            orders &= orders - 1;
        }
        if first == usize::MAX {
            return None;
        }
        let row = self.row(kind, first);
        let word = (0..SMALLER).fold(0, |all, order| all | row.word(order));
        Some(first * WORD_BITS + word.trailing_zeros() as usize)
    }

    /// The pageblocks of a type in the last row of the tree of an order that has any.
    pub(crate) fn last_few(
        &self,
        kind: MigrateType,
        order: usize,
    ) -> impl Iterator<Item = usize> + use<> {
        let heads = &self.heads[kind.index()];
        let mut at = heads.first[order] as usize;
        if heads.above >> order & 1 != 0 {
            // All that the levels above know of is behind the first row.
            at = 0;
            for start in self.starts[..self.nr_levels].iter().skip(1).rev() {
                let word = self.row(kind, start + at).word(order);
                at = at * WORD_BITS + WORD_BITS - 1 - word.leading_zeros() as usize;
            }
        }
        let word = match heads.nonempty >> order & 1 {
            0 => 0,
            _ => self.row(kind, at).word(order),
        };
        bits(word).map(move |bit| at * WORD_BITS + bit)
    }

    #[inline]
    fn row(&self, kind: MigrateType, at: usize) -> &FreeBits {
        &self.rows[self.stride * kind.index() + at]
    }

    /// The first row of a tree that is not empty.
    #[inline]
    fn first_row(&mut self, kind: MigrateType, order: usize) -> usize {
        let first = self.heads[kind.index()].first[order] as usize;
        if self.row(kind, first).word(order) != 0 {
            first
        } else {
            self.next_row(kind, order)
        }
    }

    /// Goes on to the first row that the levels above know of.
    #[inline(never)]
    fn next_row(&mut self, kind: MigrateType, order: usize) -> usize {
        let first = self.stride * kind.index();
        let mut at = 0;
        for start in self.starts[..self.nr_levels].iter().skip(1).rev() {
            let word = self.rows[first + start + at].word(order);
            at = at * WORD_BITS + word.trailing_zeros() as usize;
        }
        self.heads[kind.index()].first[order] = row_number(at);
        self.clear_above(kind, at, order);
        at
    }

    /// Whether the largest free block of a pageblock is said to be of `order`, and the type.
    #[inline]
    pub(crate) fn test(&self, kind: MigrateType, block: usize, order: usize) -> bool {
        let row = &self.rows[self.stride * kind.index() + block / WORD_BITS];
        row.word(order) >> (block % WORD_BITS) & 1 != 0
    }

    /// Whether each bit above the lowest level says what is below it, but for the first word; and that is the first.
    pub(crate) fn is_sound(&self, kind: MigrateType, order: usize) -> bool {
        let rows = &self.rows[self.stride * kind.index()..][..self.stride];
        let heads = &self.heads[kind.index()];
        let first = heads.first[order] as usize;
        let lowest = &rows[..self.starts[1].min(self.stride)];
        let lowest = if self.nr_levels > 1 { lowest } else { rows };
        let found = lowest.iter().position(|row| row.word(order) != 0);
        let has_above = |row: &FreeBits| self.nr_levels > 1 && row.word(order) != 0;
        if found.is_some() != (heads.nonempty >> order & 1 != 0)
            || found.is_some_and(|found| found < first)
            || rows.last().is_some_and(has_above) != (heads.above >> order & 1 != 0)
        {
            return false;
        }
        (1..self.nr_levels).all(|level| {
            let (below, here) = (self.starts[level - 1], self.starts[level]);
            (below..here).all(|row| {
                let at = row - below;
                let said = rows[here + at / WORD_BITS].word(order) >> (at % WORD_BITS) & 1;
                let is_told = level > 1 || at != first;
                (said != 0) == (is_told && rows[row].word(order) != 0)
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
        self.heads[MigrateType::Movable.index()].nonempty |= 1;
    }
}

/// The bit of a pageblock in the words of its row.
#[inline]
const fn bit(block: usize) -> u64 {
    1 << (block % WORD_BITS)
}

/// Rows are fewer than pageblocks, and these fewer than 2^32.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below 2^32")]
const fn row_number(at: usize) -> u32 {
    at as u32
}
