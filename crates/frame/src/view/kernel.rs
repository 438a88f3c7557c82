//! Pages of the kernel's own allocators.

use super::{PageUse, View, WrongView, view};
use crate::{MAX_ORDER, Order, Page, PageFlags, Pfn};

view! {
    /// The first page of a free block, for an allocator that links its free blocks through the descriptors: `private` is
    /// the order, `lru` the list. `kmm-buddy` keeps free blocks as bits and touches no descriptor.
    FreeView: PageFlags::BUDDY, PageFlags::empty()
}

view! {
    /// A page of a slab, or its first: `mapping` is the cache.
    SlabView: PageFlags::SLAB, PageFlags::empty()
}

view! {
    /// A page table: `private` is the number of entries in use.
    TableView: PageFlags::TABLE, PageFlags::empty()
}

impl<'p> View<'p> for FreeView<'p> {
    const USE: PageUse = PageUse::Free;
}

impl<'p> View<'p> for SlabView<'p> {
    const USE: PageUse = PageUse::Slab;
}

impl<'p> View<'p> for TableView<'p> {
    const USE: PageUse = PageUse::Table;
}

/// An order as a free page notes it. In a corrupt descriptor it may be none; then it is cut to the largest.
pub(super) fn order_in(private: u64) -> Order {
    let order = u8::try_from(private).ok().and_then(Order::new);
    order.unwrap_or(MAX_ORDER)
}

impl<'p> FreeView<'p> {
    /// Makes the page the first of a free block. Linux: `set_buddy_order`.
    ///
    /// # Errors
    /// [`WrongView`] when it has a use.
    pub fn claim(page: &'p Page, order: Order) -> Result<Self, WrongView> {
        let view: Self = page.claim()?;
        page.set_private(u64::from(order.get()));
        Ok(view)
    }

    /// The size of the block. Linux: `buddy_order`.
    #[must_use]
    pub fn order(self) -> Order {
        order_in(self.0.private())
    }

    /// The next block of the list.
    #[must_use]
    pub fn next(self) -> Option<Pfn> {
        self.0.lru_next()
    }

    /// The block before this one.
    #[must_use]
    pub fn prev(self) -> Option<Pfn> {
        self.0.lru_prev()
    }

    /// Links the block between two others.
    pub fn link(self, prev: Option<Pfn>, next: Option<Pfn>) {
        self.0.set_lru_prev(prev);
        self.0.set_lru_next(next);
    }
}

impl<'p> SlabView<'p> {
    /// Makes the page one of a slab of `cache`.
    ///
    /// # Errors
    /// [`WrongView`] when it has a use.
    pub fn claim(page: &'p Page, cache: u64) -> Result<Self, WrongView> {
        let view: Self = page.claim()?;
        page.set_mapping(cache);
        Ok(view)
    }

    /// The cache. Linux: `slab::slab_cache`.
    #[must_use]
    pub fn cache(self) -> u64 {
        self.0.mapping()
    }

    /// Objects in use, and what else the cache counts. Linux: `slab::counters`.
    #[must_use]
    pub fn counters(self) -> u64 {
        self.0.private()
    }

    /// Sets the counters.
    pub fn set_counters(self, counters: u64) {
        self.0.set_private(counters);
    }

    /// Where the free objects begin. Linux: `slab::freelist`.
    #[must_use]
    pub fn freelist(self) -> u64 {
        self.0.owner_word()
    }

    /// Sets where the free objects begin.
    pub fn set_freelist(self, first: u64) {
        self.0.set_owner_word(first);
    }
}

impl<'p> TableView<'p> {
    /// Makes the page a table with no entry in use. Linux: `pgtable_pte_page_ctor`.
    ///
    /// # Errors
    /// [`WrongView`] when it has a use.
    pub fn claim(page: &'p Page) -> Result<Self, WrongView> {
        let view: Self = page.claim()?;
        page.set_private(0);
        Ok(view)
    }

    /// Entries in use.
    #[must_use]
    pub fn nr_entries(self) -> u64 {
        self.0.private()
    }

    /// So many entries more, or fewer; how many are in use then.
    pub fn add_entries(self, delta: i64) -> u64 {
        self.0.add_private(delta).wrapping_add_signed(delta)
    }
}
