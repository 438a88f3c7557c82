//! Pageblocks that are kept back: for urgent requests, and for devices. Linux: `reserve_highatomic_pageblock`,
//! `unreserve_highatomic_pageblock`, mm/page_alloc.c; `init_cma_reserved_pageblock`, mm/mm_init.c.

use kmm_frame::{MigrateType, Order, Pfn, PfnRange};

use crate::{Buddy, FreeError};

/// The reserve is at most this part of the zone, and a pageblock.
const RESERVE_SHARE: usize = 100;

impl Buddy {
    /// Keeps the pageblocks of a block back that was allocated just now by an urgent request of higher order, so that the
    /// next one finds some; whether it did. [`Buddy::take`] takes from them for [`MigrateType::HighAtomic`] only.
    ///
    /// Not above a hundredth of `managed_pages` and a pageblock, not at all in zones of which a hundredth is less than a
    /// pageblock, and not if the pageblock is kept back already, for whatever purpose.
    ///
    /// Linux: `reserve_highatomic_pageblock`.
    pub fn reserve_highatomic(&mut self, pfn: Pfn, order: Order, managed_pages: usize) -> bool {
        let share = managed_pages / RESERVE_SHARE;
        let most = share + Order::PAGEBLOCK.nr_pages();
        if share < Order::PAGEBLOCK.nr_pages() || !self.range().contains(pfn) {
            return false;
        }
        let mut is_reserved = false;
        let block = PfnRange::with_len(pfn, order.nr_pages()).intersect(self.range());
        for slot in self.areas().slots(block) {
            let kind = self.areas().kind(slot);
            if crate::pageblock::is_mergeable(kind) && self.nr_reserved_highatomic() < most {
                self.set_kind(slot, MigrateType::HighAtomic);
                is_reserved = true;
            }
        }
        is_reserved
    }

    /// Gives a pageblock that was kept back for urgent requests, and of which something is free, to requests of a type;
    /// whether there was one. The caller decides whether the last one goes too.
    ///
    /// Linux: `unreserve_highatomic_pageblock`.
    pub fn unreserve_highatomic(&mut self, kind: MigrateType) -> bool {
        let found = self
            .areas_mut()
            .fitting(MigrateType::HighAtomic, Order::ZERO);
        found.map(|slot| self.set_kind(slot, kind)).is_some()
    }

    /// How many frames are in pageblocks that are kept back for urgent requests. Linux: `zone::nr_reserved_highatomic`.
    #[must_use]
    pub const fn nr_reserved_highatomic(&self) -> usize {
        self.nr_reserved() * Order::PAGEBLOCK.nr_pages()
    }

    /// How many of these frames are free. Linux: `zone::nr_free_highatomic`.
    #[must_use]
    pub const fn nr_free_highatomic(&self) -> usize {
        self.nr_free_pages_of(MigrateType::HighAtomic)
    }

    /// How many frames are free that a device lends. Linux: `NR_FREE_CMA_PAGES`.
    #[must_use]
    #[inline]
    pub const fn nr_free_cma(&self) -> usize {
        self.nr_free_pages_of(MigrateType::Cma)
    }

    /// As [`Buddy::add_free_range`], of whole pageblocks that a device lends: they become [`MigrateType::Cma`].
    ///
    /// Linux: `init_cma_reserved_pageblock`.
    ///
    /// # Errors
    /// As for [`Buddy::add_free_range`]; [`FreeError::NotAligned`] if a pageblock is there in part.
    pub fn add_cma_range(&mut self, range: PfnRange) -> Result<(), FreeError> {
        let is_aligned = |pfn: Pfn| pfn.is_aligned(Order::PAGEBLOCK);
        if !is_aligned(range.start()) || !is_aligned(range.end()) {
            return Err(FreeError::NotAligned);
        }
        self.check_new(range)?;
        for slot in self.areas().slots(range) {
            self.set_kind(slot, MigrateType::Cma);
        }
        self.add_free_range(range)
    }

    /// How many pageblocks are kept back for urgent requests, by looking at all.
    pub(crate) fn count_reserved(&self) -> usize {
        let slots = 0..self.areas().nr_slots();
        slots
            .filter(|&slot| self.areas().kind(slot) == MigrateType::HighAtomic)
            .count()
    }
}
