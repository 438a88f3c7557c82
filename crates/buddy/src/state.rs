//! What is known of a pageblock in one word: its type, and how many free blocks of each order there are. And how many a zone
//! has.
//!
//! All orders change in one addition: a block that comes back and merges up to order `l` is one more of order `l` and one
//! less of each order in between, whatever these are; a block that is split is the opposite.

#![expect(
    clippy::cast_possible_truncation,
    reason = "orders, numbers of bits, and counts below 2^32"
)]

use kmm_frame::{MigrateType, NR_ORDERS, Order};

use crate::pageblock::KINDS;

/// In place of an order: no block.
pub(crate) const NONE: usize = NR_ORDERS;

const PAGEBLOCK: usize = Order::PAGEBLOCK.index();

/// A pageblock: its type, whether it is free as a whole, and the blocks smaller than itself: for each order a number.
///
/// Of two twins at most one is free, so that there are at most 256 of order 0, 128 of order 1 and so on: nine bits, eight
/// bits and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(pub(crate) u64);

/// Bits of the number of each order.
const fn width(order: usize) -> u32 {
    (PAGEBLOCK - order) as u32
}

/// Where the number of each order begins; of the last, where all end.
const OFFSETS: [u32; PAGEBLOCK + 1] = {
    let mut offsets = [0; PAGEBLOCK + 1];
    let mut order = 0;
    while order < PAGEBLOCK {
        offsets[order + 1] = offsets[order] + width(order);
        order += 1;
    }
    offsets
};

/// All numbers, without the bits above them.
const NUMBERS: u64 = (1 << OFFSETS[PAGEBLOCK]) - 1;

