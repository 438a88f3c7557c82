//! The pages of a node that can be reclaimed, by kind and by use. Linux: `struct lruvec`, mm/swap.c.
//!
//! Five lists, linked by frame number through the descriptors: what came or was used last is in front, what is reclaimed
//! next is at the tail. While a page is on a list, four of its flags belong to the lists and say which one it is:
//!
//! | list | `LRU` | `ACTIVE` | `UNEVICTABLE` | `SWAPBACKED` |
//! |---|---|---|---|---|
//! | inactive anonymous | 1 | 0 | 0 | 1 |
//! | active anonymous | 1 | 1 | 0 | 1 |
//! | inactive file | 1 | 0 | 0 | 0 |
//! | active file | 1 | 1 | 0 | 0 |
//! | unevictable | 1 | 0 | 1 | as the owner left it |
//!
//! What a page is worth (`REFERENCED`, accessed bits, how many are scanned) is the business of whoever reclaims. Before a
//! page is touched, its links are compared with those of its neighbours: a page whose flags or links somebody else has
//! changed is refused, and the lists stay as they are.

use core::fmt;

use kmm_frame::{NodeItem, Page, PageFlags, Pfn, ZoneItem};
use kmm_host::{Cpus, PhysMap};
use lock_api::{MutexGuard, RawMutex};

use crate::{Node, Zone, Zones};

mod error;
mod list;
mod lists;

pub use error::{LruBroken, LruError};
pub use list::LruList;
pub(crate) use lists::LruLists;

use list::OWN_FLAGS;
use lists::End;

/// Uses of a page that need its links themselves, or never let it be reclaimed.
const OTHER_USES: PageFlags = PageFlags::BUDDY
    .union(PageFlags::RESERVED)
    .union(PageFlags::SLAB)
    .union(PageFlags::TABLE)
    .union(PageFlags::VMALLOC)
    .union(PageFlags::HEAD)
    .union(PageFlags::TAIL);

/// The LRU lists of a node, locked while this lives: [`Node::lruvec`]. Linux: `struct lruvec` and `lruvec_lock`.
///
/// Single pages only, each of which somebody holds. Its owner takes a page off before the last reference goes; a page
/// that is freed while it is on a list is reported and dropped ([`crate::BadReason::Flags`]).
///
/// # Context
/// Does not sleep. Pages may be allocated and freed while it lives; no lock of a zone may be held when it is made.
pub struct Lruvec<'a, L: RawMutex> {
    lists: MutexGuard<'a, L, LruLists>,
    node: &'a Node<L>,
}

impl<'a, L: RawMutex> Lruvec<'a, L> {
    /// Puts a page in front of a list and gives it the flags of that list. Linux: `lruvec_add_folio`.
    ///
    /// # Errors
    /// A [`LruError`] unless it is a page of this node that somebody holds, that serves nothing else that needs its links,
    /// and that is on no list; nothing has changed then.
    pub fn add(&mut self, pfn: Pfn, list: LruList) -> Result<(), LruError> {
        self.enter(pfn, list, End::Front)
    }

    /// As [`Lruvec::add`], at the tail: to be reclaimed next. Linux: `lruvec_add_folio_tail`.
    ///
    /// # Errors
    /// As for [`Lruvec::add`].
    pub fn add_tail(&mut self, pfn: Pfn, list: LruList) -> Result<(), LruError> {
        self.enter(pfn, list, End::Tail)
    }

    /// Takes a page off its list, and the flags `LRU`, `ACTIVE` and `UNEVICTABLE` from it; the list that it was on.
    /// Linux: `lruvec_del_folio` and `__folio_clear_lru_flags`.
    ///
    /// # Errors
    /// [`LruError::Foreign`], [`LruError::NotListed`] or [`LruError::Spoiled`]; nothing has changed then.
    pub fn del(&mut self, pfn: Pfn) -> Result<LruList, LruError> {
        let list = self.lists.list_of(pfn)?;
        self.lists.unlink(pfn, list);
        self.page(pfn).clear(OWN_FLAGS);
        self.count(pfn, list, -1);
        Ok(list)
    }

    /// Moves a page to the tail of its list: to be reclaimed next. Linux: `lru_move_tail_fn`, `folio_rotate_reclaimable`.
    ///
    /// # Errors
    /// As for [`Lruvec::del`].
    pub fn move_to_tail(&mut self, pfn: Pfn) -> Result<LruList, LruError> {
        let list = self.lists.list_of(pfn)?;
        self.shift(pfn, list, list, End::Tail);
        Ok(list)
    }

    /// Moves a page to the front of its list: another round. Linux: `list_move` in `shrink_active_list`.
    ///
    /// # Errors
    /// As for [`Lruvec::del`].
    pub fn move_to_front(&mut self, pfn: Pfn) -> Result<LruList, LruError> {
        let list = self.lists.list_of(pfn)?;
        self.shift(pfn, list, list, End::Front);
        Ok(list)
    }

    /// Moves a page to the front of another list, or of its own; the list that it was on. Linux: `folio_add_lru` after
    /// isolation, `lru_add_fn`.
    ///
    /// # Errors
    /// As for [`Lruvec::del`].
    pub fn move_to(&mut self, pfn: Pfn, to: LruList) -> Result<LruList, LruError> {
        let from = self.lists.list_of(pfn)?;
        self.shift(pfn, from, to, End::Front);
        Ok(from)
    }

    /// Moves an inactive page to the front of the active list of its kind; others stay where they are. The list that it
    /// is on now. Linux: `folio_activate_fn`.
    ///
    /// # Errors
    /// As for [`Lruvec::del`].
    pub fn activate(&mut self, pfn: Pfn) -> Result<LruList, LruError> {
        self.change(pfn, LruList::activated)
    }

