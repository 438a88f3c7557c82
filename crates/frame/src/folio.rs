//! A page that is no tail. Linux: `struct folio`, include/linux/mm_types.h.

use core::fmt;
use core::ops::Deref;

use crate::{MemMap, Order, PAGE_SIZE, Page, Pfn, PfnRange};

mod split;

pub use split::SplitError;

/// A whole page as its users mean it: a single one, or a compound page, by its head.
///
/// It derefs to the head's [`Page`], so flags, counts and lock are those of the whole. None is made of a tail:
/// [`MemMap::folio`] finds the head, [`Folio::from_head`] refuses. It is a name, not an owner: whoever has one also holds a
/// reference, or the block itself, or the folio may go and its frames be another's.
#[derive(Clone, Copy)]
pub struct Folio {
    pfn: Pfn,
    page: &'static Page,
}

/// The frame is a later page of a compound page, or has no descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAFolio;

impl fmt::Display for NotAFolio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("frame is not the first of a folio")
    }
}

impl core::error::Error for NotAFolio {}

/// Why [`MemMap::try_get_folio`] has no reference.
#[derive(Clone, Copy, Debug)]
#[must_use = "a folio that came with it is to be freed"]
#[non_exhaustive]
pub enum Lost {
    /// The frame has no descriptor.
    NoDescriptor,
    /// Nobody holds it: it is free, or frozen.
    Unheld,
    /// It became another folio's meanwhile. If that made the caller the last user of the folio that it was in, here it is,
    /// to be freed.
    Moved(Option<Folio>),
}

impl Folio {
    /// The folio that begins with `pfn`.
    ///
    /// # Errors
    /// [`NotAFolio`] for a tail, and for a frame without descriptor.
    pub fn from_head(map: &MemMap, pfn: Pfn) -> Result<Self, NotAFolio> {
        match map.folio(pfn) {
            Some(folio) if folio.pfn == pfn => Ok(folio),
            _ => Err(NotAFolio),
        }
    }

    /// The first frame. Linux: `folio_pfn`.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The head's descriptor.
    #[must_use]
    pub const fn page(&self) -> &'static Page {
        self.page
    }

    /// Its size as an order. Linux: `folio_order`.
    #[must_use]
    pub fn order(&self) -> Order {
        self.page.compound_order().unwrap_or(Order::ZERO)
    }

    /// Its size in pages. Linux: `folio_nr_pages`.
    #[must_use]
    pub fn nr_pages(&self) -> usize {
        self.order().nr_pages()
    }

    /// Its size in bytes. Linux: `folio_size`.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.nr_pages() * PAGE_SIZE
    }

    /// Its frames.
    #[must_use]
    pub fn range(&self) -> PfnRange {
        PfnRange::with_len(self.pfn, self.nr_pages())
    }

    /// Whether it is more than one page. Linux: `folio_test_large`.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.page.is_head() && self.order() > Order::ZERO
    }

    /// Where one of its frames belongs within what it is a page of: the folio's index and the distance. `None` for a frame
    /// of another folio. Linux: `page_to_pgoff`.
    #[must_use]
    pub fn index_of(&self, pfn: Pfn) -> Option<u64> {
        let offset = self.range().contains(pfn).then(|| pfn - self.pfn)?;
        Some(self.page.index().wrapping_add(offset as u64))
    }

    /// How many entries map all of it at once, as a huge page. Linux: `folio_entire_mapcount`.
    ///
    /// # Panics
    /// When `map` is not the folio's.
    #[must_use]
    pub fn entire_mapcount(&self, map: &MemMap) -> i32 {
        self.whole(map).map_or(0, Page::entire_count)
    }

    /// One more entry maps all of it at once. It is large. Linux: `page_add_rmap` with `RMAP_COMPOUND`.
    ///
    /// # Panics
    /// When `map` is not the folio's; in debug builds when it is a single page.
    pub fn inc_entire_mapcount(&self, map: &MemMap) {
        let whole = self.whole(map);
        debug_assert!(whole.is_some(), "a single page is mapped by itself");
        if let Some(page) = whole {
            page.add_entire(1);
        }
    }

    /// One entry that maps all of it fewer; whether it was the last. Linux: `page_remove_rmap`.
    ///
    /// # Panics
    /// When `map` is not the folio's; in debug builds when no entry maps it so.
    pub fn dec_entire_mapcount(&self, map: &MemMap) -> bool {
        let before = self.whole(map).map_or(0, |page| page.add_entire(-1));
        debug_assert!(before > 0, "a folio that no entry maps was unmapped");
        before == 1
    }

    /// How many entries map it, or a page of it. O(n) in its pages. Linux: `folio_mapcount`.
    ///
    /// # Panics
    /// When `map` is not the folio's.
    #[must_use]
    pub fn mapcount(&self, map: &MemMap) -> i32 {
        let single = self.range().iter().map(|pfn| map.page(pfn).map_count());
        single.sum::<i32>() + self.entire_mapcount(map)
    }

    /// The page that counts the entries which map all of a large folio: its second, which has no other use for the word.
    fn whole(&self, map: &MemMap) -> Option<&'static Page> {
        self.is_large().then(|| map.page(self.pfn + 1))
    }
}

impl MemMap {
    /// The folio that `pfn` is in; `None` for a frame without descriptor. Linux: `page_folio`.
    ///
    /// # Context
    /// As [`MemMap::compound_head`].
    #[must_use]
    pub fn folio(&self, pfn: Pfn) -> Option<Folio> {
        self.get(pfn)?;
        let pfn = self.compound_head(pfn);
        let page = self.get(pfn)?;
        Some(Folio { pfn, page })
    }

    /// Finds the folio that `pfn` is in and takes a reference, though the caller holds none and the frame may go to
    /// somebody else any time. Linux: `try_get_folio`, `folio_try_get`.
    ///
    /// # Errors
    /// [`Lost`]: there is no reference to be had. It may carry a folio that the caller is to free.
    pub fn try_get_folio(&self, pfn: Pfn) -> Result<Folio, Lost> {
        let folio = self.folio(pfn).ok_or(Lost::NoDescriptor)?;
        if !folio.get_unless_zero() {
            return Err(Lost::Unheld);
        }
        // The reference keeps the folio as it is: if `pfn` is in it now, it was when the reference came.
        if folio.range().contains(pfn) {
            return Ok(folio);
        }
        Err(Lost::Moved(folio.put_and_test().then_some(folio)))
    }
}

impl Deref for Folio {
    type Target = Page;

    #[inline]
    fn deref(&self) -> &Page {
        self.page
    }
}

impl PartialEq for Folio {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.page, other.page)
    }
}

impl Eq for Folio {}

impl fmt::Debug for Folio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Folio")
            .field("pfn", &self.pfn)
            .field("order", &self.order())
            .finish_non_exhaustive()
    }
}
