//! The slow steps of a pageset: filling, sharing the room out, sending home.

use core::sync::atomic::Ordering::Relaxed;

use kmm_frame::{MigrateType, Pfn};

use crate::bulk::Slots;

use super::{
    DrainRequest, HOME, IDLE, KEPT, MOST_BATCH, NR_ROUTES, Pcp, Pool, STEP, Size, at, capacity,
    lane_of,
};

/// A pageset under its mark.
#[derive(Debug)]
pub(crate) struct PcpUse<'a>(&'a Pcp);

impl<'a> PcpUse<'a> {
    pub(super) const fn new(pcp: &'a Pcp) -> Self {
        Self(pcp)
    }

    /// A block of the stock.
    #[inline]
    pub(crate) fn pop(&self, size: Size, kind: MigrateType) -> Option<Pfn> {
        let route = *KEPT.get(kind.index())?;
        let next = self.0.next_cell(size, route);
        (next > IDLE).then(|| self.0.pop(size, route, next))
    }

    /// As [`Pcp::pop_pages`], of any type.
    #[inline]
    pub(crate) fn pop_pages(&self, kind: MigrateType, most: usize, out: &mut Slots<'_>) -> usize {
        if kind.index() < KEPT.len() {
            self.0.pop_pages(kind, most, out)
        } else {
            0
        }
    }

    /// Puts a block into the stock, or to those that go home, if there is room, or room can be made; whether it did.
    pub(crate) fn push(&self, size: Size, pfn: Pfn) -> bool {
        let place = self.place_with_room(size, pfn);
        if let Some((offset, route)) = place {
            let next = self.0.next_cell(size, route);
            self.0.push(size, route, next, offset);
        }
        place.is_some()
    }

    /// Whether [`PcpUse::push`] would take a block.
    pub(crate) fn has_room_for(&self, size: Size, pfn: Pfn) -> bool {
        self.place_with_room(size, pfn).is_some()
    }

    fn place_with_room(&self, size: Size, pfn: Pfn) -> Option<(u32, usize)> {
        let (offset, route) = self.0.place_of(size, pfn)?;
        let has_room = || self.0.next_cell(size, route) + IDLE < self.0.limit(size, route);
        let takes = has_room() || self.has_room_after_sharing(size, route);
        takes.then_some((offset, route))
    }

    /// As [`Pcp::holds`].
    pub(crate) fn holds(&self, pfn: Pfn) -> bool {
        self.0.holds(pfn)
    }

