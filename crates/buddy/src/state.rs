//! How many free blocks of each order there are: of a pageblock in one word, of a zone in a few.
//!
//! All orders change in one addition: a block that comes back and merges up to order `l` is one more of order `l` and one
//! less of each order in between, whatever these are; a block that is split is the opposite.

#![expect(
    clippy::cast_possible_truncation,
    reason = "orders, numbers of bits, and counts below 2^32"
)]

use kmm_frame::{MAX_ORDER, NR_ORDERS, Order};

/// In place of an order: no block.
pub(crate) const NONE: usize = NR_ORDERS;

const PAGEBLOCK: usize = Order::PAGEBLOCK.index();

/// The blocks that begin in one pageblock: for each order a number.
///
/// Of two twins at most one is free, so that there are at most 256 of order 0, 128 of order 1 and so on: nine bits, eight
/// bits and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(pub(crate) u64);

/// Bits of the number of each order.
const fn width(order: usize) -> u32 {
    if order < PAGEBLOCK {
        (PAGEBLOCK - order) as u32
    } else {
        1
    }
}

/// Where the number of each order begins.
const OFFSETS: [u32; NR_ORDERS + 1] = {
    let mut offsets = [0; NR_ORDERS + 1];
    let mut order = 0;
    while order < NR_ORDERS {
        offsets[order + 1] = offsets[order] + width(order);
        order += 1;
    }
    offsets
};

/// All numbers, without the bits between them.
const NUMBERS: u64 = {
    let mut bits = 0;
    let mut order = 0;
    while order < NR_ORDERS {
        bits |= ((1 << width(order)) - 1) << OFFSETS[order];
        order += 1;
    }
    bits
};

/// The order whose number a bit is of.
const ORDER_AT: [u8; 64] = {
    let mut orders = [0; 64];
    let mut order = 0;
    while order < NR_ORDERS {
        let mut bit = OFFSETS[order];
        while bit < OFFSETS[order + 1] {
            orders[bit as usize] = order as u8;
            bit += 1;
        }
        order += 1;
    }
    orders
};

/// As [`ORDER_AT`], one bit up, and below it [`NONE`].
const LARGEST_AT: [u8; 64] = {
    let mut orders = [NONE as u8; 64];
    let mut bit = 0;
    while bit < OFFSETS[NR_ORDERS] as usize {
        orders[bit + 1] = ORDER_AT[bit];
        bit += 1;
    }
    orders
};

/// One block of an order, and none of those below it.
const MERGED: [u64; NR_ORDERS] = {
    let mut merged = [0; NR_ORDERS];
    let (mut order, mut below) = (0, 0);
    while order < NR_ORDERS {
        merged[order] = (1_u64 << OFFSETS[order]).wrapping_sub(below);
        below += 1 << OFFSETS[order];
        order += 1;
    }
    merged
};

/// One block of each order below an order.
const BELOW: [u64; NR_ORDERS] = {
    let mut sums = [0; NR_ORDERS];
    let mut order = 1;
    while order < NR_ORDERS {
        sums[order] = sums[order - 1] + (1 << OFFSETS[order - 1]);
        order += 1;
    }
    sums
};

/// The pageblock is the upper half of a free block of [`MAX_ORDER`].
const UPPER: u64 = 1 << OFFSETS[NR_ORDERS];
/// The frames' bits are in force; else none of them is set, whatever storage has.
const KNOWN: u64 = UPPER << 1;
const WHOLE: u64 = UPPER | 1 << OFFSETS[PAGEBLOCK] | 1 << OFFSETS[MAX_ORDER.index()];

const _: () = assert!(OFFSETS[0] == 0 && OFFSETS[NR_ORDERS] + 1 < u64::BITS);

impl State {
    /// Nothing is free, as the bits of all frames say.
    pub(crate) const EMPTY: Self = Self(KNOWN);

    /// How many blocks of `order`.
    #[inline]
    pub(crate) const fn count(self, order: usize) -> usize {
        (self.0 >> OFFSETS[order] & ((1 << width(order)) - 1)) as usize
    }

    /// After a block of `from` came and merged up to `to`.
    #[inline]
    pub(crate) const fn merged(self, from: usize, to: usize) -> Self {
        Self(self.0.wrapping_add(MERGED[to]).wrapping_add(BELOW[from]))
    }

    /// After a block of `from` was split and one of `to` was taken.
    #[inline]
    pub(crate) const fn split(self, from: usize, to: usize) -> Self {
        Self(self.0.wrapping_sub(MERGED[from]).wrapping_sub(BELOW[to]))
    }

    /// With one more of `order`.
    #[inline]
    pub(crate) const fn plus(self, order: usize) -> Self {
        Self(self.0 + (1 << OFFSETS[order]))
    }

    /// With one less of `order`.
    #[inline]
    pub(crate) const fn minus(self, order: usize) -> Self {
        Self(self.0 - (1 << OFFSETS[order]))
    }

    /// With so many less of order 0.
    #[inline]
    pub(crate) const fn without_singles(self, count: usize) -> Self {
        Self(self.0 - count as u64)
    }

