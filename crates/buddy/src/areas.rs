//! The free blocks of each order, as bits. Linux: `struct free_area`.
//!
//! This module alone knows how free blocks are kept; the algorithm next door only asks it. No descriptor is touched: the
//! state of 1 GiB is 64 KiB of bits, and which pageblocks to look at is told by 1 KiB above them. Equal blocks go by
//! address, lowest first.

use kmm_frame::{MAX_ORDER, NR_ORDERS, Order, Pfn, PfnRange};

use crate::bits::{FRAMES, FreeBits, Node, Place, WORD_BITS};
use crate::summary::Summary;

/// Free blocks, by pageblock and order.
#[derive(Debug)]
pub(crate) struct FreeAreas {
    /// The number of the first pageblock: even, so that the two halves of a block of [`MAX_ORDER`] differ in bit 0.
    base: usize,
    /// As many as are whole blocks of [`MAX_ORDER`].
    blocks: &'static mut [FreeBits],
    summary: Summary,
    nr_free: [usize; NR_ORDERS],
}

/// Pageblocks of a block of [`MAX_ORDER`].
const HALVES: usize = MAX_ORDER.nr_pages() / FRAMES;
const WHOLE: usize = Order::PAGEBLOCK.index();
const PAIR: usize = MAX_ORDER.index();

const fn base_of(range: PfnRange) -> usize {
    range.start().align_down(MAX_ORDER).index() / FRAMES
}

const fn nr_blocks(range: PfnRange) -> usize {
    if range.is_empty() {
        return 0;
    }
    let last = Pfn::new(range.end().index() - 1).align_down(MAX_ORDER);
    last.index() / FRAMES + HALVES - base_of(range)
}

impl FreeAreas {
    /// How much storage the frames of `range` want.
    pub(crate) const fn storage_for(range: PfnRange) -> usize {
        let nr_blocks = nr_blocks(range);
        nr_blocks + Summary::rows_for(nr_blocks)
    }

    /// Areas for the frames of `range`, none of them free; `None` if the storage is too small.
    pub(crate) fn new(range: PfnRange, storage: &'static mut [FreeBits]) -> Option<Self> {
        let storage = storage.get_mut(..Self::storage_for(range))?;
        storage.fill(FreeBits::EMPTY);
        let nr_blocks = nr_blocks(range);
        let (blocks, rows) = storage.split_at_mut(nr_blocks);
        Some(Self {
            base: base_of(range),
            blocks,
            summary: Summary::new(nr_blocks, rows),
            nr_free: [0; NR_ORDERS],
        })
    }

    /// How many blocks of exactly `order` are free.
    pub(crate) const fn nr_free(&self, order: Order) -> usize {
        self.nr_free[order.index()]
    }

    /// The smallest order, `order` or above, of which a block is free.
    #[inline]
    pub(crate) fn smallest_nonempty(&self, order: Order) -> Option<Order> {
        let candidates = self.summary.nonempty() >> order.get() << order.get();
        let smallest = u8::try_from(candidates.trailing_zeros()).ok()?;
        Order::new(smallest)
    }

    /// The order of the free block that `pfn` lies in, if it does. The frame is one of the areas'.
    pub(crate) fn order_around(&self, pfn: Pfn) -> Option<Order> {
        let block = &self.blocks[self.slot(pfn)];
        if block.test(Node::HALF) {
            return Some(MAX_ORDER);
        }
        Order::ZERO
            .up_to(MAX_ORDER)
            .find(|order| block.test(Node::of(pfn, order.index())))
    }

    /// Whether a frame of this block is free. It lies in the areas.
    #[inline]
    pub(crate) fn overlaps(&self, pfn: Pfn, order: Order) -> bool {
        let slot = self.slot(pfn);
        if order == MAX_ORDER {
            return !(self.blocks[slot].is_empty() && self.blocks[slot ^ 1].is_empty());
        }
        let (block, order) = (&self.blocks[slot], order.index());
        let node = Node::of(pfn, order);
        if order == WHOLE {
            return !block.is_empty();
        }
        block.is_held(node, order) || block.holds(node, order)
    }

