//! Pageblocks that are free as a whole, pairs of them, and pageblocks that change their type.

use kmm_frame::{MAX_ORDER, MigrateType, Order, Pfn};

use super::{FreeAreas, HALVES, PAIR, WHOLE};
use crate::bits::{FRAMES, WORDS};
use crate::pageblock::is_mergeable;
use crate::state::{NONE, State};

impl FreeAreas {
    /// Adds a pageblock or two, unless a part of it is free; whether none was.
    #[inline(never)]
    pub(super) fn merge_large(&mut self, slot: usize, order: usize) -> bool {
        let (lower, kind) = (self.state(slot), self.kind(slot));
        if order == WHOLE {
            if !lower.is_empty() {
                return false;
            }
            self.nr_pages[kind.index()] += FRAMES;
            self.add_whole(slot, kind);
            return true;
        }
        let (upper, other) = (self.state(slot | 1), self.kind(slot | 1));
        if !lower.is_empty() || !upper.is_empty() {
            return false;
        }
        self.nr_pages[kind.index()] += FRAMES;
        self.nr_pages[other.index()] += FRAMES;
        if kind == other {
            self.counts[kind.index()].add(PAIR, 1);
            self.set_state(slot, lower.plus(PAIR));
            self.set_state(slot | 1, upper.with_upper());
            self.summary.replace(kind, slot, NONE, PAIR);
        } else {
            self.add_whole(slot, kind);
            self.add_whole(slot | 1, other);
        }
        true
    }

    /// One more block of the size of a pageblock, which joins its twin if that is one too.
    ///
    /// Linux: `__free_one_page`. Twins of different types join if both types may, and both are of the type of the one that
    /// comes last then.
    #[inline]
    pub(super) fn add_whole(&mut self, slot: usize, kind: MigrateType) {
        if self.state(slot ^ 1).count(WHOLE) != 0 && self.adopt_twin(slot, kind) {
            return;
        }
        self.counts[kind.index()].add(WHOLE, 1);
        self.set_state(slot, self.state(slot).plus(WHOLE));
        self.summary.replace(kind, slot, NONE, WHOLE);
    }

    /// Makes one block of a pageblock and its twin, which is free as a whole, if their types allow it; whether they do.
    fn adopt_twin(&mut self, slot: usize, kind: MigrateType) -> bool {
        let (twin, other) = (slot ^ 1, self.kind(slot ^ 1));
        if other != kind {
            if !is_mergeable(other) || !is_mergeable(kind) {
                return false;
            }
            self.move_to(twin, kind);
        }
        let counts = &mut self.counts[kind.index()];
        counts.sub(WHOLE, 1);
        counts.add(PAIR, 1);
        let state = self.state(twin).minus(WHOLE);
        self.set_state(twin, state);
        self.summary.replace(kind, twin, WHOLE, NONE);
        let (lower, upper) = (slot & !1, slot | 1);
        self.set_state(lower, self.state(lower).plus(PAIR));
        self.set_state(upper, self.state(upper).with_upper());
        self.summary.replace(kind, lower, NONE, PAIR);
        true
    }

    /// All frames of a pageblock are free now, the state is from before. A pageblock that is one block has no bits. The
    /// counts have it as a block.
    #[inline(never)]
    pub(super) fn complete(&mut self, slot: usize, kind: MigrateType, before: State) {
        *self.words_mut(slot) = [0; WORDS];
        self.counts[kind.index()].sub(WHOLE, 1);
        self.change(slot, kind, before, State::EMPTY);
        self.add_whole(slot, kind);
    }

