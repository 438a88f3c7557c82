//! Pages with free blocks, in a ring: whoever searches begins where the last search ended.

use kmm_frame::{MemMap, Pfn};

/// Pages linked by frame number through their descriptors. Linux: `free_slob_small` and its like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    head: Option<Pfn>,
    len: usize,
}

impl Ring {
    pub(super) const fn new() -> Self {
        Self { head: None, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Puts a page in, where the next search begins.
    pub(super) fn insert(&mut self, map: MemMap, pfn: Pfn) {
        let (prev, next) = match self.head {
            Some(head) => (map.page(head).lru_prev().unwrap_or(head), head),
            None => (pfn, pfn),
        };
        let page = map.page(pfn);
        page.set_lru_next(Some(next));
        page.set_lru_prev(Some(prev));
        map.page(prev).set_lru_next(Some(pfn));
        map.page(next).set_lru_prev(Some(pfn));
        self.head = Some(pfn);
        self.len += 1;
    }

    /// Takes a page out that is on this ring.
    pub(super) fn remove(&mut self, map: MemMap, pfn: Pfn) {
        let page = map.page(pfn);
        let (prev, next) = (page.lru_prev(), page.lru_next());
        if let (Some(prev), Some(next)) = (prev, next) {
            map.page(prev).set_lru_next(Some(next));
            map.page(next).set_lru_prev(Some(prev));
        }
        page.set_lru_prev(None);
        page.set_lru_next(None);
        self.len -= 1;
        if self.head == Some(pfn) {
            self.head = next.filter(|_| self.len > 0);
        }
    }

    /// The next search begins there. Linux: `list_rotate_to_front`.
    pub(super) fn rotate_to(&mut self, pfn: Pfn) {
        self.head = Some(pfn);
    }

    /// Once around.
    pub(super) fn iter(&self, map: MemMap) -> impl Iterator<Item = Pfn> + use<> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let pfn = at?;
            at = map.page(pfn).lru_next();
            Some(pfn)
        })
        .take(self.len)
    }
}
