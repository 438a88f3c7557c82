//! Free frames as bits, 64 to a word, and which blocks they make.
//!
//! A free block is an aligned group of bits that are all set, and whose twin is not: nothing says so but the bits, so a
//! frame that comes back is one bit set, whatever it merges with. What is asked of a word is answered without a branch:
//! how often blocks merge cannot be predicted.

use kmm_frame::Order;

/// 128 bytes of the storage of a [`crate::Buddy`]: the frames of two pageblocks, the states of sixteen, or a summary.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct FreeBits([[u64; WORDS]; 2]);

pub(crate) const NR_WORDS: usize = 16;
pub(crate) const WORD_BITS: usize = u64::BITS as usize;

/// Frames of a pageblock.
pub(crate) const FRAMES: usize = Order::PAGEBLOCK.nr_pages();
/// Words of a pageblock.
pub(crate) const WORDS: usize = FRAMES / WORD_BITS;
/// The order of a block that fills a word.
pub(crate) const WORD_ORDER: usize = WORD_BITS.ilog2() as usize;

const _: () = assert!(2 * WORDS == NR_WORDS);

impl FreeBits {
    /// Nothing is free.
    pub const EMPTY: Self = Self([[0; WORDS]; 2]);

    /// What storage may hold.
    #[cfg(test)]
    pub(crate) const FULL: Self = Self([[u64::MAX; WORDS]; 2]);

    /// One of the words.
    #[inline]
    pub(crate) fn word(&self, nr: usize) -> u64 {
        self.0.as_flattened()[nr % NR_WORDS]
    }

    /// One of the words.
    #[inline]
    pub(crate) fn word_mut(&mut self, nr: usize) -> &mut u64 {
        &mut self.0.as_flattened_mut()[nr % NR_WORDS]
    }

    /// The frames of one of two pageblocks.
    #[inline]
    pub(crate) const fn pageblock(&self, nr: usize) -> &[u64; WORDS] {
        &self.0[nr % 2]
    }

    /// The frames of one of two pageblocks.
    #[inline]
    pub(crate) const fn pageblock_mut(&mut self, nr: usize) -> &mut [u64; WORDS] {
        &mut self.0[nr % 2]
    }
}

/// The order of the largest aligned group of set bits that has bit `nr`, which is set.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the number of a bit")]
pub(crate) const fn order_around(word: u64, nr: usize) -> usize {
    let at = nr as u32 % u64::BITS;
    let (clear, upper) = (!word, u64::MAX << at);
    // The nearest clear bits above, 64 if there is none, and below, -1. A group has none of them while it is smaller than
    // the highest bit in which their numbers differ from this one's.
    let above = (clear & upper).trailing_zeros();
    let below = 63_u32.wrapping_sub((clear & !upper).leading_zeros());
    let (above, below) = (above ^ at, below ^ at);
    let nearest = if above < below { above } else { below };
    (31 - (nearest | 1).leading_zeros()) as usize
}

/// The order of the block that begins at the lowest set bit of `word`, and the number of that bit. The word is not 0.
#[inline]
pub(crate) const fn first_block(word: u64) -> (usize, usize) {
    let at = word.trailing_zeros();
    let len = (!(word >> (at % u64::BITS))).trailing_zeros();
    let aligned = at | u64::BITS;
    let (aligned, fits) = (aligned.trailing_zeros(), 31 - (len | 1).leading_zeros());
    (
        if aligned < fits { aligned } else { fits } as usize,
        at as usize,
    )
}

/// `len` bits from bit `at` on, at least one, within a word.
#[inline]
pub(crate) const fn run(at: usize, len: usize) -> u64 {
    (u64::MAX >> (WORD_BITS - len)) << at
}

/// The first bit of each aligned group of an order in a word.
const STARTS: [u64; WORD_ORDER + 1] = {
    let mut starts = [0; WORD_ORDER + 1];
    let mut order = 0;
    while order <= WORD_ORDER {
        let mut at = 0;
        while at < WORD_BITS {
            starts[order] |= 1 << at;
            at += 1 << order;
        }
        order += 1;
    }
    starts
};

