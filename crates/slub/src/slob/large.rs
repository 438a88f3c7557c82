//! What fits into no page: blocks of pages. Linux: the else branches of `__do_kmalloc_node` and `kfree`, mm/slob.c.
//!
//! The first descriptor has `SLAB` and `HEAD` set, a label in `mapping`, the order in `private`, the owner's slot in `index`.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use kmm_frame::{Gfp, NodeId, NodeItem, Order, PageFlags, Pfn, PfnRange};
use kmm_host::{PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use super::free::Mistake;
use super::{LARGE, Slob, page_gfp};
use crate::slab::reachable;
use crate::{KMALLOC_MAX_SIZE, KmemCache, SlubBugKind, SlubError};

/// `index` of what has no owner.
const NOBODY: u64 = u64::MAX;

impl<A: PageSource, P: PhysMap, L: RawMutex> Slob<A, P, L> {
    pub(super) fn alloc_large(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
        node: Option<NodeId>,
        owner: Option<KmemCache>,
    ) -> Result<NonNull<u8>, SlubError> {
        if size_bytes > KMALLOC_MAX_SIZE {
            return Err(SlubError::TooLarge);
        }
        let order = Order::for_size(size_bytes.max(align)).ok_or(SlubError::TooLarge)?;
        let is_dma = gfp.intersects(Gfp::DMA | Gfp::DMA32);
        let request = PageReq {
            node,
            ..PageReq::new(order, page_gfp(gfp, is_dma) | Gfp::COMP)
        };
        let block = self.pages_or_what_waits(request)?;
        let Some(base) = reachable(self.mem(), &block) else {
            return Err(self.refuse(block));
        };
        if base.addr().get() % align != 0 {
            self.pages.free(block);
            return Err(SlubError::InvalidLayout);
        }
        if let Some(cache) = owner {
            let mut state = self.state.lock();
            match state.cache_mut(cache) {
                Ok(live) => live.nr_objects += 1,
                Err(error) => {
                    drop(state);
                    self.pages.free(block);
                    return Err(error);
                }
            }
        }
        let (head, order) = block.into_raw();
        let page = self.map.page(head);
        page.set_private(u64::from(order.get()));
        page.set_index(owner.map_or(NOBODY, |cache| u64::from(cache.slot)));
        self.map.prep_compound_page(head, order);
        page.set(PageFlags::SLAB | PageFlags::HEAD);
        page.set_mapping(self.seal ^ LARGE);
        let frames = PfnRange::with_len(head, order.nr_pages());
        self.config.slabs.slab_made(frames, "kmalloc-large");
        self.large_pages
            .fetch_add(order.nr_pages(), Ordering::Relaxed);
        self.count_large(head, order, 1);
        Ok(base)
    }

    pub(super) fn free_large(
        &self,
        head: Pfn,
        ptr: NonNull<u8>,
        cache: Option<KmemCache>,
    ) -> Result<(), Mistake> {
        if self.phys.direct(head) != Some(ptr) {
            return Err((SlubBugKind::Misaligned, None));
        }
        let mut state = self.state.lock();
        let not_there = (SlubBugKind::NotAllocated, None);
        let order = self.large_order(head).ok_or(not_there)?;
        state.release(self.large_owner(head), cache)?;
        let page = self.map.page(head);
        self.map.prep_compound_page(head, Order::ZERO);
        page.clear(PageFlags::SLAB);
        page.set_mapping(0);
        page.set_private(0);
        page.set_index(0);
        drop(state);
        self.large_pages
            .fetch_sub(order.nr_pages(), Ordering::Relaxed);
        self.count_large(head, order, -1);
        let frames = PfnRange::with_len(head, order.nr_pages());
        self.config.slabs.slab_gone(frames);
        // SAFETY: `alloc_large` took the block apart; of two that free it, one finds the label gone, under the lock.
        self.pages.free(unsafe { PageBlock::from_raw(head, order) });
        Ok(())
    }

    /// The order of the large allocation that starts with this frame.
    pub(super) fn large_order(&self, pfn: Pfn) -> Option<Order> {
        let page = self.map.get(pfn)?;
        let is_large =
            page.test(PageFlags::SLAB | PageFlags::HEAD) && page.mapping() == self.seal ^ LARGE;
        let order = u8::try_from(page.private()).ok().and_then(Order::new);
        order.filter(|_| is_large)
    }

    /// The slot of the cache that a large allocation is of.
    pub(super) fn large_owner(&self, head: Pfn) -> Option<u8> {
        u8::try_from(self.map.get(head)?.index()).ok()
    }

    fn count_large(&self, head: Pfn, order: Order, sign: isize) {
        let nr_pages = isize::try_from(order.nr_pages()).unwrap_or(isize::MAX);
        self.pages
            .count(head, NodeItem::SlabUnreclaimable, sign * nr_pages);
    }
}