/// The order whose number a bit is of.
const ORDER_AT: [u8; 64] = {
    let mut orders = [0; 64];
    let mut order = 0;
    while order < PAGEBLOCK {
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
    while bit < OFFSETS[PAGEBLOCK] as usize {
        orders[bit + 1] = ORDER_AT[bit];
        bit += 1;
    }
    orders
};

/// One block of an order, and none of those below it.
const MERGED: [u64; PAGEBLOCK] = {
    let mut merged = [0; PAGEBLOCK];
    let mut order = 0;
    while order < PAGEBLOCK {
        merged[order] = (1_u64 << OFFSETS[order]).wrapping_sub(BELOW[order]);
        order += 1;
    }
    merged
};

/// One block of each order below an order.
const BELOW: [u64; PAGEBLOCK + 1] = {
    let mut sums = [0; PAGEBLOCK + 1];
    let mut order = 1;
    while order <= PAGEBLOCK {
        sums[order] = sums[order - 1] + (1 << OFFSETS[order - 1]);
        order += 1;
    }
    sums
};

/// All frames are free. The numbers are 0 then.
const WHOLE: u64 = 1 << OFFSETS[PAGEBLOCK];
/// The frames' bits are in force; else none of them is set, whatever storage has.
const KNOWN: u64 = WHOLE << 1;
/// Where the type is.
const KIND_SHIFT: u32 = 61;
const KIND: u64 = u64::MAX << KIND_SHIFT;

const _: () = assert!(KNOWN < 1 << KIND_SHIFT && State::NR_KINDS == 8);

impl State {
    /// A pageblock of a type, of which nothing is free.
    pub(crate) const fn new(kind: MigrateType) -> Self {
        Self((kind.index() as u64) << KIND_SHIFT)
    }

    /// So many numbers of types there could be.
    pub(crate) const NR_KINDS: usize = KINDS.len();

    /// The number of the type.
    #[inline]
    pub(crate) const fn kind_number(self) -> usize {
        (self.0 >> KIND_SHIFT) as usize
    }

    /// The type.
    #[inline]
    pub(crate) const fn kind(self) -> MigrateType {
        KINDS[self.kind_number()]
    }

    #[inline]
    pub(crate) const fn with_kind(self, kind: MigrateType) -> Self {
        Self(self.0 & !KIND | Self::new(kind).0)
    }

    /// How many blocks of an order smaller than a pageblock.
    #[inline]
    pub(crate) const fn count(self, order: usize) -> usize {
        (self.0 >> OFFSETS[order] & ((1 << width(order)) - 1)) as usize
    }

    /// After a block of `from` came and merged up to `to`, which is less than all.
    #[inline]
    pub(crate) const fn merged(self, from: usize, to: usize) -> Self {
        Self(self.0.wrapping_add(MERGED[to]).wrapping_add(BELOW[from]))
    }

    /// After a block of `from` was split and one of `to` was taken.
    #[inline]
    pub(crate) const fn split(self, from: usize, to: usize) -> Self {
        Self(self.0.wrapping_sub(MERGED[from]).wrapping_sub(BELOW[to]))
    }

    /// After one of `to` was taken from a pageblock that is free as a whole.
    #[inline]
    pub(crate) const fn split_whole(self, to: usize) -> Self {
        Self(self.0 & KIND | KNOWN | (BELOW[PAGEBLOCK] - BELOW[to]))
    }

    /// Whether a block of `order` is all that lacks.
    #[inline]
    pub(crate) const fn lacks_only(self, order: usize) -> bool {
        self.0 & NUMBERS == BELOW[PAGEBLOCK] - BELOW[order]
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

    /// The largest order of which there is a block; [`NONE`] if there is no block but the whole.
    #[inline]
    pub(crate) const fn largest(self) -> usize {
        let top = 63 - ((self.0 & NUMBERS) << 1 | 1).leading_zeros();
        LARGEST_AT[top as usize % 64] as usize
    }

    /// Whether there is a block of `order` or above, but the whole.
    #[inline]
    pub(crate) const fn has_from(self, order: usize) -> bool {
        (self.0 & NUMBERS) >> OFFSETS[order] != 0
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
        self.0 & (NUMBERS | WHOLE) == 0
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
    pub(crate) const fn with_known(self) -> Self {
        Self(self.0 | KNOWN)
    }

    /// With all frames free, which no bits say then.
    #[inline]
    pub(crate) const fn with_all(self) -> Self {
        Self(self.0 & KIND | WHOLE)
    }

    /// With no frame free, which no bits say then.
    #[inline]
    pub(crate) const fn with_none(self) -> Self {
        Self(self.0 & KIND)
    }

    /// How many frames are free.
    pub(crate) fn nr_pages(self) -> usize {
        let whole = usize::from(self.is_whole()) << PAGEBLOCK;
        let parts = (0..PAGEBLOCK).map(|order| self.count(order) << order);
        whole + parts.sum::<usize>()
    }
}

/// What is free of a type: frames, and blocks by order.
///
/// Blocks are kept as differences: an order's number less that of the order below. So a block that merges over some orders
/// changes three words, however many they are, and finds them without a branch. With the numbers themselves, two to a word,
/// it was six words and as many constants.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Counts {
    pub(crate) nr_pages: usize,
    steps: [u32; NR_ORDERS + 1],
}

impl Counts {
    pub(crate) const NONE: Self = Self {
        nr_pages: 0,
        steps: [0; NR_ORDERS + 1],
    };

    /// How many blocks of `order`.
    pub(crate) const fn get(&self, order: usize) -> usize {
        let (mut sum, mut nr) = (0_u32, 0);
        while nr <= order {
            sum = sum.wrapping_add(self.steps[nr]);
            nr += 1;
        }
        sum as usize
    }

    /// How many pageblocks are free as a whole, alone and as one block with their twins. All steps add up to 0, so those that
    /// are left out say as much.
    #[inline]
    pub(crate) const fn nr_whole(&self) -> usize {
        let pairs = self.steps[PAGEBLOCK + 2].wrapping_neg();
        let all = pairs.wrapping_sub(self.steps[PAGEBLOCK + 1]);
        (all + 2 * pairs) as usize
    }

    /// A block of `from` came and merged up to `to`.
    #[inline]
    pub(crate) fn merge(&mut self, from: usize, to: usize) {
        self.nr_pages += 1 << from;
        self.step(from, 1_u32.wrapping_neg());
        self.step(to, 2);
        self.step(to + 1, 1_u32.wrapping_neg());
    }

    /// A block of `from` was split and one of `to` was taken.
    #[inline]
    pub(crate) fn split(&mut self, from: usize, to: usize) {
        self.nr_pages -= 1 << to;
        self.step(to, 1);
        self.step(from, 2_u32.wrapping_neg());
        self.step(from + 1, 1);
    }

    /// So many blocks more.
    #[inline]
    pub(crate) fn add(&mut self, order: usize, count: usize) {
        self.nr_pages += count << order;
        self.step(order, count as u32);
        self.step(order + 1, (count as u32).wrapping_neg());
    }

    /// So many blocks less.
    #[inline]
    pub(crate) fn sub(&mut self, order: usize, count: usize) {
        self.nr_pages -= count << order;
        self.step(order, (count as u32).wrapping_neg());
        self.step(order + 1, count as u32);
    }

    /// All blocks of a pageblock that are smaller than itself.
    pub(crate) fn add_all(&mut self, state: State) {
        (0..PAGEBLOCK).for_each(|order| self.add(order, state.count(order)));
    }

    /// Without the blocks of a pageblock that are smaller than itself.
    pub(crate) fn sub_all(&mut self, state: State) {
        (0..PAGEBLOCK).for_each(|order| self.sub(order, state.count(order)));
    }

    #[inline]
    fn step(&mut self, nr: usize, by: u32) {
        if let Some(step) = self.steps.get_mut(nr) {
            *step = step.wrapping_add(by);
        }
    }
}