/// The first bits of the blocks of exactly `order` in a word, below the order that fills it.
#[inline(always)]
pub(crate) const fn blocks_of(word: u64, order: usize) -> u64 {
    let mut groups = word;
    let mut below = 0;
    while below < order {
        groups &= groups >> (1 << below);
        below += 1;
    }
    groups &= STARTS[order];
    let size = 1 << order;
    let merged = groups & (groups >> size) & STARTS[order + 1];
    groups & !(merged | merged << size)
}

/// Where the lowest block of exactly `order` begins in a pageblock; one there must be.
#[inline(never)]
pub(crate) fn lowest_block(words: &[u64; WORDS], order: usize) -> usize {
    // Each order by itself: with a loop over orders within that over words it took twice the instructions.
    match order {
        0 => lowest_of(words, |word| blocks_of(word, 0)),
        1 => lowest_of(words, |word| blocks_of(word, 1)),
        2 => lowest_of(words, |word| blocks_of(word, 2)),
        3 => lowest_of(words, |word| blocks_of(word, 3)),
        4 => lowest_of(words, |word| blocks_of(word, 4)),
        5 => lowest_of(words, |word| blocks_of(word, 5)),
        _ => {
            let blocks = blocks_of(full_words(words), (order - WORD_ORDER).min(2));
            WORD_BITS * blocks.trailing_zeros() as usize
        }
    }
}

#[inline(always)]
fn lowest_of(words: &[u64; WORDS], blocks: impl Fn(u64) -> u64) -> usize {
    for (nr, word) in words.iter().enumerate() {
        let blocks = blocks(*word);
        if blocks != 0 {
            return nr * WORD_BITS + blocks.trailing_zeros() as usize;
        }
    }
    0
}

/// The words of which all frames are free, as bits.
#[inline]
pub(crate) fn full_words(words: &[u64; WORDS]) -> u64 {
    let mut full = 0;
    for (nr, word) in words.iter().enumerate() {
        full |= u64::from(*word == u64::MAX) << nr;
    }
    full
}

/// The numbers of the bits that are set, lowest first.
pub(crate) fn bits(word: u64) -> impl Iterator<Item = usize> {
    let mut left = word;
    core::iter::from_fn(move || {
        let nr = (left != 0).then(|| left.trailing_zeros() as usize);
        left &= left.wrapping_sub(1);
        nr
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By trying all groups.
    fn slow_order(word: u64, nr: usize) -> usize {
        let is_set = |order: &usize| {
            let start = nr >> order << order;
            (start..start + (1 << order)).all(|bit| word >> bit & 1 != 0)
        };
        (0..=WORD_ORDER).filter(is_set).max().unwrap()
    }

    fn words() -> impl Iterator<Item = u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let random = (0..4000).map(move |turn| {
            let mut word = if turn % 2 == 0 { u64::MAX } else { 0 };
            for _ in 0..turn % 40 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let size = 1 << (state >> 40 & 7).min(6);
                let at = usize::from((state % 64) as u8) / size * size;
                word ^= run(at, size);
            }
            word
        });
        random.chain([0, 1, 1 << 63, u64::MAX, u64::MAX >> 1])
    }

    #[test]
    fn orders_match_those_found_by_trying() {
        for word in words() {
            let mut exact = [0; WORD_ORDER];
            for nr in (0..WORD_BITS).filter(|nr| word >> nr & 1 != 0) {
                let order = slow_order(word, nr);
                assert_eq!(order_around(word, nr), order, "{word:#x} {nr}");
                if order < WORD_ORDER && nr % (1 << order) == 0 {
                    exact[order] |= 1 << nr;
                }
            }
            for (order, expected) in exact.into_iter().enumerate() {
                assert_eq!(blocks_of(word, order), expected, "{word:#x} {order}");
            }
            if word != 0 {
                let nr = word.trailing_zeros() as usize;
                assert_eq!(first_block(word), (slow_order(word, nr), nr));
            }
        }
    }
}