    /// Moves an active page to the front of the inactive list of its kind; others stay where they are. The list that it
    /// is on now. Linux: `lru_deactivate_fn`.
    ///
    /// # Errors
    /// As for [`Lruvec::del`].
    pub fn deactivate(&mut self, pfn: Pfn) -> Result<LruList, LruError> {
        self.change(pfn, LruList::deactivated)
    }

    /// The page of a list to be reclaimed next. Linux: `lru_to_folio`.
    #[must_use]
    pub fn tail(&self, list: LruList) -> Option<Pfn> {
        self.lists.tail(list)
    }

    /// How many pages are on a list. Linux: `lruvec_page_state(NR_LRU_BASE + lru)`.
    #[must_use]
    pub fn nr_pages(&self, list: LruList) -> usize {
        self.lists.nr_pages(list)
    }

    /// The pages of a list, from the one used last to the one reclaimed next.
    pub fn pages(&self, list: LruList) -> impl Iterator<Item = Pfn> {
        self.lists.pages(list)
    }

    /// Walks every list and every descriptor of the node. O(n) in frames.
    ///
    /// # Errors
    /// The first violation of INV-6 found.
    pub fn validate(&self) -> Result<(), LruBroken> {
        let mut nr_listed = 0;
        for list in LruList::ALL {
            self.lists.validate_list(list)?;
            nr_listed += self.nr_pages(list);
            for zone in self.node.zones() {
                let inside = |pfn: &Pfn| zone.owns(*pfn);
                if self.pages(list).filter(inside).count() as u64 != zone.count(list.into()) {
                    return Err(LruBroken::ZoneCount(zone.kind(), list));
                }
            }
        }
        // As many pages say that they are on a list as are; each of those does, so they are the same.
        let page_of = |pfn: &Pfn| self.lists.map().get(*pfn);
        let says_so = |pfn: &Pfn| page_of(pfn).is_some_and(Page::is_lru);
        let own = |zone: &'a Zone<L>| zone.range().iter().filter(|pfn| zone.owns(*pfn));
        let claims = || self.node.zones().iter().flat_map(own);
        if claims().filter(says_so).count() == nr_listed {
            return Ok(());
        }
        let is_listed = |pfn: Pfn| {
            LruList::ALL
                .into_iter()
                .any(|list| self.pages(list).any(|other| other == pfn))
        };
        let mut unlisted = claims().filter(says_so).filter(|&pfn| !is_listed(pfn));
        Err(unlisted
            .next()
            .map_or(LruBroken::Count(LruList::Unevictable), LruBroken::Unlisted))
    }

    fn enter(&mut self, pfn: Pfn, list: LruList, end: End) -> Result<(), LruError> {
        let page = self.lists.map().get(pfn).ok_or(LruError::Foreign)?;
        let zone = self.node.zone_of(pfn).ok_or(LruError::Foreign)?;
        let flags = page.flags();
        if flags.contains(PageFlags::LRU) {
            return Err(LruError::AlreadyListed);
        }
        if flags.intersects(OTHER_USES) {
            return Err(LruError::OtherUse(flags & OTHER_USES));
        }
        if page.ref_count() <= 0 {
            return Err(LruError::NotHeld);
        }
        self.lists.link(pfn, list, end);
        self.count_in(zone, list, 1);
        Ok(())
    }

    fn change(&mut self, pfn: Pfn, to: fn(LruList) -> LruList) -> Result<LruList, LruError> {
        let from = self.lists.list_of(pfn)?;
        if to(from) != from {
            self.shift(pfn, from, to(from), End::Front);
        }
        Ok(to(from))
    }

    fn shift(&mut self, pfn: Pfn, from: LruList, to: LruList, end: End) {
        self.lists.unlink(pfn, from);
        self.lists.link(pfn, to, end);
        if from != to {
            self.count(pfn, from, -1);
            self.count(pfn, to, 1);
        }
    }

    fn count(&self, pfn: Pfn, list: LruList, nr_pages: isize) {
        if let Some(zone) = self.node.zone_of(pfn) {
            self.count_in(zone, list, nr_pages);
        }
    }

    fn count_in(&self, zone: &Zone<L>, list: LruList, nr_pages: isize) {
        zone.mod_total(ZoneItem::from(list), nr_pages);
        let of_node = self.node.counters();
        of_node.add_to_total(NodeItem::from(list), nr_pages);
    }

    fn page(&self, pfn: Pfn) -> &'static Page {
        self.lists.map().page(pfn)
    }
}

impl<L: RawMutex> fmt::Debug for Lruvec<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = LruList::ALL.map(|list| (list, self.nr_pages(list)));
        f.debug_map().entries(counts).finish()
    }
}

impl<L: RawMutex> Node<L> {
    /// Locks the LRU lists of the node. Linux: `folio_lruvec_lock`.
    ///
    /// # Context
    /// Spins while another CPU has them; a CPU that has them already never gets them again.
    pub fn lruvec(&self) -> Lruvec<'_, L> {
        Lruvec {
            lists: self.lru_lists().lock(),
            node: self,
        }
    }

    /// How many pages of the node are on a list, without its lock. Linux: `node_page_state(NR_LRU_BASE + lru)`.
    #[must_use]
    pub fn lru_pages(&self, list: LruList) -> u64 {
        self.counters().snapshot(list.into())
    }
}

impl<L: RawMutex, C: Cpus, P: PhysMap> Zones<L, C, P> {
    /// How many pages of all nodes are on a list, without their locks. Linux: `global_node_page_state`.
    #[must_use]
    pub fn lru_pages(&self, list: LruList) -> u64 {
        let nodes = self.nodes().iter();
        nodes.map(|node| node.lru_pages(list)).sum()
    }
}
