//! The free blocks of one pageblock, as bits of a heap.
//!
//! The block of order `o` that starts at frame `i` of the pageblock has the number `(512 + i) >> o`: the halves of the
//! pageblock are 2 and 3, its frames 512 to 1023. So the twin of a block differs in the lowest bit, and the block that both
//! make has the number shifted right. Frames have the second cache line, all larger blocks the first. The pageblock
//! itself, number 1, has no bit here: blocks of its size are found in the summary.

use kmm_frame::{Order, Pfn};

/// 128 bytes of the storage of a [`crate::Buddy`]: the free blocks of a pageblock, or a summary of others.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct FreeBits(pub(crate) [u64; NR_WORDS]);

pub(crate) const NR_WORDS: usize = 16;
pub(crate) const WORD_BITS: usize = u64::BITS as usize;

/// Frames of a pageblock.
pub(crate) const FRAMES: usize = Order::PAGEBLOCK.nr_pages();

const _: () = assert!(2 * FRAMES == NR_WORDS * WORD_BITS);

/// The number of a block within its pageblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Node(usize);

impl Node {
    /// The pageblock as a whole.
    pub(crate) const ROOT: Self = Self(1);

    /// The block of `order` that `pfn` lies in; at most a pageblock.
    #[inline]
    pub(crate) const fn of(pfn: Pfn, order: usize) -> Self {
        Self((FRAMES | (pfn.index() % FRAMES)) >> order)
    }

    /// The other half of the block that this one is half of.
    #[inline]
    pub(crate) const fn twin(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// The lower half.
    #[inline]
    pub(crate) const fn lower(self) -> Self {
        Self(self.0 << 1)
    }

    /// The block that this one is half of.
    #[inline]
    pub(crate) const fn parent(self) -> Self {
        Self(self.0 >> 1)
    }

    /// Where the block begins in its pageblock, in frames.
    #[inline]
    pub(crate) const fn offset(self, order: usize) -> usize {
        (self.0 << order) % FRAMES
    }

    #[inline]
    const fn word(self) -> usize {
        self.0 / WORD_BITS % NR_WORDS
    }

    #[inline]
    const fn mask(self) -> u64 {
        1 << (self.0 % WORD_BITS)
    }
}

/// From this order on, all bits of an order lie in the first word.
const ONE_WORD: usize = 4;

/// Where the bits of an order lie: from the first of some words on, in each of them where the mask says.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) first: usize,
    pub(crate) end: usize,
    pub(crate) mask: u64,
}

impl Place {
    /// The bits of `order`; at most a pageblock.
    #[inline]
    pub(crate) const fn of(order: usize) -> Self {
        if order < ONE_WORD {
            let words = (FRAMES / WORD_BITS) >> order;
            return Self {
                first: words,
                end: 2 * words,
                mask: u64::MAX,
            };
        }
        let bits = FRAMES >> order;
        Self {
            first: 0,
            end: 1,
            mask: u64::MAX >> (WORD_BITS - bits) << bits,
        }
    }
}

/// The bits of each order in the first word.
const FIRST_WORD: [u64; NR_WORDS] = {
    let mut table = [0; NR_WORDS];
    let mut order = ONE_WORD;
    while order < Order::PAGEBLOCK.index() {
        table[order] = Place::of(order).mask;
        order += 1;
    }
    table
};

/// For each number in the first word, the bits of the blocks that hold that block, itself included.
const AROUND: [u64; WORD_BITS] = {
    let mut table = [0; WORD_BITS];
    let mut number = 0;
    while number < WORD_BITS {
        let mut around = number;
        while around > 0 {
            table[number] |= 1 << around;
            around >>= 1;
        }
        number += 1;
    }
    table
};

impl FreeBits {
    /// Nothing is free.
    pub const EMPTY: Self = Self([0; NR_WORDS]);

    #[inline]
    pub(crate) const fn test(&self, node: Node) -> bool {
        self.0[node.word()] & node.mask() != 0
    }

