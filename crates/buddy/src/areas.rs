//! The free blocks of a zone, by type and order. Linux: `struct free_area`.
//!
//! This module alone knows how free blocks are kept; the algorithms next door only ask it. No descriptor is touched: of
//! each pageblock there are 64 bytes of bits, one for each frame, a word that has its type and counts its free blocks
//! ([`State`]), and a place in the trees that lead to the lowest pageblock of a type whose largest block is of an order
//! ([`Summary`]). A pageblock that is free as a whole has no bits, and its storage need not even be clear: memory that was
//! never allocated from is not written. So a lone page that comes back touches two cache lines that depend on where it lies,
//! its bits and its state; a third one only if the largest block of its pageblock changes.
//!
//! A block that is all that its pageblock lacked is recognised by the state alone, in one comparison: no bits are looked at
//! beyond its own, and none are written.
//!
//! Rejected, on 1 GiB, a zone alone, callgrind's instructions for one block with the loop around it: types read from
//! [`Pageblocks`], whole pageblocks and pairs counted in the states of both twins, and all counts of a type changed at once.
//! Frames back in random order took 185 that way, and take 146; blocks of order 9 in a row 177 and 110, back in random order
//! 184 and 126; order 4 out of a whole pageblock and back 801 and 480. Before that, a bit for each block and a tree for
//! each order: frames back in random order took twice the time, and batches of 63 in the order in which they came 233
//! instructions a frame, which are 32. Intrusive lists through the descriptors: five times the time of that.
//!
//! All blocks in a pageblock are of its type (INV-6), so a block is of the type that [`Pageblocks`] says, and to change the
//! type of a pageblock moves one bit, and counts.

use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn, PfnRange};

use crate::Pageblocks;
use crate::bits::{
    FRAMES, FreeBits, NR_WORDS, WORD_BITS, WORD_ORDER, WORDS, full_words, lowest_block,
    order_around, run,
};
use crate::state::{Counts, State};
use crate::summary::Summary;

mod batch;
mod look;
mod whole;

/// Free blocks, by pageblock and order.
#[derive(Debug)]
pub(crate) struct FreeAreas {
    /// The first frame of the first pageblock: aligned to [`MAX_ORDER`], so that the two halves of a block of that order
    /// differ in bit 0 of their numbers.
    start: usize,
    /// As many as are whole blocks of [`MAX_ORDER`].
    nr_slots: usize,
    /// The frames of two pageblocks each.
    maps: &'static mut [FreeBits],
    /// A [`State`] for each pageblock.
    states: &'static mut [FreeBits],
    summary: Summary,
    types: Pageblocks,
    /// Pageblocks before the first that has a type.
    skew: usize,
    /// By type; there are more of them than types, so that no number in a state is beyond them.
    counts: [Counts; State::NR_KINDS],
    nr_type_changes: u64,
}

/// Pageblocks of a block of [`MAX_ORDER`].
const HALVES: usize = MAX_ORDER.nr_pages() / FRAMES;
pub(crate) const WHOLE: usize = Order::PAGEBLOCK.index();
const PAIR: usize = MAX_ORDER.index();

const _: () = assert!(HALVES == 2);

const fn nr_slots(range: PfnRange) -> usize {
    if range.is_empty() {
        return 0;
    }
    let first = range.start().align_down(MAX_ORDER).index();
    let last = Pfn::new(range.end().index() - 1).align_down(MAX_ORDER);
    (last.index() - first) / FRAMES + HALVES
}

impl FreeAreas {
    /// How much storage the frames of `range` want.
    pub(crate) const fn storage_for(range: PfnRange) -> usize {
        let nr_slots = nr_slots(range);
        nr_slots / HALVES + nr_slots.div_ceil(NR_WORDS) + Summary::rows_for(nr_slots)
    }

    /// Areas for the frames of `range`, none of them free; `None` if there is too little of anything.
    pub(crate) fn new(
        range: PfnRange,
        storage: &'static mut [FreeBits],
        types: Pageblocks,
    ) -> Option<Self> {
        let nr_slots = nr_slots(range);
        let storage = storage.get_mut(..Self::storage_for(range))?;
        let (maps, storage) = storage.split_at_mut_checked(nr_slots / HALVES)?;
        storage.fill(FreeBits::EMPTY);
        let (states, rows) = storage.split_at_mut_checked(nr_slots.div_ceil(NR_WORDS))?;
        if !types.range().contains_range(range) || u32::try_from(range.nr_pages()).is_err() {
            return None;
        }
        let start = range.start().align_down(MAX_ORDER).index();
        let skew = types.first().wrapping_sub(start / FRAMES);
        for slot in 0..nr_slots {
            let state = State::new(types.nth(slot.wrapping_sub(skew)));
            *states[slot / NR_WORDS].word_mut(slot) = state.0;
        }
        Some(Self {
            start,
            nr_slots,
            maps,
            states,
            summary: Summary::new(nr_slots, rows),
            types,
            skew,
            counts: [Counts::NONE; State::NR_KINDS],
            nr_type_changes: 0,
        })
    }

