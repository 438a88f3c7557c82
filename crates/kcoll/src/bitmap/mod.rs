//! Bitmaps over words that the caller hands in: [`Bitmap`] with searches for runs of zeros, [`SummaryBitmap`] with
//! a search for the next set bit that does not slow down as the map grows.
//!
//! Storage is anything that lends its words: `&mut [u64]`, `Vec<u64>`, `Box<[u64]>`. How many words it must have,
//! [`BitmapLayout`] says. Neither map allocates.

mod plain;
mod summary;

pub use plain::Bitmap;
pub use summary::SummaryBitmap;

pub(crate) const WORD_BITS: usize = u64::BITS as usize;

/// How many words of storage a map needs.
#[derive(Clone, Copy, Debug)]
pub struct BitmapLayout;

impl BitmapLayout {
    /// The words of a [`Bitmap`] of `bits` bits.
    pub const fn words_for(bits: usize) -> usize {
        bits.div_ceil(WORD_BITS)
    }

    /// The words of a [`SummaryBitmap`] of `bits` bits, all levels together: 1.6 % more than [`words_for`](Self::words_for).
    pub const fn summary_words_for(bits: usize) -> usize {
        let mut level = Self::words_for(bits);
        let mut total = level;
        while level > 1 {
            level = Self::words_for(level);
            total += level;
        }
        total
    }
}

/// The word that bit `bit` lives in, and its place there.
const fn split(bit: usize) -> (usize, u64) {
    (bit / WORD_BITS, 1 << (bit % WORD_BITS))
}

/// The bits of a word from `bit` on (modulo the word size).
const fn mask_from(bit: usize) -> u64 {
    u64::MAX << (bit % WORD_BITS)
}
