//! Single frames, many at a time.

use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn};

use super::{FreeAreas, WHOLE, level_of_word};
use crate::bits::{
    FRAMES, WORD_BITS, WORD_ORDER, WORDS, blocks_of, first_block, full_words, lowest_block,
    order_around, run,
};
use crate::state::State;

impl FreeAreas {
    /// The word of a frame, counted from the first of all, and its bit.
    #[inline]
    pub(crate) const fn place(&self, pfn: Pfn) -> (usize, usize) {
        let at = pfn.index() - self.start;
        (at / WORD_BITS, at % WORD_BITS)
    }

    /// The frame at a place.
    pub(crate) const fn frame_at(&self, word: usize, bit: usize) -> Pfn {
        Pfn::new(self.start + word * WORD_BITS + bit)
    }

    /// Adds the frames of one word, those that are not free yet; the others.
    #[inline]
    pub(crate) fn add_frames(&mut self, word: usize, frames: u64) -> u64 {
        let (slot, nr) = (word / WORDS, word % WORDS);
        let before = self.state(slot);
        if !before.is_plain() {
            if before.is_whole() {
                return frames;
            }
            self.know(slot);
        }
        let before = before.with_known();
        let kind = before.kind();
        let (mut bits, mut after) = (self.words(slot)[nr], before);
        let (twice, mut left) = (bits & frames, frames & !bits);
        while left != 0 {
            let (order, at) = first_block(left);
            let block = run(at, 1 << order);
            left &= !block;
            bits |= block;
            let mut level = order_around(bits, at);
            if level == WORD_ORDER {
                // No frame is left: the word is full.
                if after.lacks_only(order) {
                    self.fill_up(slot, before, order);
                    return twice;
                }
                self.words_mut(slot)[nr] = bits;
                level = level_of_word(self.words(slot), nr);
            }
            self.counts[kind.index()].merge(order, level);
            after = after.merged(order, level);
        }
        self.words_mut(slot)[nr] = bits;
        self.change(slot, kind, before, after);
        twice
    }

    /// Takes up to `most` frames out of the blocks of a pageblock that are smaller than itself, a word after the other; how
    /// many were given to `sink`, as runs.
    pub(crate) fn take_frames(
        &mut self,
        slot: usize,
        most: usize,
        sink: &mut impl FnMut(Pfn, usize),
    ) -> usize {
        let (kind, start, before) = (self.kind(slot), self.start_of(slot), self.state(slot));
        let (mut left, mut after) = (most, before);
        for nr in 0..WORDS {
            let mut word = self.words(slot)[nr];
            if word == 0 {
                continue;
            }
            let first = start + nr * WORD_BITS;
            if word == u64::MAX {
                let order = level_of_word(self.words(slot), nr);
                let count = left.min(1 << order);
                sink(first, count);
                self.clear_run(slot, nr * WORD_BITS, count);
                self.counts[kind.index()].sub(order, 1);
                after = self.rest(kind, after.minus(order), (1 << order) - count);
                left -= count;
            } else {
                // Those that are blocks of their own, without asking how large each is.
                let mut singles = blocks_of(word, 0);
                let mut count = 0;
                while singles != 0 && count < left {
                    sink(first + singles.trailing_zeros() as usize, 1);
                    word &= !(singles & singles.wrapping_neg());
                    singles &= singles - 1;
                    count += 1;
                }
                self.counts[kind.index()].sub(0, count);
                after = after.without_singles(count);
                left -= count;
                while word != 0 && left > 0 {
                    let (order, at) = first_block(word);
                    let count = left.min(1 << order);
                    sink(first + at, count);
                    word &= !run(at, count);
                    self.counts[kind.index()].sub(order, 1);
                    after = self.rest(kind, after.minus(order), (1 << order) - count);
                    left -= count;
                }
                self.words_mut(slot)[nr] = word;
            }
            if left == 0 {
                break;
            }
        }
        self.change(slot, kind, before, after);
        most - left
    }

