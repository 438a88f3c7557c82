//! The free blocks of each order, as lists linked by frame number through the descriptors. Linux: `struct free_area`.
//!
//! This module alone knows how free blocks are kept and marked; the algorithm next door only asks it. More lists for
//! each order (migrate types), or bits instead of lists, change this file.

use kmm_frame::{MemMap, NR_ORDERS, Order, Page, PageFlags, Pfn};

/// Doubly linked lists of free blocks, one for each order. The newest block is in front.
#[derive(Debug)]
pub(crate) struct FreeAreas {
    map: MemMap,
    lists: [FreeList; NR_ORDERS],
    /// Bit `n` is set while list `n` has a block.
    nonempty: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct FreeList {
    first: Option<Pfn>,
    nr_free: usize,
}

impl FreeAreas {
    pub(crate) fn new(map: MemMap) -> Self {
        Self {
            map,
            lists: [FreeList::default(); NR_ORDERS],
            nonempty: 0,
        }
    }

    pub(crate) const fn map(&self) -> MemMap {
        self.map
    }

    /// How many blocks of exactly `order` are free.
    pub(crate) const fn nr_free(&self, order: Order) -> usize {
        self.lists[order.index()].nr_free
    }

    /// The smallest order, `order` or above, of which a block is free.
    pub(crate) fn smallest_nonempty(&self, order: Order) -> Option<Order> {
        let candidates = self.nonempty >> order.get() << order.get();
        let smallest = u8::try_from(candidates.trailing_zeros()).ok()?;
        Order::new(smallest)
    }

    /// Whether a free block of exactly `order` starts at `pfn`.
    pub(crate) fn is_free(&self, pfn: Pfn, order: Order) -> bool {
        self.map
            .get(pfn)
            .is_some_and(|page| marked_order(page) == Some(order) && self.is_listed(pfn, order))
    }

    /// The order of the free block that starts at `pfn`, if one does. Linux: `PageBuddy`, `buddy_order`.
    pub(crate) fn order_at(&self, pfn: Pfn) -> Option<Order> {
        let order = marked_order(self.map.get(pfn)?)?;
        self.is_listed(pfn, order).then_some(order)
    }

    /// Whether the neighbours on the list of `order` know the page. The mark alone is not believed: an owner may have
    /// set it on a page of its own. Who asks goes on to unlink the block, and so touches the neighbours anyway.
    fn is_listed(&self, pfn: Pfn, order: Order) -> bool {
        match self.map.page(pfn).lru_prev() {
            None => self.lists[order.index()].first == Some(pfn),
            Some(prev) => self.map.get(prev).is_some_and(|prev| {
                prev.lru_next() == Some(pfn) && marked_order(prev) == Some(order)
            }),
        }
    }

    /// Puts a block in front of its list. Linux: `add_to_free_list`.
    pub(crate) fn push(&mut self, pfn: Pfn, order: Order) {
        let list = &mut self.lists[order.index()];
        let page = self.map.page(pfn);
        page.reset_flags(PageFlags::BUDDY);
        page.set_private(u64::from(order.get()));
        page.set_lru_prev(None);
        page.set_lru_next(list.first);
        if let Some(second) = list.first {
            self.map.page(second).set_lru_prev(Some(pfn));
        }
        list.first = Some(pfn);
        list.nr_free += 1;
        self.nonempty |= 1 << order.get();
    }

    /// Takes the block in front off its list.
    pub(crate) fn pop(&mut self, order: Order) -> Option<Pfn> {
        let pfn = self.lists[order.index()].first?;
        self.remove(pfn, order);
        Some(pfn)
    }

    /// Takes a block that is on the list of `order` off it. Linux: `del_page_from_free_list`.
    pub(crate) fn remove(&mut self, pfn: Pfn, order: Order) {
        debug_assert!(self.is_free(pfn, order), "{pfn} is not free at {order}");
        let list = &mut self.lists[order.index()];
        let page = self.map.page(pfn);
        let (prev, next) = (page.lru_prev(), page.lru_next());
        match prev {
            Some(prev) => self.map.page(prev).set_lru_next(next),
            None => list.first = next,
        }
        if let Some(next) = next {
            self.map.page(next).set_lru_prev(prev);
        }
        list.nr_free -= 1;
        if list.first.is_none() {
            self.nonempty &= !(1 << order.get());
        }
        page.reset_flags(PageFlags::empty());
        page.set_private(0);
        page.set_lru_prev(None);
        page.set_lru_next(None);
    }

    /// The blocks of one order, from the front. Ends after as many as are counted, should the links form a ring.
    pub(crate) fn blocks(&self, order: Order) -> impl Iterator<Item = Pfn> {
        let map = self.map;
        let list = self.lists[order.index()];
        core::iter::successors(list.first, move |&pfn| map.get(pfn)?.lru_next())
            .take(list.nr_free.saturating_add(1))
    }

    /// Whether the summary says that a block of `order` is free.
    pub(crate) const fn is_marked_nonempty(&self, order: Order) -> bool {
        self.nonempty & (1 << order.get()) != 0
    }
}

/// The order that the descriptor claims as the start of a free block.
fn marked_order(page: &Page) -> Option<Order> {
    if !page.test(PageFlags::BUDDY) {
        return None;
    }
    Order::new(u8::try_from(page.private()).ok()?)
}
