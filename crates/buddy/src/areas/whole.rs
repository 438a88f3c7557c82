//! Pageblocks that are free as a whole, pairs of them, and pageblocks that change their type.

use kmm_frame::MigrateType;

use super::{FreeAreas, HALVES, PAIR, WHOLE};
use crate::bits::{FRAMES, WORDS};
use crate::pageblock::is_mergeable;
use crate::state::State;

impl FreeAreas {
    /// Adds a pageblock of which nothing is free.
    pub(super) fn merge_whole(&mut self, slot: usize) {
        let kind = self.kind(slot);
        self.nr_pages[kind.index()] += FRAMES;
        self.add_whole(slot, kind);
    }

    /// Adds two pageblocks of which nothing is free.
    pub(super) fn merge_pair(&mut self, slot: usize) {
        let (kind, upper) = (self.kind(slot), slot | 1);
        if kind != self.kind(upper) {
            self.merge_whole(slot);
            return self.merge_whole(upper);
        }
        self.nr_pages[kind.index()] += HALVES * FRAMES;
        self.counts[kind.index()].add(PAIR, 1);
        let before = self.state(slot);
        self.change(slot, kind, before, before.plus(PAIR));
        self.set_state(upper, self.state(upper).with_upper());
    }

    /// A pageblock that is said to be one block has no bits.
    #[inline(never)]
    pub(super) fn seal(&mut self, slot: usize, kind: MigrateType) {
        (0..WORDS).for_each(|nr| *self.word_mut(slot, nr) = 0);
        if self.state(slot ^ 1).count(WHOLE) != 0 {
            let before = self.state(slot);
            self.change(slot, kind, before, before.minus(WHOLE));
            self.counts[kind.index()].sub(WHOLE, 1);
            self.add_whole(slot, kind);
        }
    }

    /// Takes as much out of the pageblock, free as a whole, as `order` goes; the counts know it.
    #[inline]
    pub(super) fn take_whole(&mut self, slot: usize, kind: MigrateType, from: usize, order: usize) {
        let mut before = self.state(slot);
        if from == PAIR {
            let upper = self.state(slot | 1);
            let apart = upper.without_upper();
            if order == PAIR {
                self.set_state(slot | 1, apart);
                return self.change(slot, kind, before, before.minus(PAIR));
            }
            self.change(slot | 1, kind, apart, apart.plus(WHOLE));
        }
        let mut after = before.minus(from);
        if order < WHOLE {
            (0..WORDS).for_each(|nr| *self.word_mut(slot, nr) = u64::MAX);
            self.clear_run(slot, 0, 1 << order);
            before = before.with_known();
            after = after.with_known().plus(WHOLE).split(WHOLE, order);
        }
        self.change(slot, kind, before, after);
    }

    /// Changes the type of a pageblock and of what is free in it; the type before.
    pub(crate) fn set_kind(&mut self, slot: usize, kind: MigrateType) -> MigrateType {
        let before = self.kind(slot);
        if before == kind {
            return before;
        }
        self.part(slot & !1);
        self.move_to(slot, kind);
        let is_alone = |slot| self.state(slot).count(WHOLE) != 0;
        if self.kind(slot ^ 1) == kind && is_alone(slot) && is_alone(slot ^ 1) {
            self.join(slot & !1, kind);
        }
        before
    }

    /// One more block of the size of a pageblock, which joins its twin if that is one too.
    ///
    /// Linux: `__free_one_page`. Twins of different types join if both types may, and both are of the type of the one that
    /// comes last then.
    fn add_whole(&mut self, slot: usize, kind: MigrateType) {
        let before = self.state(slot);
        self.counts[kind.index()].add(WHOLE, 1);
        self.change(slot, kind, before, before.plus(WHOLE));
        let twin = slot ^ 1;
        if self.state(twin).count(WHOLE) == 0 {
            return;
        }
        let other = self.kind(twin);
        if other != kind {
            if !is_mergeable(other) || !is_mergeable(kind) {
                return;
            }
            self.move_to(twin, kind);
        }
        self.join(slot & !1, kind);
    }

    /// Makes one block of two.
    fn join(&mut self, slot: usize, kind: MigrateType) {
        self.counts[kind.index()].merge(WHOLE, PAIR);
        let (lower, upper) = (self.state(slot), self.state(slot | 1));
        self.change(slot | 1, kind, upper, upper.minus(WHOLE).with_upper());
        // A block of order 9 at the lower half merged with another of order 9.
        self.change(slot, kind, lower, lower.minus(WHOLE).plus(PAIR));
        self.counts[kind.index()].sub(WHOLE, 1);
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
        let (state, nothing) = (self.state(slot), State(0));
        self.counts[from.index()].replace(state, nothing);
        self.counts[kind.index()].replace(nothing, state);
        self.nr_pages[from.index()] -= state.nr_pages();
        self.nr_pages[kind.index()] += state.nr_pages();
        self.note(slot, from, nothing, state.present());
        self.note(slot, kind, state, state.present());
    }
}