    /// How many blocks of a type and of exactly `order` are free.
    #[inline]
    pub(crate) const fn nr_free(&self, kind: MigrateType, order: Order) -> usize {
        self.counts[kind.index()].get(order.index())
    }

    /// How many pageblocks of a type are free as a whole.
    pub(crate) const fn nr_whole(&self, kind: MigrateType) -> usize {
        self.counts[kind.index()].nr_whole()
    }

    /// How many frames of a type are free.
    #[inline]
    pub(crate) const fn nr_pages(&self, kind: MigrateType) -> usize {
        self.counts[kind.index()].nr_pages
    }

    /// How often a pageblock changed its type.
    pub(crate) const fn nr_type_changes(&self) -> u64 {
        self.nr_type_changes
    }

    /// The orders of the largest free blocks of all pageblocks of a type, as bits.
    #[inline]
    pub(crate) const fn largest_orders(&self, kind: MigrateType) -> u32 {
        self.summary.nonempty(kind)
    }

    /// The lowest pageblock of a type whose largest free block is of `order`.
    #[inline]
    pub(crate) fn first(&mut self, kind: MigrateType, order: Order) -> Option<usize> {
        self.summary.first(kind, order.index())
    }

    /// Takes a block smaller than a pageblock out of those of a type that are not free as a whole; the lowest part of the
    /// smallest that fits, and of those the lowest, in the pageblock that [`FreeAreas::fitting_fragment`] says.
    /// Linux: `__rmqueue_smallest`.
    #[inline(always)]
    pub(crate) fn take_part(&mut self, kind: MigrateType, order: Order) -> Option<Pfn> {
        let slot = self.fitting_fragment(kind, order)?;
        Some(self.take_fragment(slot, kind, order.index()))
    }

    /// The pageblock of a type that a block of `order` is to come from: of those with the smallest largest block that
    /// fits, the lowest.
    #[inline(always)]
    pub(crate) fn fitting(&mut self, kind: MigrateType, order: Order) -> Option<usize> {
        let fitting = self.summary.nonempty(kind) >> order.get() << order.get();
        if fitting == 0 {
            return None;
        }
        Some(
            self.summary
                .first_of(kind, fitting.trailing_zeros() as usize),
        )
    }

    /// The orders of the largest free blocks of the pageblocks of a type that are not free as a whole and have a block of
    /// `order`, as bits.
    #[inline]
    pub(crate) const fn fragments(&self, kind: MigrateType, order: Order) -> u32 {
        const SMALLER: u32 = (1 << WHOLE) - 1;
        (self.summary.nonempty(kind) & SMALLER) >> order.get() << order.get()
    }

    /// As [`FreeAreas::fitting`], of those that are not free as a whole.
    #[inline(always)]
    pub(crate) fn fitting_fragment(&mut self, kind: MigrateType, order: Order) -> Option<usize> {
        let fitting = self.fragments(kind, order);
        if fitting == 0 {
            return None;
        }
        Some(
            self.summary
                .first_of(kind, fitting.trailing_zeros() as usize),
        )
    }

    /// Of the pageblocks of a type that are not free as a whole and have a block of `order`, one with as much free as any, and
    /// how many frames: for each order of the largest block those are looked at that share a row of the tree with the last.
    /// Those in use are filled from below.
    pub(crate) fn emptiest(&self, kind: MigrateType, order: Order) -> Option<(usize, usize)> {
        let mut emptiest = None;
        let mut most = 0;
        for largest in (order.index()..WHOLE).rev() {
            for slot in self.summary.last_few(kind, largest) {
                let nr_free = self.state(slot).nr_pages();
                if nr_free > most {
                    most = nr_free;
                    emptiest = Some((slot, nr_free));
                }
            }
        }
        emptiest
    }

