use super::{BitmapLayout, WORD_BITS, mask_from, split};

/// Levels that a map of `usize::MAX` bits would have: each level has a 64th of the bits of the one below.
const MAX_LEVELS: usize = (usize::BITS as usize).div_ceil(6);

/// A map of `len` bits that finds the next set bit in a few steps, however sparse it is.
///
/// Above the bits lie summaries: bit *n* of a level says whether word *n* of the level below has a set bit. The top
/// level is one word. Finding costs at most two words per level: 3 levels serve 262 144 bits, 4 serve 16 M. Setting or
/// clearing touches one word, and one more per level only when a word becomes, or stops being, zero.
///
/// It is quick at ones only. Who wants the lowest *free* item keeps free items as ones.
///
/// ```
/// use kmm_kcoll::bitmap::{BitmapLayout, SummaryBitmap};
///
/// let mut words = vec![0; BitmapLayout::summary_words_for(1 << 20)];
/// let mut map = SummaryBitmap::new(&mut words[..], 1 << 20);
/// map.set(1_000_000);
/// assert_eq!(map.next_set(17), Some(1_000_000));
/// ```
#[derive(Clone, Debug)]
pub struct SummaryBitmap<S> {
    words: S,
    len: usize,
    levels: usize,
    /// Where each level starts in `words`, and after the last one, where it ends.
    starts: [usize; MAX_LEVELS + 1],
}

impl<S: AsRef<[u64]> + AsMut<[u64]>> SummaryBitmap<S> {
    /// A map of `len` zeros in `storage`, whatever that held.
    ///
    /// # Panics
    /// If `storage` has fewer than [`BitmapLayout::summary_words_for`]`(len)` words.
    pub fn new(mut storage: S, len: usize) -> Self {
        let needed = BitmapLayout::summary_words_for(len);
        let words = storage.as_mut();
        assert!(words.len() >= needed, "bitmap storage is too small");
        words[..needed].fill(0);

        let mut starts = [needed; MAX_LEVELS + 1];
        let (mut levels, mut at, mut size) = (0, 0, BitmapLayout::words_for(len));
        while at < needed {
            starts[levels] = at;
            levels += 1;
            at += size;
            size = BitmapLayout::words_for(size);
        }
        Self {
            words: storage,
            len,
            levels,
            starts,
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

    /// Whether no bit is set. O(1).
    pub fn none_set(&self) -> bool {
        self.levels == 0 || self.level(self.levels - 1)[0] == 0
    }

    /// How many bits are set. O(len).
    pub fn count_set(&self) -> usize {
        if self.levels == 0 {
            return 0;
        }
        let ones = |w: &u64| w.count_ones() as usize;
        self.level(0).iter().map(ones).sum()
    }

    /// Whether `bit` is set.
    ///
    /// # Panics
    /// If `bit >= len`.
    pub fn test(&self, bit: usize) -> bool {
        self.check(bit);
        let (word, mask) = split(bit);
        self.words.as_ref()[word] & mask != 0
    }

    /// Sets `bit` and says whether it was set before.
    ///
    /// # Panics
    /// If `bit >= len`.
    pub fn set(&mut self, bit: usize) -> bool {
        self.check(bit);
        let words = self.words.as_mut();
        let mut at = bit;
        for (level, &start) in self.starts[..self.levels].iter().enumerate() {
            let (index, mask) = split(at);
            let word = &mut words[start + index];
            let before = *word;
            *word |= mask;
            if before != 0 {
                return level == 0 && before & mask != 0;
            }
            at = index; // the word was zero: its summary bit is too
        }
        false
    }

    /// Clears `bit` and says whether it was set before.
    ///
    /// # Panics
    /// If `bit >= len`.
    pub fn clear(&mut self, bit: usize) -> bool {
        self.check(bit);
        if !self.test(bit) {
            return false;
        }
        let words = self.words.as_mut();
        let mut at = bit;
        for &start in &self.starts[..self.levels] {
            let (index, mask) = split(at);
            let word = &mut words[start + index];
            *word &= !mask;
            if *word != 0 {
                break;
            }
            at = index;
        }
        true
    }

    /// The lowest set bit. Linux: `find_first_bit`.
    pub fn first_set(&self) -> Option<usize> {
        self.next_set(0)
    }

    /// The lowest set bit at or above `from`. Linux: `find_next_bit`.
    pub fn next_set(&self, from: usize) -> Option<usize> {
        let mut at = from;
        for level in 0..self.levels {
            let index = at / WORD_BITS;
            let word = *self.level(level).get(index)? & mask_from(at);
            if word != 0 {
                return Some(self.descend(level, index, word));
            }
            at = index + 1;
        }
        None
    }

    /// The lowest zero at or above `from`. Summaries do not help here: one step per word passed.
    pub fn next_zero(&self, from: usize) -> Option<usize> {
        if from >= self.len {
            return None;
        }
        let words = self.level(0);
        let mut index = from / WORD_BITS;
        let mut zeros = !words[index] & mask_from(from);
        while zeros == 0 {
            index += 1;
            zeros = !*words.get(index)?;
        }
        let bit = index * WORD_BITS + zeros.trailing_zeros() as usize;
        (bit < self.len).then_some(bit)
    }

    /// Checks that every summary bit tells the truth (INV-21), in O(len).
    ///
    /// # Panics
    /// If one does not.
    pub fn validate(&self) {
        for level in 1..self.levels {
            let (below, here) = (self.level(level - 1), self.level(level));
            for bit in 0..here.len() * WORD_BITS {
                let (index, mask) = split(bit);
                let said = here[index] & mask != 0;
                let is = below.get(bit).is_some_and(|&word| word != 0);
                assert_eq!(said, is, "summary bit {bit} of level {level}");
            }
        }
        for bit in self.len..self.starts[1.min(self.levels)] * WORD_BITS {
            let (index, mask) = split(bit);
            assert_eq!(
                self.words.as_ref()[index] & mask,
                0,
                "bit {bit} past the end"
            );
        }
    }

    /// Gives the storage back.
    pub fn into_storage(self) -> S {
        self.words
    }

    /// The lowest set bit below the lowest one of `word`, which is word `index` of `level`.
    fn descend(&self, level: usize, index: usize, word: u64) -> usize {
        let mut at = index * WORD_BITS + word.trailing_zeros() as usize;
        for below in (0..level).rev() {
            at = at * WORD_BITS + self.level(below)[at].trailing_zeros() as usize;
        }
        at
    }

    fn level(&self, level: usize) -> &[u64] {
        &self.words.as_ref()[self.starts[level]..self.starts[level + 1]]
    }

    fn check(&self, bit: usize) {
        assert!(bit < self.len, "bit {bit} of a map of {}", self.len);
    }
}
