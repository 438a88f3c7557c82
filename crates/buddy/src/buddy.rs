//! What is free, and how frames come back. Linux: mm/page_alloc.c.

use core::fmt;

use kmm_frame::{MemMap, MigrateType, NR_ORDERS, Order, PageFlags, Pfn, PfnRange};

use crate::areas::FreeAreas;
use crate::{FreeBits, FreeError, Pageblocks};

/// The free frames of one zone, as blocks of power-of-two sizes that split and merge. Linux: `struct zone::free_area`.
///
/// The core of the page allocator: it knows no lock (`&mut self` says that the zone lock is held), no CPU and no
/// watermark. What is free it notes in storage of its own: descriptors are read where [`PageFlags::RESERVED`] matters,
/// and never written.
pub struct Buddy {
    range: PfnRange,
    map: MemMap,
    areas: FreeAreas,
    /// Pageblocks of [`MigrateType::HighAtomic`].
    nr_reserved: usize,
    pub(crate) nr_fallbacks: u64,
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
    /// How many [`FreeBits`] a zone of the frames of `range` wants: one for two pageblocks, and some more.
    #[must_use]
    pub const fn storage_for(range: PfnRange) -> usize {
        FreeAreas::storage_for(range)
    }

    /// A zone of the frames of `range` that have a descriptor in `map`; none of them is free yet.
    ///
    /// `range` may start and end anywhere. Two zones must not share a frame. What `storage` holds does not matter.
    ///
    /// `None` if `storage` has less than [`Buddy::storage_for`] says for these frames, if `pageblocks` do not have them
    /// all, or if they are 2^32 or more, or reach beyond [`Pfn::END`].
    #[must_use]
    pub fn new(
        range: PfnRange,
        map: MemMap,
        storage: &'static mut [FreeBits],
        pageblocks: Pageblocks,
    ) -> Option<Self> {
        let range = range.intersect(map.range());
        if !range.is_empty() && range.end() > Pfn::END {
            return None;
        }
        let mut buddy = Self {
            range,
            map,
            areas: FreeAreas::new(range, storage, pageblocks)?,
            nr_reserved: 0,
            nr_fallbacks: 0,
        };
        buddy.nr_reserved = buddy.count_reserved();
        Some(buddy)
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
        if self.areas.merge(pfn, order) {
            Ok(())
        } else {
            Err(FreeError::AlreadyFree)
        }
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
        let (mut word, mut frames) = (0, 0_u64);
        for pfn in pages {
            if let Err(why) = self.check_page(pfn) {
                refused(pfn, why);
                continue;
            }
            let (nr, bit) = self.areas.place(pfn);
            if nr != word || frames >> bit & 1 != 0 {
                // Here, as pages that come back at random come by alone.
                if !(frames.is_power_of_two() && self.put_frame(word, frames)) {
                    self.put_frames(word, frames, &mut refused);
                }
                (word, frames) = (nr, 0);
            }
            frames |= 1 << bit;
        }
        self.put_frames(word, frames, &mut refused);
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
            // By the short way, so that it is in line.
            let result = match order {
                Order::PAGEBLOCK => self.put_pageblock(pfn),
                _ => self.put(pfn, order),
            };
            if let Err(why) = result {
                refused(pfn, why);
            }
        }
    }

    #[inline(always)]
    fn put_pageblock(&mut self, pfn: Pfn) -> Result<(), FreeError> {
        self.check_put(pfn, Order::PAGEBLOCK)?;
        if self.areas.add_whole(pfn) {
            Ok(())
        } else {
            Err(FreeError::AlreadyFree)
        }
    }

    /// Gives the zone frames of its range that it never had, as the largest blocks that alignment allows.
    ///
    /// Linux: `__free_pages_memory`, mm/memblock.c. O(n) in pageblocks: no descriptor is read but by debug builds.
    ///
    /// # Errors
    /// A [`FreeError`] if one of the frames lies outside the zone or is free already, or in debug builds, if it is
    /// reserved; nothing has changed then.
    pub fn add_free_range(&mut self, range: PfnRange) -> Result<(), FreeError> {
        self.check_new(range)?;
        for block in blocks_of(range) {
            self.areas.merge(block.pfn, block.order);
        }
        Ok(())
    }

    /// The frames that the zone may own.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// How many frames are free and may be allocated: all but those that are isolated. Linux: `NR_FREE_PAGES`.
    #[must_use]
    #[inline]
    pub const fn nr_free_pages(&self) -> usize {
        use MigrateType::{Cma, HighAtomic, Movable, Reclaimable, Unmovable};
        self.nr_free_pages_of(Unmovable)
            + self.nr_free_pages_of(Movable)
            + self.nr_free_pages_of(Reclaimable)
            + self.nr_free_pages_of(HighAtomic)
            + self.nr_free_pages_of(Cma)
    }

    /// How many frames of a type are free. O(1).
    #[must_use]
    #[inline]
    pub const fn nr_free_pages_of(&self, kind: MigrateType) -> usize {
        self.areas.nr_pages(kind)
    }

    /// How many blocks of exactly `order` are free, of all types. O(1). Linux: `free_area::nr_free`.
    #[must_use]
    pub fn nr_free(&self, order: Order) -> usize {
        let of = |kind: MigrateType| self.areas.nr_free(kind, order);
        MigrateType::ALL.into_iter().map(of).sum()
    }

    /// How many blocks are free, by type and order. O(1). Linux: `pagetypeinfo_showfree_print`, mm/vmstat.c.
    #[must_use]
    pub fn nr_free_by_type(&self) -> [[usize; NR_ORDERS]; MigrateType::COUNT] {
        let mut counts = [[0; NR_ORDERS]; MigrateType::COUNT];
        for (kind, row) in MigrateType::ALL.into_iter().zip(&mut counts) {
            for (order, count) in Order::all().zip(row) {
                *count = self.areas.nr_free(kind, order);
            }
        }
        counts
    }

    /// How often a pageblock changed its type.
    #[must_use]
    pub const fn nr_type_changes(&self) -> u64 {
        self.areas.nr_type_changes()
    }

    /// How often a request got a block of another type than its own. Linux: the trace event `mm_page_alloc_extfrag`.
    #[must_use]
    pub const fn nr_fallbacks(&self) -> u64 {
        self.nr_fallbacks
    }

    /// The type of the pageblock of a frame; `None` for frames outside the zone.
    #[must_use]
    pub fn type_of(&self, pfn: Pfn) -> Option<MigrateType> {
        let is_ours = self.range.contains(pfn);
        is_ours.then(|| self.areas.kind(self.areas.slot(pfn)))
    }

    /// Changes the type of the pageblock of a frame, what is free in it included; the type before, or `None` for frames
    /// outside the zone. Linux: `set_pageblock_migratetype`, `move_freepages_block`.
    pub fn set_type(&mut self, pfn: Pfn, kind: MigrateType) -> Option<MigrateType> {
        let is_ours = self.range.contains(pfn);
        is_ours.then(|| self.set_kind(self.areas.slot(pfn), kind))
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
        Order::all().flat_map(move |order| {
            let slots = 0..self.areas.nr_slots();
            let blocks = slots.flat_map(move |slot| self.areas.blocks_in(slot, order));
            blocks.map(move |pfn| FreeBlock { pfn, order })
        })
    }

    pub(crate) const fn nr_reserved(&self) -> usize {
        self.nr_reserved
    }

    pub(crate) fn set_kind(&mut self, slot: usize, kind: MigrateType) -> MigrateType {
        let before = self.areas.set_kind(slot, kind);
        self.nr_reserved += usize::from(kind == MigrateType::HighAtomic);
        self.nr_reserved -= usize::from(before == MigrateType::HighAtomic);
        before
    }

    pub(crate) const fn areas(&self) -> &FreeAreas {
        &self.areas
    }

    pub(crate) const fn areas_mut(&mut self) -> &mut FreeAreas {
        &mut self.areas
    }

    /// Whether frames may be given to the zone.
    pub(crate) fn check_new(&self, range: PfnRange) -> Result<(), FreeError> {
        if !self.range.contains_range(range) {
            return Err(FreeError::OutsideZone);
        }
        if blocks_of(range).any(|block| self.areas.overlaps(block.pfn, block.order)) {
            return Err(FreeError::AlreadyFree);
        }
        if cfg!(debug_assertions) {
            self.check_reserved(range)?;
        }
        Ok(())
    }

    #[inline]
    fn check_page(&self, pfn: Pfn) -> Result<(), FreeError> {
        if !self.range.contains(pfn) {
            return Err(FreeError::OutsideZone);
        }
        if cfg!(debug_assertions) {
            self.check_put(pfn, Order::ZERO)?;
        }
        Ok(())
    }

    /// Adds the only frame of those of a word, unless it is free already; whether it was not.
    #[inline(always)]
    fn put_frame(&mut self, word: usize, frames: u64) -> bool {
        let bit = frames.trailing_zeros() as usize;
        self.areas.add_to_word(word, bit, 0)
    }

    /// Adds the frames of a word.
    #[inline(never)]
    fn put_frames(&mut self, word: usize, frames: u64, refused: &mut impl FnMut(Pfn, FreeError)) {
        if frames == 0 {
            return;
        }
        let mut twice = self.areas.add_frames(word, frames);
        while twice != 0 {
            let pfn = self.areas.frame_at(word, twice.trailing_zeros() as usize);
            refused(pfn, FreeError::AlreadyFree);
            twice &= twice - 1;
        }
    }

    #[inline]
    fn check_put(&self, pfn: Pfn, order: Order) -> Result<(), FreeError> {
        if !pfn.is_aligned(order) {
            return Err(FreeError::NotAligned);
        }
        let at = pfn.index().wrapping_sub(self.range.start().index());
        let len = self.range.nr_pages();
        if at >= len || len - at < order.nr_pages() {
            return Err(FreeError::OutsideZone);
        }
        if cfg!(debug_assertions) && !self.areas.overlaps(pfn, order) {
            self.check_reserved(PfnRange::with_len(pfn, order.nr_pages()))?;
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

impl fmt::Debug for Buddy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buddy")
            .field("range", &self.range)
            .field("nr_free_pages", &self.nr_free_pages())
            .finish_non_exhaustive()
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