    /// The lowest pageblock of a type with a free block smaller than itself.
    #[inline]
    pub(crate) fn first_fragmented(&mut self, kind: MigrateType) -> Option<usize> {
        self.summary.first_fragmented(kind)
    }

    /// Whether one of `count` words of a pageblock has a free frame.
    fn has_any(&self, slot: usize, first: usize, count: usize) -> bool {
        self.words(slot)[first..first + count]
            .iter()
            .any(|word| *word != 0)
    }

    /// Adds a block, which merges with its twin as often as that is free too; whether nothing of it was free, else nothing
    /// has changed. Linux: `__free_one_page`.
    #[inline]
    pub(crate) fn merge(&mut self, pfn: Pfn, order: Order) -> bool {
        match order.index() {
            order @ 0..WORD_ORDER => self.add_small(pfn, order),
            order @ WORD_ORDER..WHOLE => self.add_words(pfn, order),
            order => self.add_large(pfn, order),
        }
    }

    /// Adds a block that is smaller than a word, unless a part of it is free; whether none was.
    #[inline(never)]
    fn add_small(&mut self, pfn: Pfn, order: usize) -> bool {
        let (word, bit) = self.place(pfn);
        self.add_to_word(word, bit, order)
    }

    /// The same of a place.
    #[inline(always)]
    pub(crate) fn add_to_word(&mut self, word: usize, bit: usize, order: usize) -> bool {
        let (slot, nr) = (word / WORDS, word % WORDS);
        let state = self.states[slot / NR_WORDS].word_mut(slot);
        let words = self.maps[slot / HALVES].pageblock_mut(slot);
        let mut before = State(*state);
        if !before.is_plain() {
            if before.is_whole() {
                return false;
            }
            *words = [0; WORDS];
            before = before.with_known();
        }
        let (bits, block) = (words[nr], run(bit, 1 << order));
        if bits & block != 0 {
            return false;
        }
        words[nr] = bits | block;
        let mut level = order_around(bits | block, bit);
        if level == WORD_ORDER {
            if before.lacks_only(order) {
                self.fill_up(slot, before, order);
                return true;
            }
            level = level_of_word(words, nr);
        }
        *state = before.merged(order, level).0;
        self.counts[before.kind_number()].merge(order, level);
        if !before.has_from(level) {
            self.summary
                .replace(before.kind(), slot, before.largest(), level);
        }
        true
    }

    /// Adds a block of whole words, but smaller than a pageblock, unless a part of it is free; whether none was.
    #[inline(never)]
    fn add_words(&mut self, pfn: Pfn, order: usize) -> bool {
        let (word, _) = self.place(pfn);
        let (slot, first, count) = (word / WORDS, word % WORDS, 1 << (order - WORD_ORDER));
        let state = self.states[slot / NR_WORDS].word_mut(slot);
        let words = self.maps[slot / HALVES].pageblock_mut(slot);
        let mut before = State(*state);
        if !before.is_known() {
            if before.is_whole() {
                return false;
            }
            *words = [0; WORDS];
            before = before.with_known();
        }
        let block = &mut words[first..first + count];
        if block.iter().any(|word| *word != 0) {
            return false;
        }
        if before.lacks_only(order) {
            self.fill_up(slot, before, order);
            return true;
        }
        block.fill(u64::MAX);
        let level = level_of_word(words, first);
        let kind = before.kind();
        *state = before.merged(order, level).0;
        self.counts[kind.index()].merge(order, level);
        if !before.has_from(level) {
            self.summary.replace(kind, slot, before.largest(), level);
        }
        true
    }

    /// Takes the lowest part of a block out: the smallest that fits, then the lowest of a pageblock that has one.
    /// Linux: `expand`.
    pub(crate) fn take(&mut self, slot: usize, kind: MigrateType, order: Order) -> Pfn {
        if self.state(slot).is_whole() {
            self.take_of_whole(slot, kind, order.index());
            return self.start_of(slot);
        }
        self.take_fragment(slot, kind, order.index())
    }

    /// The same, of a pageblock that is not free as a whole.
    #[inline(always)]
    fn take_fragment(&mut self, slot: usize, kind: MigrateType, order: usize) -> Pfn {
        let state = self.states[slot / NR_WORDS].word_mut(slot);
        let before = State(*state);
        let from = before.smallest(order);
        let after = before.split(from, order);
        *state = after.0;
        self.counts[kind.index()].split(from, order);
        if !after.has_from(from) {
            // There was none above.
            self.summary.replace(kind, slot, from, after.largest());
        }
        let words = self.maps[slot / HALVES].pageblock_mut(slot);
        let at = lowest_block(words, from);
        match order.checked_sub(WORD_ORDER) {
            None => words[at / WORD_BITS % WORDS] &= !run(at % WORD_BITS, 1 << order),
            Some(above) => words[at / WORD_BITS % WORDS..][..1 << above].fill(0),
        }
        self.start_of(slot) + at
    }