    /// Adds a block, which merges with its twin as often as that is free too. Linux: `__free_one_page`.
    #[inline]
    pub(crate) fn merge(&mut self, pfn: Pfn, order: Order) {
        let slot = self.slot(pfn);
        let mut order = order.index();
        if order == PAIR {
            return self.insert_pair(slot);
        }
        let block = &mut self.blocks[slot];
        let mut node = Node::of(pfn, order);
        while order < WHOLE {
            let Some(is_left) = block.clear(node.twin(), order) else {
                block.set(node);
                self.nr_free[order] += 1;
                return self.summary.set(slot, order);
            };
            self.nr_free[order] -= 1;
            if !is_left {
                self.summary.clear(slot, order);
            }
            node = node.parent();
            order += 1;
        }
        self.merge_whole(slot);
    }

    fn merge_whole(&mut self, slot: usize) {
        if self.blocks[slot ^ 1].clear(Node::ROOT, WHOLE).is_some() {
            self.nr_free[WHOLE] -= 1;
            self.summary.clear(slot ^ 1, WHOLE);
            return self.insert_pair(slot & !1);
        }
        self.insert(slot, Node::ROOT, WHOLE);
    }

    /// Takes the lowest block of the order `from` out, as far as `order` goes, and leaves the upper halves.
    /// Linux: `expand`.
    #[inline]
    pub(crate) fn split(&mut self, from: Order, order: Order) -> Option<Pfn> {
        let (mut level, order) = (from.index(), order.index());
        let slot = self.summary.first(level)?;
        let mut node = Node::ROOT;
        if level == PAIR {
            self.remove_pair(slot);
            if order == PAIR {
                return Some(self.start_of(slot));
            }
            self.insert(slot ^ 1, Node::ROOT, WHOLE);
            level = WHOLE;
        } else {
            node = self.blocks[slot].first(level)?;
            self.remove(slot, node, level);
        }
        let block = &mut self.blocks[slot];
        while level > order {
            level -= 1;
            node = node.lower();
            block.set(node.twin());
            self.nr_free[level] += 1;
            self.summary.set(slot, level);
        }
        Some(self.start_of(slot) + node.offset(order))
    }

    /// The lowest pageblock with a free block smaller than itself.
    pub(crate) fn first_fragmented(&self) -> Option<usize> {
        self.summary.first_fragmented()
    }

