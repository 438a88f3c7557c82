//! Pageblocks that are free as a whole, and pageblocks that change their type.
//!
//! A state says only that all of a pageblock is free. Whether it is one block with its twin follows from the types of both, and
//! is told by the summary: so nothing is done to the twin when one of them comes or goes.

use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn};

use super::{FreeAreas, PAIR, WHOLE};
use crate::bits::{NR_WORDS, WORD_ORDER, WORDS};
use crate::pageblock::is_mergeable;
use crate::state::{NONE, State};

impl FreeAreas {
    /// Adds a pageblock or two, unless a part of it is free; whether none was.
    #[inline(never)]
    pub(super) fn add_large(&mut self, pfn: Pfn, order: usize) -> bool {
        if order == WHOLE {
            return self.add_whole(pfn);
        }
        let slot = self.slot(pfn);
        let lower = self.state(slot);
        let upper = self.state(slot | 1);
        let is_new = lower.is_empty() && upper.is_empty();
        if is_new {
            self.add_pair(slot, lower, upper);
        }
        is_new
    }

    /// Adds a pageblock, unless a part of it is free; whether none was.
    #[inline(always)]
    pub(crate) fn add_whole(&mut self, pfn: Pfn) -> bool {
        let slot = self.slot(pfn);
        let before = self.state(slot);
        if before.is_empty() {
            self.complete(slot, before, WHOLE);
        }
        before.is_empty()
    }

    #[inline(always)]
    fn add_pair(&mut self, slot: usize, lower: State, upper: State) {
        let kind = lower.kind();
        if kind != upper.kind() {
            return self.add_halves(slot, lower, upper);
        }
        self.set_state(slot, lower.with_all());
        self.set_state(slot | 1, upper.with_all());
        self.counts[kind.index()].add(PAIR, 1);
        self.summary.replace(kind, slot, NONE, PAIR);
    }

    #[cold]
    #[inline(never)]
    fn add_halves(&mut self, slot: usize, lower: State, upper: State) {
        self.complete(slot, lower, WHOLE);
        self.complete(slot | 1, upper, WHOLE);
    }

    /// A block of `order` came, and all frames of a pageblock are free now, of which no block is told any more; the state is
    /// from before. It joins its twin if that is free as a whole too.
    ///
    /// Linux: `__free_one_page`. Twins of different types join if both types may, and both are of the type of the one that
    /// comes last then.
    #[inline(always)]
    pub(super) fn complete(&mut self, slot: usize, before: State, order: usize) {
        let kind = self.make_whole(slot, before);
        let level = self.summary.join(kind, slot);
        self.counts[kind.index()].merge(order, level);
    }

    /// As [`FreeAreas::complete`], of a pageblock of which this block was all that lacked: so it had one of half its size.
    #[inline(never)]
    pub(super) fn fill_up(&mut self, slot: usize, before: State, order: usize) {
        let kind = self.make_whole(slot, before);
        let level = self.summary.complete(kind, slot);
        self.counts[kind.index()].merge(order, level);
    }

    #[inline(always)]
    fn make_whole(&mut self, slot: usize, before: State) -> MigrateType {
        let kind = before.kind();
        let states = &mut self.states[slot / NR_WORDS];
        *states.word_mut(slot) = before.with_all().0;
        let twin = State(states.word(slot ^ 1));
        // No jump for each of the two: whether the twin is free cannot be foreseen.
        if twin.is_whole() & (twin.kind_number() != before.kind_number()) {
            self.adopt_twin(slot, kind, twin.kind());
        }
        kind
    }

    #[cold]
    #[inline(never)]
    fn adopt_twin(&mut self, slot: usize, kind: MigrateType, other: MigrateType) {
        if is_mergeable(other) && is_mergeable(kind) {
            self.move_to(slot ^ 1, kind);
        }
    }

    /// Takes a pageblock of a type that is free as a whole: the lowest, one alone first.
    #[inline(always)]
    pub(crate) fn take_one(&mut self, kind: MigrateType) -> Option<Pfn> {
        let (slot, from) = self.summary.take_whole(kind)?;
        self.counts[kind.index()].split(from, WHOLE);
        self.set_state(slot, State::new(kind));
        Some(self.start_of(slot))
    }

