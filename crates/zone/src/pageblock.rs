//! A zone's pageblocks under its lock. Linux: `pagetypeinfo_showblockcount`, `set_pageblock_migratetype`.

use kmm_frame::{MigrateType, NR_ORDERS, Pfn};
use lock_api::RawMutex;

use crate::Zone;

impl<L: RawMutex> Zone<L> {
    /// The type of the pageblock of a frame; `None` for frames outside the zone. Linux: `get_pageblock_migratetype`.
    #[must_use]
    pub fn pageblock_type(&self, pfn: Pfn) -> Option<MigrateType> {
        self.pageblocks().type_of(pfn)
    }

    /// Changes the type of the pageblock of a frame, for its frames in this zone; the type before, or `None` for frames
    /// outside the zone.
    ///
    /// Linux: `set_pageblock_migratetype`, mm/page_alloc.c.
    ///
    /// # Context
    /// Takes the zone lock.
    pub fn set_pageblock_type(&self, pfn: Pfn, kind: MigrateType) -> Option<MigrateType> {
        self.with_buddy(|buddy| buddy.set_type(pfn, kind))
    }

    /// How many pageblocks with RAM there are of each type, as in the second table of /proc/pagetypeinfo.
    #[must_use]
    pub fn nr_pageblocks(&self) -> [usize; MigrateType::COUNT] {
        self.pageblocks().nr_blocks()
    }

    /// How often a pageblock has changed its type since boot. Linux: `change_ownership` of the trace event
    /// `mm_page_alloc_extfrag`.
    #[must_use]
    pub fn nr_type_changes(&self) -> u64 {
        self.with_buddy(|buddy| buddy.nr_type_changes())
    }

    /// How many blocks are free, by the type of the pageblock that they start in, and order: the first table of
    /// /proc/pagetypeinfo. Under the zone lock.
    #[must_use]
    pub fn nr_free_by_type(&self) -> [[usize; NR_ORDERS]; MigrateType::COUNT] {
        self.with_buddy(|buddy| buddy.nr_free_by_type())
    }
}
