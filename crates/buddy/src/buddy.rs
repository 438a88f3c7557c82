//! Splitting and merging. Linux: mm/page_alloc.c.

use kmm_frame::{MemMap, MigrateType, NR_ORDERS, Order, PageFlags, Pfn, PfnRange};
use kmm_host::AllocError;

use crate::areas::FreeAreas;
use crate::{FreeBits, FreeError, Pageblocks};

/// The free frames of one zone, as blocks of power-of-two sizes that split and merge. Linux: `struct zone::free_area`.
///
/// The core of the page allocator: it knows no lock (`&mut self` says that the zone lock is held), no CPU and no
/// watermark. What is free it notes in storage of its own: descriptors are read where [`PageFlags::RESERVED`] matters,
/// and never written.
#[derive(Debug)]
pub struct Buddy {
    range: PfnRange,
    map: MemMap,
    areas: FreeAreas,
    nr_free_pages: usize,
}

/// A block that is free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FreeBlock {
    /// The first frame.
    pub pfn: Pfn,
    /// The size.
    pub order: Order,
}

impl FreeBlock {
    /// Every frame of the block.
    #[must_use]
    pub const fn range(self) -> PfnRange {
        PfnRange::with_len(self.pfn, self.order.nr_pages())
    }
}

impl Buddy {
    /// How many [`FreeBits`] a zone of the frames of `range` wants: one for each pageblock, and some more.
    #[must_use]
    pub const fn storage_for(range: PfnRange) -> usize {
        FreeAreas::storage_for(range)
    }

    /// A zone of the frames of `range` that have a descriptor in `map`; none of them is free yet. `None` if `storage` has
    /// less than [`Buddy::storage_for`] says for them; what it holds does not matter.
    ///
    /// `range` may start and end anywhere. Two zones must not share a frame.
    #[must_use]
    pub fn new(
        range: PfnRange,
        map: MemMap,
        storage: &'static mut [FreeBits],
        pageblocks: Pageblocks,
    ) -> Option<Self> {
        let _ = pageblocks;
        let range = range.intersect(map.range());
        Some(Self {
            range,
            map,
            areas: FreeAreas::new(range, storage)?,
            nr_free_pages: 0,
        })
    }

    /// Takes a block of `order` out, splitting a larger one if need be: the lowest part of the lowest block of the smallest
    /// order that fits.
    ///
    /// Linux: `__rmqueue_smallest` and `expand`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] if no block of `order` or above is free; nothing has changed then.
    pub fn take(&mut self, order: Order, kind: MigrateType) -> Result<Pfn, AllocError> {
        let _ = kind;
        let from = self
            .areas
            .smallest_nonempty(order)
            .ok_or(AllocError::OutOfMemory)?;
        let block = self
            .areas
            .split(from, order)
            .ok_or(AllocError::OutOfMemory)?;
        self.nr_free_pages -= order.nr_pages();
        Ok(block)
    }

    /// Takes a block back and merges it with its buddy as often as that is free too.
    ///
    /// Linux: `__free_one_page`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    ///
    /// # Errors
    /// A [`FreeError`] if these frames cannot be an allocated block of this zone; nothing has changed then.
    #[inline]
    pub fn put(&mut self, pfn: Pfn, order: Order) -> Result<(), FreeError> {
        self.check_put(pfn, order)?;
        self.nr_free_pages += order.nr_pages();
        self.areas.merge(pfn, order);
        Ok(())
    }

