//! Compound pages: a block of 2^n frames that is one page to its users. Linux: `prep_compound_page`, `compound_head`.
//!
//! Only the head is marked: [`PageFlags::HEAD`](crate::PageFlags::HEAD) and the order, in one word. A tail's head is derived: a block of order `o`
//! starts at a multiple of 2^o, so the head of a frame is one of at most ten frames, those that its number turns into when
//! its lowest bits go one by one; it is the one that says it is a head whose block reaches that far. So to make or to
//! dissolve a compound page of any order is one store, and the descriptors of tails are never written. What was
//! rejected: a link in each tail, as Linux has it, costs 511 writes for a huge page, twice.
//!
//! Two things keep the search honest. A frame that has references, or is a head, is no tail, so the common case is one
//! look. And a mark never outlives its block: who frees the block takes it off ([`MemMap::destroy_compound_page`]), and
//! blocks do not overlap, so no other head reaches a frame (INV-14).

use core::fmt;

use crate::{Folio, MAX_ORDER, MemMap, Order, Page, Pfn};

/// Why a block is no compound page of that order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum CompoundError {
    /// The frame is no head: a tail, or not compound at all.
    NotAHead,
    /// It is a head, of another order.
    WrongOrder(Order),
    /// It is a head, where single pages are wanted.
    IsCompound,
    /// Nobody holds it, or somebody else as well.
    NotHeldOnce,
}

impl fmt::Display for CompoundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAHead => f.write_str("frame is not the head of a compound page"),
            Self::WrongOrder(order) => write!(f, "compound page has order {order}"),
            Self::IsCompound => f.write_str("block is a compound page"),
            Self::NotHeldOnce => f.write_str("block is not held exactly once"),
        }
    }
}

impl core::error::Error for CompoundError {}

/// Where a head can be, after the frame itself: each the same block or a larger one.
fn candidates(pfn: Pfn) -> impl Iterator<Item = Pfn> {
    let low = |pfn: Pfn| pfn.index() & (MAX_ORDER.nr_pages() - 1);
    core::iter::successors(Some(pfn), move |&pfn| {
        (low(pfn) != 0).then(|| Pfn::new(pfn.index() & (pfn.index() - 1)))
    })
    .skip(1)
}

impl MemMap {
    /// Makes a block one compound page. Order 0 stays what it is. Linux: `prep_compound_page`.
    ///
    /// # Context
    /// For the allocator, which owns the block alone and gives it references only afterwards.
    ///
    /// # Panics
    /// When the frame has no descriptor; in debug builds also when the block is not aligned.
    #[inline]
    pub fn prep_compound_page(&self, pfn: Pfn, order: Order) {
        debug_assert!(
            pfn.is_aligned(order),
            "{pfn} starts no block of order {order}"
        );
        self.page(pfn).set_compound(order);
    }

    /// Makes a compound page a plain block again. Linux: `free_tail_pages_check`, `ClearPageCompound`.
    ///
    /// # Context
    /// For the allocator, when the last reference is gone.
    ///
    /// # Errors
    /// [`CompoundError::NotAHead`] or [`CompoundError::WrongOrder`] when `pfn` is no compound page of `order`; nothing has
    /// changed then. A page of order 0 that is no head is fine.
    #[inline]
    pub fn destroy_compound_page(&self, pfn: Pfn, order: Order) -> Result<(), CompoundError> {
        let page = self.get(pfn).ok_or(CompoundError::NotAHead)?;
        match page.compound_order() {
            Some(is) if is == order => {
                page.set_compound(Order::ZERO);
                Ok(())
            }
            Some(is) => Err(CompoundError::WrongOrder(is)),
            None if order == Order::ZERO => Ok(()),
            None => Err(CompoundError::NotAHead),
        }
    }

    /// The head of the compound page that `pfn` is in; `pfn` itself when it is in none. Linux: `compound_head`.
    ///
    /// # Context
    /// The caller holds a reference to the compound page, or knows that it stays; else the answer may be old already, see
    /// [`MemMap::try_get_folio`].
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[must_use]
    #[inline]
    pub fn compound_head(&self, pfn: Pfn) -> Pfn {
        let page = self.page(pfn);
        if page.ref_count() != 0 || page.is_head() {
            return pfn;
        }
        self.head_of_tail(pfn).unwrap_or(pfn)
    }

    /// Whether `pfn` is in a compound page, but not its head. Linux: `PageTail`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[must_use]
    pub fn is_tail(&self, pfn: Pfn) -> bool {
        self.compound_head(pfn) != pfn
    }

    /// Makes of a block that is one allocation, but not compound, single pages, each held once. Linux: `split_page`.
    ///
    /// # Errors
    /// [`CompoundError::IsCompound`], [`CompoundError::NotHeldOnce`]; nothing has changed then.
    ///
    /// # Panics
    /// When a frame has no descriptor.
    pub fn split_page(&self, pfn: Pfn, order: Order) -> Result<(), CompoundError> {
        let first = self.page(pfn);
        if first.is_head() || self.is_tail(pfn) {
            return Err(CompoundError::IsCompound);
        }
        if first.ref_count() != 1 {
            return Err(CompoundError::NotHeldOnce);
        }
        for nr in 1..order.nr_pages() {
            self.page(pfn + nr).set_ref_count(1);
        }
        Ok(())
    }

    /// How many users hold the page, or the compound page that it is in. Linux: `page_count`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[must_use]
    pub fn page_count(&self, pfn: Pfn) -> i32 {
        self.head_page(pfn).ref_count()
    }

    /// One more user of the page, or of the compound page that it is in. The caller holds it already. Linux: `get_page`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    pub fn get_page(&self, pfn: Pfn) {
        self.head_page(pfn).get();
    }

    /// One user fewer. The last gets the folio, and frees it. Linux: `put_page`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[must_use = "the last user frees the folio"]
    pub fn put_page(&self, pfn: Pfn) -> Option<Folio> {
        let folio = self.folio(pfn)?;
        folio.put_and_test().then_some(folio)
    }

    /// How many entries of page tables map the page: by itself, or as a part of a huge page. Linux: `page_mapcount`.
    ///
    /// # Panics
    /// When the frame has no descriptor.
    #[must_use]
    pub fn page_mapcount(&self, pfn: Pfn) -> i32 {
        let whole = self
            .folio(pfn)
            .map_or(0, |folio| folio.entire_mapcount(self));
        self.page(pfn).map_count() + whole
    }

    fn head_page(&self, pfn: Pfn) -> &'static Page {
        self.page(self.compound_head(pfn))
    }

    #[inline(never)]
    fn head_of_tail(&self, pfn: Pfn) -> Option<Pfn> {
        candidates(pfn).find(|&head| {
            let order = self.get(head).and_then(Page::compound_order);
            order.is_some_and(|order| pfn - head < order.nr_pages())
        })
    }
}