    /// Requests to empty it.
    pub(crate) const fn drain_request(&self) -> &'a DrainRequest {
        self.0.drain_request()
    }

    /// Takes note of what others have changed.
    pub(crate) fn review(&self) {
        if self.0.next.has_news() && self.0.next.take_news() {
            if !self.adopt_span() {
                self.0.next.tell();
            }
            // Whoever frees next finds the stock full, and shares the room out anew.
            for limit in &self.0.limits {
                limit.store(0, Relaxed);
            }
        }
    }

    /// Whether the zone begins elsewhere than what is in stock is counted from: it has to go home first.
    pub(crate) fn must_empty(&self) -> bool {
        let next = &self.0.next;
        next.has_news() && self.0.start.load(Relaxed) != next.start() && self.0.count() > 0
    }

    /// Whether it is in force. Not while another CPU changes it, nor before the stock has gone home: that CPU may have begun
    /// after [`PcpUse::must_empty`] was asked.
    fn adopt_span(&self) -> bool {
        let pcp = self.0;
        let Some((start, spanned)) = pcp.next.read() else {
            return false;
        };
        if pcp.start.load(Relaxed) != start && pcp.count() > 0 {
            return false;
        }
        pcp.start.store(start, Relaxed);
        pcp.spanned.store(spanned, Relaxed);
        true
    }

    /// Every stack.
    pub(crate) fn stacks() -> impl Iterator<Item = (Size, MigrateType)> {
        let kinds = MigrateType::ALL.into_iter().take(KEPT.len());
        Size::ALL
            .into_iter()
            .flat_map(move |size| kinds.clone().map(move |kind| (size, kind)))
    }

    /// How many blocks to fill a stack of `size` with, which is empty: a batch, but not above the limit of all. Where pages are
    /// scattered, each is looked for, and whoever asks for one waits for all: so these are fewer. The slowest of a
    /// thousand requests took 261 ns with batches of 63 pages, 172 with 16, 141 with 12 and 125 with 8.
    pub(crate) fn most_to_fill(&self, size: Size, batch: usize) -> usize {
        const SCATTERED: usize = 8;
        let order = size.order().get();
        if size.is_large() {
            self.0.has_large.store(true, Relaxed);
            let most = self.0.most[Pool::Large as usize].load(Relaxed);
            let left = most.saturating_sub(self.0.nr_large_pages());
            return (left.min(most / 2) >> order).clamp(1, size.capacity());
        }
        let batch = match size {
            Size::PAGE if self.0.is_scattered.load(Relaxed) => batch.min(SCATTERED),
            _ => batch,
        };
        let limit = self.0.most[Pool::Small as usize].load(Relaxed) + self.0.batch.load(Relaxed);
        let used = self.0.nr_pages_of(Pool::Small) + self.0.nr_pages_of(Pool::Home);
        let left = limit.saturating_sub(used + 1);
        (batch.min(left) >> order).clamp(1, size.capacity())
    }

    /// Shares the room of a pool among its stacks anew, most of it to one; whether that one can take a block then.
    ///
    /// Limits of stacks add up to what the pool may hold. So a stack that is full may get the room of others, which keep
    /// what they have and as much as half of what is left.
    pub(crate) fn has_room_after_sharing(&self, size: Size, route: usize) -> bool {
        let pool = Pool::of(size, route);
        let unit = |size: Size| size.order().get();
        let most = self.0.most[pool as usize].load(Relaxed);
        let own = self.0.nr_of(size, route);
        if pool == Pool::Home && size.is_large()
            || own >= capacity(size, route).min(most >> unit(size))
        {
            return false;
        }
        let others = || pool.stacks().filter(|&other| other != (size, route));
        let mut room = most.saturating_sub(self.0.nr_pages_of(pool));
        // A little room is not worth it: it would soon be shared out again.
        let least = match pool {
            Pool::Large => most / 8,
            Pool::Small | Pool::Home => self.0.batch.load(Relaxed) / 2,
        };
        if room >> unit(size) == 0 || room < least {
            return false;
        }
        if pool == Pool::Large {
            self.0.has_large.store(true, Relaxed);
        }
        let slack = |size: Size, route: usize| {
            let next = self.0.next_cell(size, route) + IDLE;
            let cells = self.0.limit(size, route).saturating_sub(next);
            cells.div_ceil(STEP) as usize
        };
        let with_slack = others().filter(|&(size, route)| slack(size, route) > 0);
        let spare = (room / 2).min(room - (1 << unit(size)));
        let share = spare / with_slack.count().max(1);
        for (size, route) in others() {
            let left = slack(size, route).min(share >> unit(size));
            self.set_limit(size, route, left);
            room -= left << unit(size);
        }
        self.set_limit(size, route, room >> unit(size));
        slack(size, route) > 0
    }

    /// Of the stacks that share room with those of `size`, the one that has the most pages, and how many blocks it should
    /// lose: a batch, or half of what there may be of large ones.
    pub(crate) fn fullest(
        &self,
        size: Size,
        kind: MigrateType,
    ) -> Option<(Size, MigrateType, usize)> {
        let pool = if size.is_large() {
            Pool::Large
        } else {
            Pool::Small
        };
        let limit = self.0.most[pool as usize].load(Relaxed);
        let nr_pages = match pool {
            Pool::Large => limit / 2,
            Pool::Small | Pool::Home => self.0.batch.load(Relaxed),
        };
        let pages_of = |size: Size, route| self.0.nr_of(size, route) << size.order().get();
        let mut most = pages_of(size, *KEPT.get(kind.index())?);
        let mut fullest = (size, kind);
        // Nobody has more than half of all but one.
        if 2 * most < limit {
            for &size in pool.rows().0 {
                for (route, kind) in KEPT.into_iter().zip(MigrateType::ALL) {
                    if pages_of(size, route) > most {
                        most = pages_of(size, route);
                        fullest = (size, kind);
                    }
                }
            }
        }
        let (size, kind) = fullest;
        let nr_blocks = nr_pages >> size.order().get();
        (most > 0).then_some((size, kind, nr_blocks.max(1)))
    }

    /// The type of the stack that a block belongs to, if it lies where the stock takes it, if it has room.
    pub(crate) fn kind_of(&self, size: Size, pfn: Pfn) -> Option<MigrateType> {
        let (_, route) = self.0.place_of(size, pfn)?;
        let kind = KEPT.iter().position(|&kept| kept == route)?;
        self.0.keeps(size).then_some(MigrateType::ALL[kind])
    }

    /// Takes up to `most` blocks out to give them back to the free lists: those that came last.
    pub(crate) fn unused(
        &self,
        size: Size,
        kind: MigrateType,
        most: usize,
    ) -> impl ExactSizeIterator<Item = Pfn> {
        let blocks = self.drop_last(size, KEPT[kind.index() % KEPT.len()], most);
        self.0
            .note_filled(size, (blocks.len() as u64).wrapping_neg());
        blocks
    }

    /// Takes the blocks of a small size out that go home.
    pub(crate) fn going_home(
        &self,
        size: Size,
        kind: MigrateType,
    ) -> impl ExactSizeIterator<Item = Pfn> {
        self.drop_last(size, HOME[kind.index() % HOME.len()], MOST_BATCH)
    }

    fn drop_last(
        &self,
        size: Size,
        route: usize,
        most: usize,
    ) -> impl ExactSizeIterator<Item = Pfn> {
        let pcp = self.0;
        let before = pcp.nr_of(size, route);
        let (count, start) = (before.min(most), pcp.start.load(Relaxed));
        let state = &pcp.states[size.index()][route];
        let cells = STEP as usize * count;
        state.store(state.load(Relaxed) - cells as u64, Relaxed);
        pcp.rows(size, route, before - count, count)
            .map(move |cell| at(start, cell.load(Relaxed)))
    }

    /// To fill a stack, which is empty, with up to `most` blocks.
    pub(crate) fn filler(&self, size: Size, kind: MigrateType, most: usize) -> Filler<'a> {
        let most = most.min(size.capacity());
        let route = KEPT[kind.index() % KEPT.len()];
        Filler {
            pcp: self.0,
            size,
            route,
            first: size.first_cell() + lane_of(route),
            most,
            left: most,
        }
    }

    /// Whether any block waits to go home.
    pub(crate) fn has_homebound(&self) -> bool {
        self.0.nr_pages_of(Pool::Home) != 0
    }

    /// How many pages the large blocks have more than when it was last asked, modulo 2^64. The zone lock is held.
    pub(crate) fn more_large_pages(&self) -> usize {
        let now = self.0.nr_large_pages();
        let before = self.0.told_large.load(Relaxed);
        self.0.told_large.store(now, Relaxed);
        now.wrapping_sub(before)
    }

    /// The stack may grow by so many blocks.
    #[expect(clippy::cast_possible_truncation, reason = "at most the capacity")]
    fn set_limit(&self, size: Size, route: usize, more: usize) {
        let next = self.0.next_cell(size, route);
        let capacity = capacity(size, route).saturating_sub(self.0.nr_of(size, route));
        let limit = next + STEP * more.min(capacity) as u32 + IDLE;
        self.0.limits[size.index() * NR_ROUTES + route].store(limit, Relaxed);
    }
}

