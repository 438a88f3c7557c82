//! Sizes beyond those of the caches: blocks of pages. Linux: `___kmalloc_large_node`, mm/slub.c.
//!
//! The first descriptor has `SLAB` and `HEAD` set, a label of its own in `mapping`, the order in `private`. The others are
//! not touched: an order-10 block has 1023 of them.
#![expect(unsafe_code, reason = "frees what callers say is theirs")]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use kmm_frame::{Gfp, NodeId, Order, PageFlags, Pfn};
use kmm_host::{Cpus, PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use super::ObjectCaches;
use super::lookup::Place;
use super::sanitize::LARGE;
use crate::classes::slot_of_request;
use crate::geometry::CacheFlags;
use crate::slab::{SlabKind, reachable};
use crate::{KMALLOC_MAX_SIZE, SlubBugKind, SlubError, ZERO_SIZE_PTR};

impl<K: SlabKind, A: PageSource, P: PhysMap, L: RawMutex, C: Cpus> ObjectCaches<K, A, P, L, C> {
    /// What the array of a size did not have, and sizes that have none.
    #[inline(never)]
    pub(super) fn kmalloc_slow(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_from(size_bytes, align, gfp, None)
    }

    /// As [`ObjectCaches::kmalloc`], of memory of that node if it has any. Linux: `kmalloc_node`.
    ///
    /// # Errors
    /// As [`ObjectCaches::kmalloc`].
    pub fn kmalloc_node(
        &self,
        size_bytes: usize,
        gfp: Gfp,
        node: NodeId,
    ) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_from(size_bytes, 1, gfp, Some(node))
    }

    fn kmalloc_from(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        if !align.is_power_of_two() {
            return Err(SlubError::InvalidLayout);
        }
        if size_bytes == 0 && align <= ZERO_SIZE_PTR.addr().get() {
            return Ok(ZERO_SIZE_PTR);
        }
        match slot_of_request(size_bytes.max(1), align, gfp) {
            Some(slot) => self.alloc_for(slot, None, gfp, node, Some((size_bytes.max(1), align))),
            None => self.alloc_large(size_bytes, align, gfp, node),
        }
        .inspect(|object| self.note_requested(*object, size_bytes))
    }

    /// How many bytes an allocation has room for. Linux: `ksize`.
    ///
    /// All of it is the caller's from then on, as in Linux: its red zone begins behind it.
    ///
    /// 0 for [`ZERO_SIZE_PTR`], and for an address that is no allocation, which is reported.
    pub fn ksize(&self, ptr: NonNull<u8>) -> usize {
        if ptr == ZERO_SIZE_PTR {
            return 0;
        }
        if let Some(size_bytes) = self.size_of_sampled(ptr) {
            return size_bytes;
        }
        match self.locate(ptr) {
            Ok(Place::Slab { slot, .. }) => {
                let (geometry, _) = self.slots[usize::from(slot)].geometry(0);
                self.note_requested(ptr, geometry.object_size);
                geometry.object_size
            }
            Ok(Place::Large { head }) => self.large_order(head).map_or(0, Order::size_bytes),
            Err(kind) => {
                self.report(kind, None, ptr.addr().get());
                0
            }
        }
    }

    fn alloc_large(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
        node: Option<NodeId>,
    ) -> Result<NonNull<u8>, SlubError> {
        if size_bytes > KMALLOC_MAX_SIZE {
            return Err(SlubError::TooLarge);
        }
        let order = Order::for_size(size_bytes.max(align)).ok_or(SlubError::TooLarge)?;
        let gfp = (gfp | Gfp::COMP) - (Gfp::HIGHMEM | Gfp::MOVABLE_PAGE);
        let request = PageReq {
            node,
            ..PageReq::new(order, gfp)
        };
        let block = match self.pages.alloc(request) {
            Ok(block) => block,
            Err(error) if self.shrink_all() == 0 => return Err(error.into()),
            Err(_) => self.pages.alloc(request)?,
        };
        let Some(base) = reachable(self.mem(), &block) else {
            let address = block.pfn().phys().as_usize();
            self.pages.free(block);
            self.report(SlubBugKind::ForeignFrame, None, address);
            return Err(SlubError::ForeignFrame);
        };
        if base.addr().get() % align != 0 {
            self.pages.free(block);
            return Err(SlubError::InvalidLayout);
        }
        let (head, order) = block.into_raw();
        let page = self.map.page(head);
        page.set_private(u64::from(order.get()));
        // Compound, so that what lies in a later page of it is known to be an object.
        self.map.prep_compound_page(head, order);
        page.set(PageFlags::SLAB | PageFlags::HEAD);
        page.set_mapping(self.large_label());
        self.tell_frames(head, order, Some(LARGE));
        self.large_pages
            .fetch_add(order.nr_pages(), Ordering::Relaxed);
        self.count(head, order, CacheFlags::empty(), 1);
        Ok(base)
    }

    /// Linux: `free_large_kmalloc`, mm/slub.c.
    pub(super) fn free_large(&self, head: Pfn, ptr: NonNull<u8>) -> Result<(), SlubBugKind> {
        if self.phys.direct(head) != Some(ptr) {
            return Err(SlubBugKind::Misaligned);
        }
        let order = self.large_order(head).ok_or(SlubBugKind::NotAllocated)?;
        let page = self.map.page(head);
        // Of two that free it at once, one finds the flag gone.
        if !page.test_and_clear(PageFlags::SLAB) {
            return Err(SlubBugKind::DoubleFree);
        }
        self.map.prep_compound_page(head, Order::ZERO);
        page.set_mapping(0);
        page.set_private(0);
        self.tell_slab(head, order, None);
        self.large_pages
            .fetch_sub(order.nr_pages(), Ordering::Relaxed);
        self.count(head, order, CacheFlags::empty(), -1);
        // SAFETY: `alloc_large` took the block apart, and only one caller found the flag set.
        self.pages.free(unsafe { PageBlock::from_raw(head, order) });
        Ok(())
    }
}