    /// Takes a pageblock or two, of a type, that are free as a whole: the lowest, one alone first.
    #[inline(never)]
    pub(crate) fn take_large(&mut self, kind: MigrateType, order: Order) -> Option<Pfn> {
        let slot = self.fitting(kind, order)?;
        let state = self.state(slot);
        self.nr_pages[kind.index()] -= order.nr_pages();
        let counts = &mut self.counts[kind.index()];
        if state.count(WHOLE) != 0 {
            counts.sub(WHOLE, 1);
            self.set_state(slot, state.minus(WHOLE));
            self.summary.replace(kind, slot, WHOLE, NONE);
            return Some(self.start_of(slot));
        }
        counts.sub(PAIR, 1);
        let upper = self.state(slot | 1).without_upper();
        self.set_state(slot, state.minus(PAIR));
        self.summary.replace(kind, slot, PAIR, NONE);
        if order == MAX_ORDER {
            self.set_state(slot | 1, upper);
        } else {
            self.counts[kind.index()].add(WHOLE, 1);
            self.set_state(slot | 1, upper.plus(WHOLE));
            self.summary.replace(kind, slot | 1, NONE, WHOLE);
        }
        Some(self.start_of(slot))
    }

    /// Takes as much out of the pageblock, free as a whole, as `order` goes.
    #[inline(never)]
    pub(super) fn take_whole(
        &mut self,
        slot: usize,
        kind: MigrateType,
        before: State,
        order: usize,
    ) {
        let from = before.largest();
        let mut after = before.minus(from);
        self.counts[kind.index()].sub(from, 1);
        if from == PAIR {
            let upper = self.state(slot | 1).without_upper();
            if order == PAIR {
                self.set_state(slot | 1, upper);
            } else {
                self.counts[kind.index()].add(WHOLE, 1);
                self.set_state(slot | 1, upper.plus(WHOLE));
                self.summary.replace(kind, slot | 1, NONE, WHOLE);
            }
        }
        if order < WHOLE {
            *self.words_mut(slot) = [u64::MAX; WORDS];
            self.clear_run(slot, 0, 1 << order);
            self.counts[kind.index()].add(WHOLE, 1);
            self.counts[kind.index()].split(WHOLE, order);
            after = State::EMPTY.plus(WHOLE).split(WHOLE, order);
        }
        self.set_state(slot, after);
        self.summary.replace(kind, slot, from, after.largest());
    }

    /// Changes the type of a pageblock and of what is free in it; the type before.
    pub(crate) fn set_kind(&mut self, slot: usize, kind: MigrateType) -> MigrateType {
        let before = self.kind(slot);
        if before == kind {
            return before;
        }
        self.part(slot & !1);
        self.move_to(slot, kind);
        let state = self.state(slot);
        let twin = slot ^ 1;
        let both = state.count(WHOLE) != 0 && self.state(twin).count(WHOLE) != 0;
        if both && self.kind(twin) == kind {
            self.counts[kind.index()].sub(WHOLE, 1);
            self.change(slot, kind, state, state.minus(WHOLE));
            self.adopt_twin(slot, kind);
        }
        before
    }

    /// Makes two blocks of one, if it is one.
    pub(super) fn part(&mut self, slot: usize) {
        let (lower, upper) = (self.state(slot), self.state(slot | 1));
        if lower.count(PAIR) == 0 {
            return;
        }
        let kind = self.kind(slot);
        self.counts[kind.index()].sub(PAIR, 1);
        self.counts[kind.index()].add(WHOLE, HALVES);
        self.change(slot, kind, lower, lower.minus(PAIR).plus(WHOLE));
        let apart = upper.without_upper();
        self.change(slot | 1, kind, apart, apart.plus(WHOLE));
    }

    /// Takes all that is free in a pageblock from one type to another.
    pub(super) fn move_to(&mut self, slot: usize, kind: MigrateType) {
        let from = self.kind(slot);
        self.types.set_nth(slot.wrapping_sub(self.skew), kind);
        self.nr_type_changes += 1;
        let state = self.state(slot);
        self.counts[from.index()].sub_all(state);
        self.counts[kind.index()].add_all(state);
        self.nr_pages[from.index()] -= state.nr_pages();
        self.nr_pages[kind.index()] += state.nr_pages();
        self.summary.replace(from, slot, state.largest(), NONE);
        self.summary.replace(kind, slot, NONE, state.largest());
    }
}