/// Fills a stack from the top, so that the first block to come is the first to go.
#[derive(Debug)]
pub(crate) struct Filler<'a> {
    pcp: &'a Pcp,
    size: Size,
    route: usize,
    first: usize,
    most: usize,
    left: usize,
}

impl Filler<'_> {
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the frame is in the zone (INV-10)"
    )]
    pub(crate) fn push(&mut self, pfn: Pfn) {
        debug_assert!(self.left > 0, "more blocks than were asked for");
        self.left = self.left.wrapping_sub(1);
        let offset = pfn.index().wrapping_sub(self.pcp.start.load(Relaxed));
        if let Some(cell) = self.pcp.cells.get(self.cell(self.left)) {
            cell.store(offset as u32, Relaxed);
        }
    }

    /// As [`Filler::push`], of pages that lie side by side.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the frames are in the zone (INV-10)"
    )]
    pub(crate) fn push_run(&mut self, first: Pfn, len: usize) {
        debug_assert!(self.left >= len, "more blocks than were asked for");
        let offset = first.index().wrapping_sub(self.pcp.start.load(Relaxed)) as u32;
        let (from, to) = (self.cell(self.left.wrapping_sub(len)), self.cell(self.left));
        self.left = self.left.wrapping_sub(len);
        if let Some(cells) = self.pcp.cells.get(from..to) {
            let cells = cells.chunks_exact(STEP as usize).rev();
            for (cell, more) in cells.zip(0..) {
                cell[0].store(offset.wrapping_add(more), Relaxed);
            }
        }
    }

    /// For how many there is room.
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Puts the blocks in force.
    pub(crate) fn finish(self) {
        let count = self.most - self.left;
        if self.left > 0 {
            for nr in 0..count {
                let block = self.pcp.cells[self.cell(self.left + nr)].load(Relaxed);
                self.pcp.cells[self.cell(nr)].store(block, Relaxed);
            }
        }
        if self.size == Size::PAGE && count > 0 {
            let at = |nr: usize| self.pcp.cells[self.cell(nr)].load(Relaxed) as usize;
            let is_run = at(0).wrapping_sub(at(count - 1)) == count - 1;
            self.pcp.is_scattered.store(!is_run, Relaxed);
        }
        let state = &self.pcp.states[self.size.index()][self.route];
        let cells = STEP as usize * count;
        state.store(state.load(Relaxed) + cells as u64, Relaxed);
        self.pcp.note_filled(self.size, count as u64);
    }

    const fn cell(&self, nr: usize) -> usize {
        self.first + nr.wrapping_mul(STEP as usize)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use kmm_buddy::{Pageblock, Pageblocks};
    use kmm_frame::{MemMap, Order, Page, PfnRange};

    use super::*;

    #[test]
    fn stock_is_counted_from_the_same_frame_until_it_is_empty() {
        let span = |start, end| PfnRange::new(Pfn::new(start), Pfn::new(end));
        let room = span(0, 4096);
        let blocks: Vec<Pageblock> = (0..8).map(|_| Pageblock::new()).collect();
        let pcp = Pcp::new();
        let pages: Vec<Page> = room.iter().map(|_| Page::new()).collect();
        let map = MemMap::new(room, pages.leak()).unwrap();
        pcp.attach(room, Pageblocks::new(room, blocks.leak()).unwrap(), map);
        let _ = pcp.with(|stock| {
            let mut filler = stock.filler(Size::PAGE, MigrateType::Movable, 1);
            filler.push(Pfn::new(2000));
            filler.finish();
            stock.review();
            assert!(!stock.must_empty());
            // Only now another CPU takes the lower frames away.
            pcp.set_span(span(1024, 4096));
            stock.review();
            assert_eq!(pcp.blocks().next(), Some((Pfn::new(2000), Order::ZERO)));
            assert!(stock.must_empty() && pcp.holds(Pfn::new(1000)));
            let page = stock.pop(Size::PAGE, MigrateType::Movable);
            assert_eq!(page, Some(Pfn::new(2000)));
            stock.review();
            assert!(!stock.must_empty() && !pcp.holds(Pfn::new(1000)));
        });
    }
}