    #[inline]
    const fn bit(&self, number: usize) -> u64 {
        self.0[number / WORD_BITS % NR_WORDS] >> (number % WORD_BITS) & 1
    }

    #[inline]
    pub(crate) const fn set(&mut self, node: Node) {
        self.0[node.word()] |= node.mask();
    }

    #[cfg(test)]
    pub(crate) const fn unset(&mut self, node: Node) {
        self.0[node.word()] &= !node.mask();
    }

    /// Clears the bit of a block of `order` if it is set. `None` if not, else whether others of the order are left.
    #[inline]
    pub(crate) fn clear(&mut self, node: Node, order: usize) -> Option<bool> {
        let word = &mut self.0[node.word()];
        if *word & node.mask() == 0 {
            return None;
        }
        *word ^= node.mask();
        // Below order 4 a word has the bits of one order only, above all are in one.
        if order >= ONE_WORD {
            return Some(*word & FIRST_WORD[order % NR_WORDS] != 0);
        }
        Some(*word != 0 || self.has(order))
    }

    /// Whether a block of `order` is free. Seldom asked, and not inlined, as the compiler would then ask ahead of need.
    #[inline(never)]
    pub(crate) fn has(&self, order: usize) -> bool {
        // Written out: a loop over so few words costs more than the words.
        let [w0, w1, w2, w3, w4, w5, w6, w7, rest @ ..] = &self.0;
        let all = match order {
            0 => rest.iter().fold(0, |all, word| all | word),
            1 => w4 | w5 | w6 | w7,
            2 => w2 | w3,
            3 => *w1,
            _ => w0 & FIRST_WORD[order % NR_WORDS],
        };
        all != 0
    }

    /// The first free block of `order`.
    #[inline]
    pub(crate) fn first(&self, order: usize) -> Option<Node> {
        let Place { first, end, mask } = Place::of(order);
        let mut nr = first;
        while nr < end {
            let word = self.0[nr % NR_WORDS] & mask;
            if word != 0 {
                return Some(Node(nr * WORD_BITS + word.trailing_zeros() as usize));
            }
            nr += 1;
        }
        None
    }

    /// The free blocks of `order`.
    pub(crate) fn of_order(&self, order: usize) -> impl Iterator<Item = Node> {
        let bits = FRAMES >> order;
        (bits..2 * bits).map(Node).filter(|&node| self.test(node))
    }

    /// Whether a free block holds the block `node` of `order`, or is it.
    #[inline]
    pub(crate) const fn is_held(&self, node: Node, order: usize) -> bool {
        let number = node.0;
        let words = &self.0;
        // One after the other, down to blocks of 16 frames; the first word has all that are larger.
        let (found, number) = match order {
            0 => (
                self.bit(number)
                    | self.bit(number >> 1)
                    | self.bit(number >> 2)
                    | self.bit(number >> 3),
                number >> 4,
            ),
            1 => (
                self.bit(number) | self.bit(number >> 1) | self.bit(number >> 2),
                number >> 3,
            ),
            2 => (self.bit(number) | self.bit(number >> 1), number >> 2),
            3 => (self.bit(number), number >> 1),
            _ => (0, number),
        };
        found | words[0] & AROUND[number % WORD_BITS] != 0
    }

    /// Whether the block `node` of `order` holds a free block, itself not counted.
    #[inline]
    pub(crate) fn holds(&self, node: Node, order: usize) -> bool {
        (1..=order).any(|depth| {
            let (first, bits) = (node.0 << depth, 1 << depth);
            if bits < WORD_BITS {
                let mask = ((1 << bits) - 1) << (first % WORD_BITS);
                return self.0[first / WORD_BITS % NR_WORDS] & mask != 0;
            }
            let words = first / WORD_BITS..(first + bits) / WORD_BITS;
            self.0[words].iter().any(|word| *word != 0)
        })
    }
}