    /// How many pageblocks there are, those that only fill up a block of [`MAX_ORDER`] included.
    pub(crate) const fn nr_slots(&self) -> usize {
        self.nr_slots
    }

    /// The first frame of a pageblock.
    #[inline]
    pub(crate) const fn start_of(&self, slot: usize) -> Pfn {
        Pfn::new(self.start + slot * FRAMES)
    }

    /// The pageblock of a frame.
    #[inline]
    pub(crate) const fn slot(&self, pfn: Pfn) -> usize {
        (pfn.index() - self.start) / FRAMES
    }

    /// The pageblocks of a range of frames.
    pub(crate) fn slots(&self, range: PfnRange) -> core::ops::Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        self.slot(range.start())..self.slot(range.end() - 1) + 1
    }

    /// The frame's number within its pageblock.
    #[inline]
    const fn offset(&self, pfn: Pfn) -> usize {
        pfn.index() % FRAMES
    }

    /// The type of a pageblock.
    #[inline]
    pub(crate) fn kind(&self, slot: usize) -> MigrateType {
        self.state(slot).kind()
    }

    /// Whether the type noted with its state is that of the pageblock.
    pub(crate) fn has_its_type(&self, slot: usize) -> bool {
        self.kind(slot) == self.types.nth(slot.wrapping_sub(self.skew))
    }

    /// The type that an isolated pageblock had before.
    pub(crate) fn kind_before(&self, slot: usize) -> MigrateType {
        self.types.nth_before(slot.wrapping_sub(self.skew))
    }

    #[inline]
    pub(crate) fn state(&self, slot: usize) -> State {
        State(self.states[slot / NR_WORDS].word(slot))
    }

    /// The frames of a pageblock, as bits.
    #[inline]
    pub(crate) const fn words(&self, slot: usize) -> &[u64; WORDS] {
        self.maps[slot / HALVES].pageblock(slot)
    }

    #[inline]
    const fn words_mut(&mut self, slot: usize) -> &mut [u64; WORDS] {
        self.maps[slot / HALVES].pageblock_mut(slot)
    }

    pub(crate) const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The order of the block around a free frame of a pageblock.
    #[inline]
    fn level(&self, slot: usize, at: usize) -> usize {
        let nr = at / WORD_BITS;
        match order_around(self.words(slot)[nr], at % WORD_BITS) {
            WORD_ORDER => level_of_word(self.words(slot), nr),
            level => level,
        }
    }

    /// The frames begin at a word if they are more than a word has.
    fn clear_run(&mut self, slot: usize, at: usize, len: usize) {
        let (first, words) = (at / WORD_BITS, self.words_mut(slot));
        if len <= WORD_BITS {
            words[first] &= !run(at % WORD_BITS, len);
            return;
        }
        let last = first + len / WORD_BITS;
        words[first..last].fill(0);
        if len % WORD_BITS != 0 {
            words[last] &= u64::MAX << (len % WORD_BITS);
        }
    }

    /// Makes the bits of a pageblock say what is free, if they do not, as nothing is; its state.
    #[inline]
    fn know(&mut self, slot: usize) -> State {
        let state = self.state(slot);
        if !state.is_known() {
            *self.words_mut(slot) = [0; WORDS];
            self.set_state(slot, state.with_known());
        }
        state.with_known()
    }

    #[inline]
    pub(crate) fn set_state(&mut self, slot: usize, state: State) {
        *self.states[slot / NR_WORDS].word_mut(slot) = state.0;
    }

    /// Replaces the state of a pageblock, and what is said of it elsewhere.
    #[inline]
    fn change(&mut self, slot: usize, kind: MigrateType, before: State, after: State) {
        self.set_state(slot, after);
        let (before, after) = (before.largest(), after.largest());
        if before != after {
            self.summary.replace(kind, slot, before, after);
        }
    }
}

/// The order of the block that a word lies in whose frames are all free.
#[inline(never)]
fn level_of_word(words: &[u64; WORDS], nr: usize) -> usize {
    WORD_ORDER + order_around(full_words(words), nr)
}
