//! Linking and unlinking.

use kmm_frame::{MemMap, Page, PageFlags, Pfn};

use super::{LruBroken, LruError, LruList};

/// The lists themselves. The lock is held: that is what `&mut self` says.
#[derive(Debug)]
pub(crate) struct LruLists {
    map: MemMap,
    lists: [List; LruList::COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct List {
    first: Option<Pfn>,
    last: Option<Pfn>,
    nr_pages: usize,
}

/// Where a page enters a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Used last.
    Front,
    /// Reclaimed next.
    Tail,
}

impl LruLists {
    pub(crate) fn new(map: MemMap) -> Self {
        Self {
            map,
            lists: [List::default(); LruList::COUNT],
        }
    }

    pub(super) const fn map(&self) -> MemMap {
        self.map
    }

    pub(super) const fn tail(&self, list: LruList) -> Option<Pfn> {
        self.lists[list.index()].last
    }

    pub(super) const fn nr_pages(&self, list: LruList) -> usize {
        self.lists[list.index()].nr_pages
    }

    /// Puts a page that is on no list onto one, with its flags.
    pub(super) fn link(&mut self, pfn: Pfn, list: LruList, end: End) {
        let page = self.map.page(pfn);
        let ends = &mut self.lists[list.index()];
        let (prev, next) = match end {
            End::Front => (None, ends.first),
            End::Tail => (ends.last, None),
        };
        page.set_lru_prev(prev);
        page.set_lru_next(next);
        match prev {
            Some(prev) => self.map.page(prev).set_lru_next(Some(pfn)),
            None => ends.first = Some(pfn),
        }
        match next {
            Some(next) => self.map.page(next).set_lru_prev(Some(pfn)),
            None => ends.last = Some(pfn),
        }
        ends.nr_pages += 1;
        list.mark(page);
    }

    /// The list that a page is on, if its neighbours agree.
    pub(super) fn list_of(&self, pfn: Pfn) -> Result<LruList, LruError> {
        let page = self.map.get(pfn).ok_or(LruError::Foreign)?;
        if !page.test(PageFlags::LRU) {
            return Err(LruError::NotListed);
        }
        let list = LruList::of(page.flags()).ok_or(LruError::Spoiled)?;
        let ends = &self.lists[list.index()];
        let agrees = |other: Pfn, back: fn(&Page) -> Option<Pfn>| {
            self.map.get(other).is_some_and(|other| {
                back(other) == Some(pfn) && LruList::of(other.flags()) == Some(list)
            })
        };
        let before = match page.lru_prev() {
            Some(prev) => agrees(prev, Page::lru_next),
            None => ends.first == Some(pfn),
        };
        let after = match page.lru_next() {
            Some(next) => agrees(next, Page::lru_prev),
            None => ends.last == Some(pfn),
        };
        if before && after {
            Ok(list)
        } else {
            Err(LruError::Spoiled)
        }
    }

    /// Takes a page off its list, which [`LruLists::list_of`] has told. The flags stay.
    pub(super) fn unlink(&mut self, pfn: Pfn, list: LruList) {
        let page = self.map.page(pfn);
        let ends = &mut self.lists[list.index()];
        let (prev, next) = (page.lru_prev(), page.lru_next());
        match prev {
            Some(prev) => self.map.page(prev).set_lru_next(next),
            None => ends.first = next,
        }
        match next {
            Some(next) => self.map.page(next).set_lru_prev(prev),
            None => ends.last = prev,
        }
        ends.nr_pages -= 1;
        page.set_lru_prev(None);
        page.set_lru_next(None);
    }

    /// The pages of a list from the front. Ends one after as many as are counted, should the links form a ring.
    pub(super) fn pages(&self, list: LruList) -> impl Iterator<Item = Pfn> {
        let map = self.map;
        let ends = self.lists[list.index()];
        core::iter::successors(ends.first, move |&pfn| map.get(pfn)?.lru_next())
            .take(ends.nr_pages.saturating_add(1))
    }

    pub(super) fn validate_list(&self, list: LruList) -> Result<(), LruBroken> {
        let ends = self.lists[list.index()];
        let mut prev = None;
        let mut count = 0;
        for pfn in self.pages(list) {
            let page = self.map.get(pfn).ok_or(LruBroken::Link(list, pfn))?;
            if page.lru_prev() != prev {
                return Err(LruBroken::Link(list, pfn));
            }
            if LruList::of(page.flags()) != Some(list) {
                return Err(LruBroken::Flags(list, pfn));
            }
            prev = Some(pfn);
            count += 1;
        }
        if count != ends.nr_pages || prev != ends.last {
            return Err(LruBroken::Count(list));
        }
        Ok(())
    }
}