    /// Takes up to `most` blocks of `order` out of the pageblock that [`FreeAreas::fitting`] says, which is not free as a
    /// whole, as [`FreeAreas::take_part`] does one after the other: as long as it has one that fits, it remains the one, and
    /// of a block that is cut the next part follows. How many were given to `sink`.
    pub(crate) fn take_blocks(
        &mut self,
        kind: MigrateType,
        order: Order,
        most: usize,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let Some(slot) = self.fitting(kind, order) else {
            return 0;
        };
        let (start, before, order) = (self.start_of(slot), self.state(slot), order.index());
        let (mut left, mut after) = (most, before);
        while left > 0 && after.has_from(order) {
            let from = after.smallest(order);
            let at = lowest_block(self.words(slot), from);
            let count = left.min(1 << (from - order));
            (0..count).for_each(|i| sink(start + at + (i << order)));
            self.clear_run(slot, at, count << order);
            self.counts[kind.index()].sub(from, 1);
            after = self.rest(kind, after.minus(from), (1 << from) - (count << order));
            left -= count;
        }
        self.change(slot, kind, before, after);
        most - left
    }

    /// The same of the first pageblock that is free as a whole.
    pub(crate) fn take_one_as(
        &mut self,
        kind: MigrateType,
        order: Order,
        most: usize,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let Some(pfn) = self.take_one(kind) else {
            return 0;
        };
        let order = order.index();
        let count = most.min(FRAMES >> order);
        (0..count).for_each(|i| sink(pfn + (i << order)));
        if count << order < FRAMES {
            self.leave_above(self.slot(pfn), count << order);
        }
        count
    }

    /// The same of the first two that are one block, where no other is free as a whole.
    pub(crate) fn take_pair_as(
        &mut self,
        kind: MigrateType,
        order: Order,
        most: usize,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let count = most.min(MAX_ORDER.nr_pages() >> order.get());
        if count << order.get() < MAX_ORDER.nr_pages() {
            // The upper half is alone then.
            return self.take_one_as(kind, order, most, sink);
        }
        let Some(pfn) = self.take_pair(kind) else {
            return 0;
        };
        (0..count).for_each(|i| sink(pfn + (i << order.get())));
        count
    }

    /// Gives back what is above the first `count` frames of a pageblock that was free as a whole and was taken.
    pub(crate) fn leave_above(&mut self, slot: usize, count: usize) {
        let before = self.state(slot).with_known();
        let kind = before.kind();
        *self.words_mut(slot) = [u64::MAX; WORDS];
        self.clear_run(slot, 0, count);
        let after = self.rest(kind, before, FRAMES - count);
        self.change(slot, kind, before, after);
    }

    /// Takes frames out that are all free and lie in one pageblock, `len` of them from `pfn` on.
    pub(crate) fn carve(&mut self, pfn: Pfn, len: usize) {
        let (slot, at) = (self.slot(pfn), self.offset(pfn));
        let (kind, mut before) = (self.kind(slot), self.state(slot));
        if before.is_whole() {
            let from = self.summary.leave(kind, slot);
            self.counts[kind.index()].split(from, WHOLE);
            before = before.with_none();
            self.set_state(slot, before);
            if len == FRAMES {
                return;
            }
            before = before.with_known();
            *self.words_mut(slot) = [u64::MAX; WORDS];
        }
        for frame in at..at + len {
            self.words_mut(slot)[frame / WORD_BITS] &= !run(frame % WORD_BITS, 1);
        }
        let after = self.counted(slot, before);
        self.counts[kind.index()].sub_all(before);
        self.counts[kind.index()].add_all(after);
        self.change(slot, kind, before, after);
    }

    /// Counts what is left of a block as blocks of the sizes that add up to it: `nr_pages` frames. The state after.
    #[inline]
    fn rest(&mut self, kind: MigrateType, before: State, nr_pages: usize) -> State {
        let counts = &mut self.counts[kind.index()];
        let (mut state, mut left) = (before, nr_pages);
        while left != 0 {
            let order = left.trailing_zeros() as usize;
            state = state.plus(order);
            counts.add(order, 1);
            left &= left - 1;
        }
        state
    }

    /// The state that the bits of a pageblock say.
    fn counted(&self, slot: usize, before: State) -> State {
        let mut state = before.with_none().with_known();
        for order in 0..WHOLE {
            let count = match order.checked_sub(WORD_ORDER) {
                Some(above) => blocks_of(full_words(self.words(slot)), above).count_ones(),
                None => (0..WORDS)
                    .map(|nr| blocks_of(self.words(slot)[nr], order).count_ones())
                    .sum(),
            };
            state = (0..count).fold(state, |state, _| state.plus(order));
        }
        state
    }
}
