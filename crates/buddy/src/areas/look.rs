//! What is free where.

use kmm_frame::{MAX_ORDER, Order, Pfn};

use super::{FreeAreas, HALVES, WHOLE};
use crate::bits::{WORD_BITS, WORD_ORDER, WORDS, bits, blocks_of, full_words, run};

impl FreeAreas {
    /// The order of the free block that `pfn` lies in, if it does. The frame is one of the areas'.
    pub(crate) fn order_around(&self, pfn: Pfn) -> Option<Order> {
        let slot = self.slot(pfn);
        let (state, at) = (self.state(slot), self.offset(pfn));
        if state.is_whole() {
            return Some(self.order_of_whole(slot));
        }
        if !state.is_known() || self.words(slot)[at / WORD_BITS] >> (at % WORD_BITS) & 1 == 0 {
            return None;
        }
        let level = self.level(slot, at);
        Order::new(u8::try_from(level).ok()?)
    }

    /// Whether a frame of this block is free. It lies in the areas.
    #[inline]
    pub(crate) fn overlaps(&self, pfn: Pfn, order: Order) -> bool {
        let slot = self.slot(pfn);
        let state = self.state(slot);
        if order >= Order::PAGEBLOCK {
            return !state.is_empty() || order == MAX_ORDER && !self.state(slot ^ 1).is_empty();
        }
        if !state.is_plain() {
            return state.is_whole();
        }
        let at = self.offset(pfn);
        let (nr, order) = (at / WORD_BITS, order.index());
        if order < WORD_ORDER {
            return self.words(slot)[nr] & run(at % WORD_BITS, 1 << order) != 0;
        }
        self.has_any(slot, nr, 1 << (order - WORD_ORDER))
    }

    /// The blocks of one order that begin in a pageblock, lowest first.
    pub(crate) fn blocks_in(&self, slot: usize, order: Order) -> impl Iterator<Item = Pfn> {
        let (start, order, state) = (self.start_of(slot), order.index(), self.state(slot));
        let is_there = match order {
            0..WHOLE => state.count(order) != 0,
            _ => state.is_whole() && self.order_of_whole(slot).index() == order,
        };
        // Words to look at, and how many frames a bit of them stands for.
        let (words, scale) = match order {
            _ if !is_there => (0, 1),
            0..WORD_ORDER => (WORDS, 1),
            WORD_ORDER..WHOLE => (1, WORD_BITS),
            _ => (0, 1),
        };
        let smaller = (0..words).flat_map(move |nr| {
            let blocks = match order.checked_sub(WORD_ORDER) {
                Some(above) => blocks_of(full_words(self.words(slot)), above),
                None => blocks_of(self.words(slot)[nr], order),
            };
            bits(blocks).map(move |bit| start + (nr * WORD_BITS + bit) * scale)
        });
        let begins = order == WHOLE || slot % HALVES == 0;
        let whole = (is_there && order >= WHOLE && begins).then_some(start);
        whole.into_iter().chain(smaller)
    }
}

/// Ways to spoil what is kept, to see that it is noticed.
#[cfg(test)]
impl FreeAreas {
    pub(crate) const fn summary_mut(&mut self) -> &mut crate::summary::Summary {
        &mut self.summary
    }

    pub(crate) fn flip(&mut self, word: usize, bit: usize) {
        self.know(word / WORDS);
        self.words_mut(word / WORDS)[word % WORDS] ^= 1 << bit;
    }

    pub(crate) const fn forget_pages(&mut self, kind: kmm_frame::MigrateType, nr_pages: usize) {
        self.counts[kind.index()].nr_pages -= nr_pages;
    }
}