    /// The largest order of which there is a block; [`NONE`] if there is no block.
    #[inline]
    pub(crate) const fn largest(self) -> usize {
        let top = 63 - ((self.0 & NUMBERS) << 1 | 1).leading_zeros();
        LARGEST_AT[top as usize % 64] as usize
    }

    /// The smallest order, `order` or above, of which there is a block; one must be.
    #[inline]
    pub(crate) fn smallest(self, order: usize) -> usize {
        let from = (self.0 & NUMBERS) >> OFFSETS[order] << OFFSETS[order];
        usize::from(ORDER_AT[from.trailing_zeros() as usize % 64])
    }

    /// Whether all is free.
    #[inline]
    pub(crate) const fn is_whole(self) -> bool {
        self.0 & WHOLE != 0
    }

    /// Whether nothing is free.
    #[inline]
    pub(crate) const fn is_empty(self) -> bool {
        self.0 & !KNOWN == 0
    }

    /// Whether the bits of frames say all.
    #[inline]
    pub(crate) const fn is_plain(self) -> bool {
        self.0 & (WHOLE | KNOWN) == KNOWN
    }

    #[inline]
    pub(crate) const fn is_known(self) -> bool {
        self.0 & KNOWN != 0
    }

    #[inline]
    pub(crate) const fn is_upper(self) -> bool {
        self.0 & UPPER != 0
    }

    #[inline]
    pub(crate) const fn with_known(self) -> Self {
        Self(self.0 | KNOWN)
    }

    #[inline]
    pub(crate) const fn with_upper(self) -> Self {
        Self(self.0 | UPPER)
    }

    #[inline]
    pub(crate) const fn without_upper(self) -> Self {
        Self(self.0 & !UPPER)
    }

    /// How many frames the blocks have.
    pub(crate) fn nr_pages(self) -> usize {
        (0..NR_ORDERS).map(|order| self.count(order) << order).sum()
    }
}

/// The blocks of a zone, two orders to a word: no zone has 2^32 blocks of an order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts([u64; NR_ORDERS.div_ceil(2)]);

const ORDER_BITS: usize = 32;

/// As [`MERGED`].
const MERGED_COUNTS: [Counts; NR_ORDERS] = {
    let mut merged = [Counts::NONE; NR_ORDERS];
    let mut order = 0;
    while order < NR_ORDERS {
        merged[order] = Counts::one(order).minus(BELOW_COUNTS[order]);
        order += 1;
    }
    merged
};

/// As [`BELOW`].
const BELOW_COUNTS: [Counts; NR_ORDERS] = {
    let mut sums = [Counts::NONE; NR_ORDERS];
    let mut order = 1;
    while order < NR_ORDERS {
        sums[order] = sums[order - 1].plus(Counts::one(order - 1));
        order += 1;
    }
    sums
};

impl Counts {
    pub(crate) const NONE: Self = Self([0; NR_ORDERS.div_ceil(2)]);

    const fn one(order: usize) -> Self {
        let mut one = Self::NONE;
        one.0[order / 2] = 1 << (order % 2 * ORDER_BITS);
        one
    }

    #[inline]
    const fn plus(mut self, other: Self) -> Self {
        let mut nr = 0;
        while nr < self.0.len() {
            self.0[nr] = self.0[nr].wrapping_add(other.0[nr]);
            nr += 1;
        }
        self
    }

    #[inline]
    const fn minus(mut self, other: Self) -> Self {
        let mut nr = 0;
        while nr < self.0.len() {
            self.0[nr] = self.0[nr].wrapping_sub(other.0[nr]);
            nr += 1;
        }
        self
    }

    /// How many blocks of `order`.
    #[inline]
    pub(crate) const fn get(&self, order: usize) -> usize {
        (self.0[order / 2] >> (order % 2 * ORDER_BITS)) as u32 as usize
    }

    /// As [`State::merged`].
    #[inline]
    pub(crate) fn merge(&mut self, from: usize, to: usize) {
        *self = self.plus(MERGED_COUNTS[to]);
        if from > 0 {
            *self = self.plus(BELOW_COUNTS[from]);
        }
    }

    /// As [`State::split`].
    #[inline]
    pub(crate) fn split(&mut self, from: usize, to: usize) {
        *self = self.minus(MERGED_COUNTS[from]);
        if to > 0 {
            *self = self.minus(BELOW_COUNTS[to]);
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, order: usize, count: usize) {
        self.0[order / 2] += (count as u64) << (order % 2 * ORDER_BITS);
    }

    #[inline]
    pub(crate) fn sub(&mut self, order: usize, count: usize) {
        self.0[order / 2] -= (count as u64) << (order % 2 * ORDER_BITS);
    }

    /// All blocks of a pageblock.
    pub(crate) fn add_all(&mut self, state: State) {
        (0..NR_ORDERS).for_each(|order| self.add(order, state.count(order)));
    }

    /// Without the blocks of a pageblock.
    pub(crate) fn sub_all(&mut self, state: State) {
        (0..NR_ORDERS).for_each(|order| self.sub(order, state.count(order)));
    }
}