    /// Takes up to `most` pageblocks of a type that are free as a whole: those that are alone, then twins; how many.
    #[inline(always)]
    pub(crate) fn take_wholes(
        &mut self,
        kind: MigrateType,
        most: usize,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let mut left = most;
        while left > 0 {
            if let Some(slot) = self.summary.take_first(kind, WHOLE) {
                self.counts[kind.index()].sub(WHOLE, 1);
                self.set_state(slot, State::new(kind));
                sink(self.start_of(slot));
                left -= 1;
            } else if left == 1 {
                let Some(pfn) = self.take_one(kind) else {
                    break;
                };
                sink(pfn);
                left = 0;
            } else {
                let Some(pfn) = self.take_pair(kind) else {
                    break;
                };
                sink(pfn);
                sink(pfn + Order::PAGEBLOCK.nr_pages());
                left -= 2;
            }
        }
        most - left
    }

    /// Takes two pageblocks of a type that are one block: the lowest.
    #[inline(always)]
    pub(crate) fn take_pair(&mut self, kind: MigrateType) -> Option<Pfn> {
        let slot = self.summary.take_first(kind, PAIR)?;
        self.counts[kind.index()].sub(PAIR, 1);
        let states = &mut self.states[slot / NR_WORDS];
        *states.word_mut(slot) = State::new(kind).0;
        *states.word_mut(slot | 1) = State::new(kind).0;
        Some(self.start_of(slot))
    }

    /// Takes a part out of the first pageblock of a type that is free as a whole.
    #[inline(never)]
    pub(crate) fn split_large(&mut self, kind: MigrateType, order: Order) -> Option<Pfn> {
        let order = order.index();
        let (slot, from) = self.summary.split_whole(kind)?;
        self.counts[kind.index()].split(from, order);
        self.fill_above(slot, kind, order);
        Some(self.start_of(slot))
    }

    /// Takes as much out of a pageblock that is free as a whole as `order` goes, and its twin for [`MAX_ORDER`].
    pub(super) fn take_of_whole(&mut self, slot: usize, kind: MigrateType, order: usize) {
        self.set_state(slot, State::new(kind));
        if order == PAIR {
            self.set_state(slot | 1, State::new(kind));
            self.summary.replace(kind, slot, PAIR, NONE);
            return self.counts[kind.index()].sub(PAIR, 1);
        }
        let from = self.summary.leave(kind, slot);
        self.counts[kind.index()].split(from, order);
        if order < WHOLE {
            self.summary.replace(kind, slot, NONE, WHOLE - 1);
            self.fill_above(slot, kind, order);
        }
    }

    /// All of a pageblock is free but its lowest block of `order`.
    #[inline(always)]
    fn fill_above(&mut self, slot: usize, kind: MigrateType, order: usize) {
        self.set_state(slot, State::new(kind).split_whole(order));
        let words = self.words_mut(slot);
        *words = [u64::MAX; WORDS];
        match order.checked_sub(WORD_ORDER) {
            None => words[0] <<= 1 << order,
            Some(above) => words[..1 << above.min(2)].fill(0),
        }
    }

    /// The order of the block that is, or is a half of, a pageblock that is free as a whole.
    pub(super) fn order_of_whole(&self, slot: usize) -> Order {
        let (own, twin) = (self.state(slot), self.state(slot ^ 1));
        if twin.is_whole() && own.kind() == twin.kind() {
            MAX_ORDER
        } else {
            Order::PAGEBLOCK
        }
    }

    /// Changes the type of a pageblock and of what is free in it; the type before.
    pub(crate) fn set_kind(&mut self, slot: usize, kind: MigrateType) -> MigrateType {
        let before = self.kind(slot);
        if before != kind {
            self.move_to(slot, kind);
        }
        before
    }

    /// Takes all that is free in a pageblock from one type to another.
    pub(super) fn move_to(&mut self, slot: usize, kind: MigrateType) {
        let (state, from) = (self.state(slot), self.kind(slot));
        self.types.set_nth(slot.wrapping_sub(self.skew), kind);
        self.nr_type_changes += 1;
        self.set_state(slot, state.with_kind(kind));
        if state.is_whole() {
            let level = self.summary.leave(from, slot);
            self.counts[from.index()].split(level, WHOLE);
            let level = self.summary.join(kind, slot);
            return self.counts[kind.index()].merge(WHOLE, level);
        }
        self.counts[from.index()].sub_all(state);
        self.counts[kind.index()].add_all(state);
        self.summary.replace(from, slot, state.largest(), NONE);
        self.summary.replace(kind, slot, NONE, state.largest());
    }
}
