//! Splitting and merging. Linux: mm/page_alloc.c.

use kmm_frame::{MAX_ORDER, MemMap, MigrateType, NR_ORDERS, Order, PageFlags, Pfn, PfnRange};
use kmm_host::AllocError;

use crate::areas::FreeAreas;
use crate::{FreeError, Pageblocks};

/// The free frames of one zone, as blocks of power-of-two sizes that split and merge. Linux: `struct zone::free_area`.
///
/// The core of the page allocator: it knows no lock (`&mut self` says that the zone lock is held), no CPU and no
/// watermark. Descriptors of free frames belong to it; those of allocated frames to their owners.
#[derive(Debug)]
pub struct Buddy {
    range: PfnRange,
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
    /// A zone of the frames of `range` that have a descriptor in `map`; none of them is free yet.
    ///
    /// `range` may start and end anywhere. Two zones must not share a frame.
    #[must_use]
    pub fn new(range: PfnRange, map: MemMap) -> Self {
        Self {
            range: range.intersect(map.range()),
            areas: FreeAreas::new(map),
            nr_free_pages: 0,
        }
    }

    /// Takes a block of `order` off the free lists, splitting a larger one if need be; the low half is kept.
    ///
    /// Linux: `__rmqueue_smallest` and `expand`, mm/page_alloc.c.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] if no block of `order` or above is free; nothing has changed then.
    pub fn take(&mut self, order: Order) -> Result<Pfn, AllocError> {
        let from = self
            .areas
            .smallest_nonempty(order)
            .ok_or(AllocError::OutOfMemory)?;
        let block = self.areas.pop(from).ok_or(AllocError::OutOfMemory)?;
        for half in order.up_to(from).rev() {
            self.areas.push(block.buddy(half), half);
        }
        self.nr_free_pages -= order.nr_pages();
        Ok(block)
    }

    /// Takes a block back and merges it with its buddy as often as that is free too.
    ///
    /// Linux: `__free_one_page`, mm/page_alloc.c.
    ///
    /// Debug builds look at every frame of the block; others at the first frame and what it lies in, so that a block
    /// of which only a later part is free already goes unnoticed there.
    ///
    /// # Context
    /// Does not sleep. The zone lock is held: that is what `&mut self` says.
    ///
    /// # Errors
    /// A [`FreeError`] if these frames cannot be an allocated block of this zone; nothing has changed then.
    pub fn put(&mut self, pfn: Pfn, order: Order) -> Result<(), FreeError> {
        if !pfn.is_aligned(order) {
            return Err(FreeError::NotAligned);
        }
        let block = PfnRange::with_len(pfn, order.nr_pages());
        if block.nr_pages() != order.nr_pages() || !self.range.contains_range(block) {
            return Err(FreeError::OutsideZone);
        }
        let checked = if cfg!(debug_assertions) {
            block
        } else {
            PfnRange::with_len(pfn, 1)
        };
        self.check_allocated(checked)?;
        self.merge(pfn, order);
        Ok(())
    }

    /// Gives the zone frames of its range that it never had, as the largest blocks that alignment allows.
    ///
    /// Linux: `__free_pages_memory`, mm/memblock.c. O(n) in frames: every descriptor is looked at.
    ///
    /// # Errors
    /// A [`FreeError`] if one of the frames lies outside the zone, is free already or is reserved; nothing has changed
    /// then.
    pub fn add_free_range(&mut self, range: PfnRange) -> Result<(), FreeError> {
        if !self.range.contains_range(range) {
            return Err(FreeError::OutsideZone);
        }
        self.check_allocated(range)?;
        let mut pfn = range.start();
        while pfn < range.end() {
            let order = largest_block(pfn, range.end());
            self.merge(pfn, order);
            pfn += order.nr_pages();
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

    /// The free block that `pfn` lies in, if it is free. Linux: `is_free_buddy_page`.
    #[must_use]
    pub fn free_block_of(&self, pfn: Pfn) -> Option<FreeBlock> {
        if !self.range.contains(pfn) {
            return None;
        }
        Order::all().find_map(|order| {
            let start = pfn.align_down(order);
            let found = self.areas.order_at(start)?;
            (self.range.contains(start) && found >= order).then_some(FreeBlock {
                pfn: start,
                order: found,
            })
        })
    }

    /// Every free block, small ones first.
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

    /// Frames that leave `range` are not looked at: it lies in the zone.
    fn check_allocated(&self, range: PfnRange) -> Result<(), FreeError> {
        // A free block that overlaps the range starts in it, or holds its first frame.
        if !range.is_empty() && self.free_block_of(range.start()).is_some() {
            return Err(FreeError::AlreadyFree);
        }
        let map = self.areas.map();
        for pfn in range.iter() {
            let flags = map.get(pfn).ok_or(FreeError::OutsideZone)?.flags();
            if flags.contains(PageFlags::BUDDY) {
                return Err(FreeError::AlreadyFree);
            }
            if flags.contains(PageFlags::RESERVED) {
                return Err(FreeError::Reserved);
            }
        }
        Ok(())
    }

    fn merge(&mut self, pfn: Pfn, order: Order) {
        self.nr_free_pages += order.nr_pages();
        let (mut pfn, mut order) = (pfn, order);
        while let Some(up) = order.up() {
            let buddy = pfn.buddy(order);
            // A free block of this zone lies in its range whole (INV-1), so looking at the first frame is enough.
            if !self.range.contains(buddy) || !self.areas.is_free(buddy, order) {
                break;
            }
            self.areas.remove(buddy, order);
            pfn = pfn.align_down(up);
            order = up;
        }
        self.areas.push(pfn, order);
    }
}

/// The largest order that a block at `pfn` may have without reaching beyond `end`. `pfn < end`.
fn largest_block(pfn: Pfn, end: Pfn) -> Order {
    Order::all()
        .rev()
        .find(|&order| pfn.is_aligned(order) && order.nr_pages() <= end - pfn)
        .unwrap_or(Order::ZERO)
        .min(MAX_ORDER)
}
