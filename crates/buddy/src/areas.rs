//! The free blocks of each order, as bits. Linux: `struct free_area`.
//!
//! This module alone knows how free blocks are kept; the algorithm next door only asks it. No descriptor is touched: the
//! state of 1 GiB is 64 KiB of bits, and which pageblocks to look at is told by 1 KiB above them. Equal blocks go by
//! address, lowest first.
//!
//! What it replaced were lists linked through the descriptors, the newest block in front. On 1 GiB, zones and pagesets
//! above the same: all frames back in random order 35 ns each, and 78 with lists; one CPU frees what another allocates
//! 31 M/s, and 1.9; the slowest allocation of a thousand 381 ns, and 2754; huge pages left after bursts at a quarter of
//! the memory (f7 of `benches/`) 100 %, and 13 %. To choose pageblocks by their load would want counts and buckets for each;
//! it was not built, as the lowest first leaves 99 % of the huge pages and more already.

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

const _: () = assert!(HALVES == 2);

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
        let slot = self.slot(pfn);
        if self.summary.test(slot & !1, PAIR) {
            return Some(MAX_ORDER);
        }
        if self.summary.test(slot, WHOLE) {
            return Some(Order::PAGEBLOCK);
        }
        Order::ZERO
            .up_to(Order::PAGEBLOCK)
            .find(|order| self.blocks[slot].test(Node::of(pfn, order.index())))
    }

    /// Whether a frame of this block is free. It lies in the areas.
    #[inline]
    pub(crate) fn overlaps(&self, pfn: Pfn, order: Order) -> bool {
        let slot = self.slot(pfn);
        if order >= Order::PAGEBLOCK {
            return self.summary.has_any(slot, order);
        }
        let (block, order) = (&self.blocks[slot], order.index());
        let node = Node::of(pfn, order);
        self.summary.is_whole(slot) || block.is_held(node, order) || block.holds(node, order)
    }

    /// Adds a block, which merges with its twin as often as that is free too. Linux: `__free_one_page`.
    #[inline]
    pub(crate) fn merge(&mut self, pfn: Pfn, order: Order) {
        let (slot, order) = (self.slot(pfn), order.index());
        match order {
            ..WHOLE => self.merge_smaller(slot, Node::of(pfn, order), order),
            WHOLE => self.merge_whole(slot),
            _ => self.note(slot, order),
        }
    }

    /// Adds a frame unless it is free; whether it was not. Half of all frames that come back merge no further than here.
    #[inline]
    pub(crate) fn add_frame(&mut self, pfn: Pfn) -> bool {
        let (slot, node) = (self.slot(pfn), Node::of(pfn, 0));
        let block = &mut self.blocks[slot];
        if self.summary.is_whole(slot) || block.is_held(node, 0) {
            return false;
        }
        match block.clear(node.twin(), 0) {
            None => {
                block.set(node);
                self.note(slot, 0);
            }
            Some(is_left) => {
                self.nr_free[0] -= 1;
                if !is_left {
                    self.summary.clear(slot, 0);
                }
                self.merge_smaller(slot, node.parent(), 1);
            }
        }
        true
    }

    fn merge_smaller(&mut self, slot: usize, node: Node, order: usize) {
        let block = &mut self.blocks[slot];
        let (mut node, mut order) = (node, order);
        while order < WHOLE {
            let Some(is_left) = block.clear(node.twin(), order) else {
                block.set(node);
                return self.note(slot, order);
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

    /// Adds a pageblock that is free as a whole.
    #[inline]
    fn merge_whole(&mut self, slot: usize) {
        if self.summary.test(slot ^ 1, WHOLE) {
            self.forget(slot ^ 1, WHOLE);
            return self.note(slot & !1, PAIR);
        }
        self.note(slot, WHOLE);
    }

    /// Takes the lowest block of the order `from` out, as far as `order` goes, and leaves the upper halves.
    /// Linux: `expand`.
    #[inline]
    pub(crate) fn split(&mut self, from: Order, order: Order) -> Option<Pfn> {
        let (mut level, order) = (from.index(), order.index());
        let slot = self.summary.first(level)?;
        let start = self.start_of(slot);
        let mut node = Node::ROOT;
        if level >= WHOLE {
            self.forget(slot, level);
            if level == PAIR && order < PAIR {
                level = WHOLE;
                self.note(slot ^ 1, WHOLE);
            }
            if level == order {
                return Some(start);
            }
        } else {
            node = self.blocks[slot].first(level)?;
            if let Some(is_left) = self.blocks[slot].clear(node, level) {
                self.nr_free[level] -= 1;
                if !is_left {
                    self.summary.clear(slot, level);
                }
            }
        }
        let block = &mut self.blocks[slot];
        while level > order {
            level -= 1;
            node = node.lower();
            block.set(node.twin());
            self.nr_free[level] += 1;
            self.summary.set(slot, level);
        }
        Some(start + node.offset(order))
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
        let mut left = most - self.take_single(slot, most, sink);
        for order in 1..WHOLE {
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

    /// Takes up to `most` blocks of one frame out of a pageblock.
    #[inline]
    fn take_single(&mut self, slot: usize, most: usize, sink: &mut impl FnMut(Pfn)) -> usize {
        let start = self.start_of(slot);
        let mut left = most;
        let mut others = 0;
        let words = &mut self.blocks[slot].0[Place::of(0).first..];
        for (word, first) in words.iter_mut().zip((0..).step_by(WORD_BITS)) {
            let mut bits = *word;
            while bits != 0 && left > 0 {
                sink(start + (first + bits.trailing_zeros() as usize));
                bits &= bits - 1;
                left -= 1;
            }
            *word = bits;
            others |= bits;
        }
        if left < most {
            self.nr_free[0] -= most - left;
            if others == 0 {
                self.summary.clear(slot, 0);
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
                self.insert(pfn + half, order);
            } else {
                for i in 0..half {
                    sink(pfn + i);
                }
                pfn += half;
                left -= half;
            }
        }
        self.insert(pfn, order);
    }

    /// The blocks of one order, lowest first.
    pub(crate) fn blocks(&self, order: Order) -> impl Iterator<Item = Pfn> {
        let slots = (0..self.nr_slots()).filter(move |&slot| self.is_summarised(slot, order));
        slots.flat_map(move |slot| self.blocks_in(slot, order))
    }

    /// The blocks of one order that begin in a pageblock, lowest first.
    pub(crate) fn blocks_in(&self, slot: usize, order: Order) -> impl Iterator<Item = Pfn> {
        let (start, order) = (self.start_of(slot), order.index());
        let large = order >= WHOLE && self.summary.test(slot, order);
        let smaller = (order < WHOLE).then(|| self.blocks[slot].of_order(order));
        let smaller = smaller.into_iter().flatten();
        let smaller = smaller.map(move |node| start + node.offset(order));
        large.then_some(start).into_iter().chain(smaller)
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

    /// Whether a pageblock is free as a whole, or is half of a block that is.
    pub(crate) fn is_whole(&self, slot: usize) -> bool {
        self.summary.is_whole(slot)
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
    pub(crate) const fn summary_mut(&mut self) -> &mut Summary {
        &mut self.summary
    }

    /// Adds a block as it is.
    #[inline]
    fn insert(&mut self, pfn: Pfn, order: usize) {
        let slot = self.slot(pfn);
        if order < WHOLE {
            self.blocks[slot].set(Node::of(pfn, order));
        }
        self.note(slot, order);
    }

    /// One more block of `order`.
    #[inline]
    fn note(&mut self, slot: usize, order: usize) {
        self.nr_free[order] += 1;
        self.summary.set(slot, order);
    }

    /// One block of `order` less, the only one of its pageblock.
    #[inline]
    fn forget(&mut self, slot: usize, order: usize) {
        self.nr_free[order] -= 1;
        self.summary.clear(slot, order);
    }
}
