//! Splitting a folio. Linux: `split_huge_page_to_list`, mm/huge_memory.c.

use core::fmt;

use super::Folio;
use crate::{MemMap, Order, PageFlags, Pfn};

/// Why a folio was not split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SplitError {
    /// The caller does not hold its lock.
    NotLocked,
    /// The parts would not be smaller.
    NotSmaller,
    /// It is being used in a way that cannot be shared out: on a list, written out, with buffers, of a slab.
    InUse(PageFlags),
    /// Page tables map it; unmap it first.
    Mapped,
    /// Somebody holds a reference besides the caller and the cache.
    Busy,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLocked => f.write_str("folio is not locked"),
            Self::NotSmaller => f.write_str("parts would not be smaller than the folio"),
            Self::InUse(flags) => write!(f, "folio is in use: {flags:?}"),
            Self::Mapped => f.write_str("folio is mapped"),
            Self::Busy => f.write_str("somebody else holds the folio"),
        }
    }
}

impl core::error::Error for SplitError {}

/// Uses of a whole that its parts cannot inherit.
const WHOLE_USES: PageFlags = PageFlags::LRU
    .union(PageFlags::WRITEBACK)
    .union(PageFlags::PRIVATE)
    .union(PageFlags::SLAB)
    .union(PageFlags::RESERVED)
    .union(PageFlags::BUDDY)
    .union(PageFlags::TABLE)
    .union(PageFlags::VMALLOC)
    .union(PageFlags::ACCOUNTED);

impl Folio {
    /// Splits it into folios of `order`, given first to last.
    ///
    /// The caller holds the lock and one reference. A cache holds `cache_refs` for each page: 1 for a page of a file or of
    /// the swap cache, else 0. Afterwards the caller holds the lock of each part and one reference to it, the cache
    /// `cache_refs` for each of its pages. Flags that tell of the contents are copied; the index of a part is where it
    /// begins, and so is its swap entry.
    ///
    /// Linux: `split_huge_page`; there, too, references are frozen meanwhile, so nobody finds half a folio.
    ///
    /// # Errors
    /// [`SplitError`]; nothing has changed then.
    ///
    /// # Panics
    /// When `map` is not the folio's.
    pub fn split(
        self,
        map: &MemMap,
        order: Order,
        cache_refs: i32,
    ) -> Result<impl DoubleEndedIterator<Item = Folio> + use<>, SplitError> {
        let range = self.range();
        if order >= self.order() {
            return Err(SplitError::NotSmaller);
        }
        let flags = self.flags();
        if !flags.contains(PageFlags::LOCKED) {
            return Err(SplitError::NotLocked);
        }
        let uses = flags & WHOLE_USES;
        if !uses.is_empty() {
            return Err(SplitError::InUse(uses));
        }
        if self.mapcount(map) != 0 {
            return Err(SplitError::Mapped);
        }
        if !self.freeze(held(range.nr_pages(), cache_refs)) {
            return Err(SplitError::Busy);
        }
        let map = *map;
        let starts = (range.start().index()..range.end().index()).step_by(order.nr_pages());
        // No part has a reference before all are written, so nobody gets hold of half a folio.
        for start in starts.clone() {
            self.write_part(&map, Pfn::new(start), flags, order);
        }
        let references = held(order.nr_pages(), cache_refs);
        let parts = starts.map(move |start| {
            let pfn = Pfn::new(start);
            let page = map.page(pfn);
            Folio { pfn, page }
        });
        parts.clone().for_each(|part| part.unfreeze(references));
        Ok(parts)
    }

    fn write_part(&self, map: &MemMap, start: Pfn, flags: PageFlags, order: Order) {
        let (page, offset) = (map.page(start), (start - self.pfn) as u64);
        if offset > 0 {
            page.set_mapping(self.mapping());
            page.set_index(self.index().wrapping_add(offset));
            if flags.contains(PageFlags::SWAPCACHE) {
                page.set_private(self.private().wrapping_add(offset));
            }
        }
        page.set_part(flags, order);
    }
}

/// References to so many pages: the caller's, and the cache's.
fn held(nr_pages: usize, cache_refs: i32) -> i32 {
    let nr_pages = i32::from(u16::try_from(nr_pages).unwrap_or(u16::MAX));
    cache_refs.saturating_mul(nr_pages).saturating_add(1)
}
