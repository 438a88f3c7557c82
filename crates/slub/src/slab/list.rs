//! Lists of slabs, linked by frame number through their descriptors.

use kmm_frame::{MemMap, Pfn};

/// Slabs in the same state. Linux: `kmem_cache_node::partial`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SlabList {
    head: Option<Pfn>,
    len: usize,
}

impl SlabList {
    pub(crate) const fn new() -> Self {
        Self { head: None, len: 0 }
    }

    pub(crate) fn first(&self) -> Option<Pfn> {
        self.head
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, map: MemMap, pfn: Pfn) {
        let page = map.page(pfn);
        page.set_lru_prev(None);
        page.set_lru_next(self.head);
        if let Some(head) = self.head {
            map.page(head).set_lru_prev(Some(pfn));
        }
        self.head = Some(pfn);
        self.len += 1;
    }

    /// Takes out a slab that is on this list.
    pub(crate) fn remove(&mut self, map: MemMap, pfn: Pfn) {
        let page = map.page(pfn);
        let (prev, next) = (page.lru_prev(), page.lru_next());
        match prev {
            Some(prev) => map.page(prev).set_lru_next(next),
            None => self.head = next,
        }
        if let Some(next) = next {
            map.page(next).set_lru_prev(prev);
        }
        page.set_lru_prev(None);
        page.set_lru_next(None);
        self.len -= 1;
    }

    /// The slabs, latest first; cut after `len` even if the links were spoilt.
    pub(crate) fn iter(&self, map: MemMap) -> impl Iterator<Item = Pfn> + use<> {
        let mut at = self.head;
        core::iter::from_fn(move || {
            let pfn = at?;
            at = map.page(pfn).lru_next();
            Some(pfn)
        })
        .take(self.len)
    }
}