    /// Takes up to `most` frames out of the blocks of a pageblock that are smaller than itself, small ones first; how many
    /// were given to `sink`.
    pub(crate) fn take_frames(
        &mut self,
        slot: usize,
        most: usize,
        sink: &mut impl FnMut(Pfn),
    ) -> usize {
        let start = self.start_of(slot);
        let mut left = most;
        for order in 0..WHOLE {
            if left == 0 {
                break;
            }
            if !self.summary.test(slot, order) {
                continue;
            }
            let Place { first, end, mask } = Place::of(order);
            let size = 1 << order;
            let (mut count, mut cut) = (0, None);
            'words: for nr in first..end {
                let word = &mut self.blocks[slot].0[nr];
                let mut bits = *word & mask;
                while bits != 0 {
                    if left == 0 {
                        break 'words;
                    }
                    let number = nr * WORD_BITS + bits.trailing_zeros() as usize;
                    let pfn = start + ((number << order) % FRAMES);
                    *word ^= bits & bits.wrapping_neg();
                    bits &= bits - 1;
                    count += 1;
                    if size > left {
                        cut = Some(pfn);
                        break 'words;
                    }
                    for i in 0..size {
                        sink(pfn + i);
                    }
                    left -= size;
                }
            }
            self.nr_free[order] -= count;
            if !self.blocks[slot].has(order) {
                self.summary.clear(slot, order);
            }
            if let Some(pfn) = cut {
                self.cut(pfn, order, left, sink);
                left = 0;
            }
        }
        most - left
    }

    /// Gives the first `most` frames of a block to `sink`, which are not all, and what is left back as blocks.
    pub(crate) fn cut(&mut self, pfn: Pfn, order: usize, most: usize, sink: &mut impl FnMut(Pfn)) {
        let (mut pfn, mut order, mut left) = (pfn, order, most);
        while left > 0 {
            order -= 1;
            let half = 1 << order;
            if left < half {
                let upper = pfn + half;
                self.insert(self.slot(upper), Node::of(upper, order), order);
            } else {
                for i in 0..half {
                    sink(pfn + i);
                }
                pfn += half;
                left -= half;
            }
        }
        self.insert(self.slot(pfn), Node::of(pfn, order), order);
    }

    /// The blocks of one order, lowest first.
    pub(crate) fn blocks(&self, order: Order) -> impl Iterator<Item = Pfn> {
        let slots = (0..self.nr_slots()).filter(move |&slot| self.is_summarised(slot, order));
        slots.flat_map(move |slot| self.blocks_in(slot, order))
    }

    /// The blocks of one order that begin in a pageblock, lowest first.
    pub(crate) fn blocks_in(&self, slot: usize, order: Order) -> impl Iterator<Item = Pfn> {
        let (start, bits, order) = (self.start_of(slot), self.bits(slot), order.index());
        let pair = order == PAIR && slot % HALVES == 0 && bits.test(Node::HALF);
        let smaller = (order != PAIR).then(|| bits.of_order(order));
        let smaller = smaller.into_iter().flatten();
        let smaller = smaller.map(move |node| start + node.offset(order));
        pair.then_some(start).into_iter().chain(smaller)
    }

    /// How many pageblocks there are, those that only fill up a block of [`MAX_ORDER`] included.
    pub(crate) const fn nr_slots(&self) -> usize {
        self.blocks.len()
    }

    /// The first frame of a pageblock.
    #[inline]
    pub(crate) const fn start_of(&self, slot: usize) -> Pfn {
        Pfn::new((self.base + slot) * FRAMES)
    }

    /// The pageblock of a frame.
    #[inline]
    pub(crate) const fn slot(&self, pfn: Pfn) -> usize {
        pfn.index() / FRAMES - self.base
    }

    pub(crate) const fn bits(&self, slot: usize) -> &FreeBits {
        &self.blocks[slot]
    }

    /// Whether the summary says that a pageblock has a free block of `order`.
    pub(crate) fn is_summarised(&self, slot: usize, order: Order) -> bool {
        self.summary.test(slot, order.index())
    }

    /// Whether the parts of the summary of `order` agree.
    pub(crate) fn is_counted(&self, order: Order) -> bool {
        self.summary.is_sound(order.index())
    }

    #[cfg(test)]
    pub(crate) const fn bits_mut(&mut self, slot: usize) -> &mut FreeBits {
        &mut self.blocks[slot]
    }

    #[cfg(test)]
    pub(crate) const fn spoil_summary(&mut self) {
        self.summary.spoil();
    }

    #[inline]
    fn insert(&mut self, slot: usize, node: Node, order: usize) {
        self.blocks[slot].set(node);
        self.nr_free[order] += 1;
        self.summary.set(slot, order);
    }

    #[inline]
    fn remove(&mut self, slot: usize, node: Node, order: usize) {
        if let Some(is_left) = self.blocks[slot].clear(node, order) {
            self.nr_free[order] -= 1;
            if !is_left {
                self.summary.clear(slot, order);
            }
        }
    }

    fn insert_pair(&mut self, slot: usize) {
        self.blocks[slot].set(Node::HALF);
        self.blocks[slot ^ 1].set(Node::HALF);
        self.nr_free[PAIR] += 1;
        self.summary.set(slot, PAIR);
    }

    fn remove_pair(&mut self, slot: usize) {
        self.blocks[slot].unset(Node::HALF);
        self.blocks[slot ^ 1].unset(Node::HALF);
        self.nr_free[PAIR] -= 1;
        self.summary.clear(slot, PAIR);
    }
}