    /// Takes single frames back, as [`Buddy::put`] does one after the other; what is refused goes to `refused`.
    ///
    /// Linux: `free_pcppages_bulk`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn put_pages(
        &mut self,
        pages: impl IntoIterator<Item = Pfn>,
        mut refused: impl FnMut(Pfn, FreeError),
    ) {
        // Each by itself. Merging a batch one order after the other, without branches, was slower: 18 ns a page and not 14
        // when 1 GiB goes back at random.
        for pfn in pages {
            if let Err(why) = self.put_page(pfn) {
                refused(pfn, why);
            }
        }
    }

    /// Takes up to `most` single frames, as many as there are; how many were given to `sink`.
    ///
    /// They come from the fragments of one pageblock after the other, small ones first; a whole pageblock is broken only
    /// when there are no fragments. Among equals the lowest goes first.
    ///
    /// Linux: `rmqueue_bulk`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn take_pages(
        &mut self,
        most: usize,
        kind: MigrateType,
        mut sink: impl FnMut(Pfn),
    ) -> usize {
        let _ = kind;
        let most = most.min(self.nr_free_pages);
        let mut left = most;
        while left > 0 {
            if let Some(pageblock) = self.areas.first_fragmented() {
                left -= self.areas.take_frames(pageblock, left, &mut sink);
                continue;
            }
            let whole = self.areas.smallest_nonempty(Order::PAGEBLOCK);
            let Some((order, pfn)) =
                whole.and_then(|order| Some((order, self.areas.split(order, order)?)))
            else {
                break;
            };
            let count = left.min(order.nr_pages());
            if count == order.nr_pages() {
                PfnRange::with_len(pfn, count).iter().for_each(&mut sink);
            } else {
                self.areas.cut(pfn, order.index(), count, &mut sink);
            }
            left -= count;
        }
        self.nr_free_pages -= most - left;
        most - left
    }

    /// Takes up to `most` blocks of `order`, as [`Buddy::take`] does one after the other; how many were given to `sink`.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn take_blocks(
        &mut self,
        order: Order,
        most: usize,
        kind: MigrateType,
        mut sink: impl FnMut(Pfn),
    ) -> usize {
        for count in 0..most {
            match self.take(order, kind) {
                Ok(pfn) => sink(pfn),
                Err(_) => return count,
            }
        }
        most
    }

    /// Takes blocks of `order` back, as [`Buddy::put`] does one after the other; what is refused goes to `refused`.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    pub fn put_blocks(
        &mut self,
        order: Order,
        blocks: impl IntoIterator<Item = Pfn>,
        mut refused: impl FnMut(Pfn, FreeError),
    ) {
        for pfn in blocks {
            if let Err(why) = self.put(pfn, order) {
                refused(pfn, why);
            }
        }
    }

    /// Gives the zone frames of its range that it never had, as the largest blocks that alignment allows.
    ///
    /// Linux: `__free_pages_memory`, mm/memblock.c. O(n) in frames: every descriptor is read.
    ///
    /// # Errors
    /// A [`FreeError`] if one of the frames lies outside the zone, is free already or is reserved; nothing has changed
    /// then.
    pub fn add_free_range(&mut self, range: PfnRange) -> Result<(), FreeError> {
        if !self.range.contains_range(range) {
            return Err(FreeError::OutsideZone);
        }
        if blocks_of(range).any(|block| self.areas.overlaps(block.pfn, block.order)) {
            return Err(FreeError::AlreadyFree);
        }
        self.check_reserved(range)?;
        for block in blocks_of(range) {
            self.nr_free_pages += block.order.nr_pages();
            self.areas.merge(block.pfn, block.order);
        }
        Ok(())
    }

    /// The frames that the zone may own.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// How many frames are free. Linux: `NR_FREE_PAGES`.
    #[must_use]
    pub const fn nr_free_pages(&self) -> usize {
        self.nr_free_pages
    }

    /// How many blocks of exactly `order` are free. Linux: `free_area::nr_free`.
    #[must_use]
    pub const fn nr_free(&self, order: Order) -> usize {
        self.areas.nr_free(order)
    }

    /// Whether [`Buddy::take`] would find a block of `order`.
    #[must_use]
    pub fn has_free(&self, order: Order) -> bool {
        self.areas.smallest_nonempty(order).is_some()
    }

    /// Whether any of the frames of `range` is free. O(n) in blocks of `range`.
    #[must_use]
    pub fn has_free_in(&self, range: PfnRange) -> bool {
        let part = range.intersect(self.range);
        blocks_of(part).any(|block| self.areas.overlaps(block.pfn, block.order))
    }

    /// The free block that `pfn` lies in, if it is free. Linux: `is_free_buddy_page`.
    #[must_use]
    pub fn free_block_of(&self, pfn: Pfn) -> Option<FreeBlock> {
        if !self.range.contains(pfn) {
            return None;
        }
        let order = self.areas.order_around(pfn)?;
        let pfn = pfn.align_down(order);
        Some(FreeBlock { pfn, order })
    }

    /// Every free block, small ones first, and those of an order by address.
    pub fn free_blocks(&self) -> impl Iterator<Item = FreeBlock> {
        Order::all().flat_map(|order| {
            self.areas
                .blocks(order)
                .map(move |pfn| FreeBlock { pfn, order })
        })
    }

    /// How many blocks are free, by the type of the pageblock that they start in, and order. O(n) in free blocks.
    ///
    /// Blocks outside `pageblocks` are not counted. Linux: `pagetypeinfo_showfree_print`, mm/vmstat.c.
    #[must_use]
    pub fn nr_free_by_type(
        &self,
        pageblocks: &Pageblocks,
    ) -> [[usize; NR_ORDERS]; MigrateType::COUNT] {
        let mut counts = [[0; NR_ORDERS]; MigrateType::COUNT];
        for block in self.free_blocks() {
            if let Some(kind) = pageblocks.type_of(block.pfn) {
                counts[kind.index()][block.order.index()] += 1;
            }
        }
        counts
    }

    pub(crate) const fn areas(&self) -> &FreeAreas {
        &self.areas
    }

    #[cfg(test)]
    pub(crate) const fn areas_mut(&mut self) -> &mut FreeAreas {
        &mut self.areas
    }

    #[inline]
    fn put_page(&mut self, pfn: Pfn) -> Result<(), FreeError> {
        if !self.range.contains(pfn) {
            return Err(FreeError::OutsideZone);
        }
        if cfg!(debug_assertions) {
            self.check_put(pfn, Order::ZERO)?;
        }
        if !self.areas.add_frame(pfn) {
            return Err(FreeError::AlreadyFree);
        }
        self.nr_free_pages += 1;
        Ok(())
    }

    #[inline]
    fn check_put(&self, pfn: Pfn, order: Order) -> Result<(), FreeError> {
        if !pfn.is_aligned(order) {
            return Err(FreeError::NotAligned);
        }
        let block = PfnRange::with_len(pfn, order.nr_pages());
        if block.nr_pages() != order.nr_pages() || !self.range.contains_range(block) {
            return Err(FreeError::OutsideZone);
        }
        if self.areas.overlaps(pfn, order) {
            return Err(FreeError::AlreadyFree);
        }
        if cfg!(debug_assertions) {
            self.check_reserved(block)?;
        }
        Ok(())
    }

    fn check_reserved(&self, range: PfnRange) -> Result<(), FreeError> {
        for pfn in range.iter() {
            let page = self.map.get(pfn).ok_or(FreeError::OutsideZone)?;
            if page.test(PageFlags::RESERVED) {
                return Err(FreeError::Reserved);
            }
        }
        Ok(())
    }
}

/// A range as the largest blocks that alignment allows, upwards.
fn blocks_of(range: PfnRange) -> impl Iterator<Item = FreeBlock> {
    let mut pfn = range.start();
    core::iter::from_fn(move || {
        let left = range.end() - pfn;
        let fits = |order: &Order| pfn.is_aligned(*order) && order.nr_pages() <= left;
        let order = Order::all().rev().find(fits)?;
        let block = FreeBlock { pfn, order };
        pfn += order.nr_pages();
        Some(block)
    })
}
