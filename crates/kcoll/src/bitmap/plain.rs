use core::ops::Range;

use super::{BitmapLayout, WORD_BITS, mask_from, split};

/// A map of `len` bits.
///
/// Linux: `DECLARE_BITMAP` and lib/bitmap.c.
///
/// Single bits cost O(1); searches cost one step per word of 64 bits that they pass. No overhead but the two
/// words of the struct itself.
///
/// ```
/// use kmm_kcoll::bitmap::{Bitmap, BitmapLayout};
///
/// let mut words = [0; BitmapLayout::words_for(100)];
/// let mut map = Bitmap::new(&mut words[..], 100);
/// map.set_range(3..17);
/// assert_eq!(map.find_zero_area(0, 8, 4), Some(20));
/// ```
#[derive(Clone, Debug)]
pub struct Bitmap<S> {
    // INV-20: storage has at least `words_for(len)` words, and no bit from `len` on is set in them.
    words: S,
    len: usize,
}

impl<S: AsRef<[u64]> + AsMut<[u64]>> Bitmap<S> {
    /// A map of `len` zeros in `storage`, whatever that held.
    ///
    /// # Panics
    /// If `storage` has fewer than [`BitmapLayout::words_for`]`(len)` words.
    pub fn new(mut storage: S, len: usize) -> Self {
        let needed = BitmapLayout::words_for(len);
        let words = storage.as_mut();
        assert!(words.len() >= needed, "bitmap storage is too small");
        words[..needed].fill(0);
        Self {
            words: storage,
            len,
        }
    }

    /// How many bits there are, set or not.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the map has no bits at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bits are set. O(len).
    pub fn count_set(&self) -> usize {
        self.words().iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether `bit` is set.
    ///
    /// # Panics
    /// If `bit >= len`.
    pub fn test(&self, bit: usize) -> bool {
        self.check(bit);
        let (word, mask) = split(bit);
        self.words()[word] & mask != 0
    }

    /// Sets `bit` and says whether it was set before.
    ///
    /// # Panics
    /// If `bit >= len`.
    pub fn set(&mut self, bit: usize) -> bool {
        self.check(bit);
        let (word, mask) = split(bit);
        let word = &mut self.words_mut()[word];
        let was = *word & mask != 0;
        *word |= mask;
        was
    }

    /// Clears `bit` and says whether it was set before.
    ///
    /// # Panics
    /// If `bit >= len`.
    pub fn clear(&mut self, bit: usize) -> bool {
        self.check(bit);
        let (word, mask) = split(bit);
        let word = &mut self.words_mut()[word];
        let was = *word & mask != 0;
        *word &= !mask;
        was
    }

    /// Sets every bit of `bits`. Linux: `bitmap_set`.
    ///
    /// # Panics
    /// If `bits` reaches beyond `len`.
    pub fn set_range(&mut self, bits: Range<usize>) {
        self.for_each_word(bits, |word, mask| *word |= mask);
    }

    /// Clears every bit of `bits`. Linux: `bitmap_clear`.
    ///
    /// # Panics
    /// If `bits` reaches beyond `len`.
    pub fn clear_range(&mut self, bits: Range<usize>) {
        self.for_each_word(bits, |word, mask| *word &= !mask);
    }

    /// The lowest set bit. Linux: `find_first_bit`.
    pub fn first_set(&self) -> Option<usize> {
        self.next_set(0)
    }

    /// The lowest set bit at or above `from`. Linux: `find_next_bit`.
    pub fn next_set(&self, from: usize) -> Option<usize> {
        self.search(from, |word| word)
    }

    /// The lowest zero at or above `from`. Linux: `find_next_zero_bit`.
    pub fn next_zero(&self, from: usize) -> Option<usize> {
        self.search(from, |word| !word)
    }

    /// The lowest multiple of `align` at or above `start` from which `n` bits are zero.
    ///
    /// Linux: `bitmap_find_next_zero_area`. `None` also for `n == 0`.
    ///
    /// # Panics
    /// If `align` is not a power of two.
    pub fn find_zero_area(&self, start: usize, n: usize, align: usize) -> Option<usize> {
        assert!(align.is_power_of_two(), "alignment is not a power of two");
        if n == 0 {
            return None;
        }
        let mut from = start;
        loop {
            let at = self.next_zero(from)?.checked_next_multiple_of(align)?;
            let end = at.checked_add(n).filter(|&end| end <= self.len)?;
            match self.next_set(at) {
                Some(hit) if hit < end => from = hit + 1,
                _ => return Some(at),
            }
        }
    }

    /// Gives the storage back.
    pub fn into_storage(self) -> S {
        self.words
    }

    fn words(&self) -> &[u64] {
        &self.words.as_ref()[..BitmapLayout::words_for(self.len)]
    }

    fn words_mut(&mut self) -> &mut [u64] {
        let needed = BitmapLayout::words_for(self.len);
        &mut self.words.as_mut()[..needed]
    }

    fn check(&self, bit: usize) {
        assert!(bit < self.len, "bit {bit} of a map of {}", self.len);
    }

    /// The first bit at or above `from` that is set in the words as `view` shows them.
    fn search(&self, from: usize, view: impl Fn(u64) -> u64) -> Option<usize> {
        let words = self.words();
        let mut index = from / WORD_BITS;
        let mut word = view(*words.get(index)?) & mask_from(from);
        while word == 0 {
            index += 1;
            word = view(*words.get(index)?);
        }
        let bit = index * WORD_BITS + word.trailing_zeros() as usize;
        (bit < self.len).then_some(bit)
    }

    fn for_each_word(&mut self, bits: Range<usize>, f: impl Fn(&mut u64, u64)) {
        if bits.is_empty() {
            return;
        }
        assert!(
            bits.end <= self.len,
            "bits {bits:?} of a map of {}",
            self.len
        );
        let (first, last) = (bits.start / WORD_BITS, (bits.end - 1) / WORD_BITS);
        let head = mask_from(bits.start);
        let tail = u64::MAX >> (WORD_BITS - 1 - (bits.end - 1) % WORD_BITS);
        let words = self.words_mut();
        if first == last {
            f(&mut words[first], head & tail);
            return;
        }
        f(&mut words[first], head);
        for word in &mut words[first + 1..last] {
            f(word, u64::MAX);
        }
        f(&mut words[last], tail);
    }
}
