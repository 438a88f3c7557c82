//! The kmalloc family: memory by size. Linux: include/linux/slab.h, mm/slab_common.c.
//!
//! Sizes up to 8 KiB come from one of 13 caches, of three kinds: ordinary, reclaimable, and below 16 MiB for DMA. Larger
//! ones are blocks of pages whose first descriptor has `SLAB` and `HEAD` set, [`LARGE`] in `mapping`, the order in
//! `private`. Their other descriptors are not touched: an order-10 block has 1023 of them.
#![expect(unsafe_code, reason = "frees and copies what callers say is theirs")]

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use kmm_frame::{Gfp, MAX_ORDER, Order, PAGE_SIZE, PageFlags, Pfn};
use kmm_host::{PageBlock, PageReq, PageSource, PhysMap};
use lock_api::RawMutex;

use crate::cache::Shape;
use crate::geometry::{CacheFlags, Geometry};
use crate::slab::reachable;
use crate::slub::Place;
use crate::{Slub, SlubBugKind, SlubError};

/// The largest size that `kmalloc` serves. Linux: `KMALLOC_MAX_SIZE`.
pub const KMALLOC_MAX_SIZE: usize = MAX_ORDER.size_bytes();
/// The largest size that comes from a cache. Linux: `KMALLOC_MAX_CACHE_SIZE`.
pub const KMALLOC_MAX_CACHE_SIZE: usize = 8192;
/// What `kmalloc(0)` returns: 16-aligned, not null, in no page that anybody maps. Linux: `ZERO_SIZE_PTR`.
pub const ZERO_SIZE_PTR: NonNull<u8> = match NonNull::new(core::ptr::without_provenance_mut(16)) {
    Some(ptr) => ptr,
    None => NonNull::dangling(),
};
/// Slots that the kmalloc caches take.
pub const NR_KMALLOC_CACHES: usize = NR_KINDS * NR_SIZES;

/// The smallest room that an allocation has. Linux: `KMALLOC_MIN_SIZE`.
pub(crate) const KMALLOC_MIN_SIZE: usize = SIZES[0];
/// What the head of a large allocation says in `mapping`.
pub(crate) const LARGE: u64 = u64::MAX;
const NR_KINDS: usize = 3;
const NR_SIZES: usize = 13;
const SIZES: [usize; NR_SIZES] = [
    8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192,
];
const NAMES: [[&str; NR_SIZES]; NR_KINDS] = [
    [
        "kmalloc-8",
        "kmalloc-16",
        "kmalloc-32",
        "kmalloc-64",
        "kmalloc-96",
        "kmalloc-128",
        "kmalloc-192",
        "kmalloc-256",
        "kmalloc-512",
        "kmalloc-1k",
        "kmalloc-2k",
        "kmalloc-4k",
        "kmalloc-8k",
    ],
    [
        "kmalloc-rcl-8",
        "kmalloc-rcl-16",
        "kmalloc-rcl-32",
        "kmalloc-rcl-64",
        "kmalloc-rcl-96",
        "kmalloc-rcl-128",
        "kmalloc-rcl-192",
        "kmalloc-rcl-256",
        "kmalloc-rcl-512",
        "kmalloc-rcl-1k",
        "kmalloc-rcl-2k",
        "kmalloc-rcl-4k",
        "kmalloc-rcl-8k",
    ],
    [
        "dma-kmalloc-8",
        "dma-kmalloc-16",
        "dma-kmalloc-32",
        "dma-kmalloc-64",
        "dma-kmalloc-96",
        "dma-kmalloc-128",
        "dma-kmalloc-192",
        "dma-kmalloc-256",
        "dma-kmalloc-512",
        "dma-kmalloc-1k",
        "dma-kmalloc-2k",
        "dma-kmalloc-4k",
        "dma-kmalloc-8k",
    ],
];
const KIND_FLAGS: [CacheFlags; NR_KINDS] = [
    CacheFlags::empty(),
    CacheFlags::RECLAIM_ACCOUNT,
    CacheFlags::CACHE_DMA,
];

/// The kmalloc caches in the order of their slots.
pub(crate) fn kmalloc_shapes(nr_cpus: usize) -> impl Iterator<Item = Result<Shape, SlubError>> {
    KIND_FLAGS
        .into_iter()
        .zip(NAMES)
        .flat_map(move |(flags, names)| {
            SIZES.into_iter().zip(names).map(move |(size, name)| {
                Ok(Shape {
                    name,
                    geometry: Geometry::new(size, align_of_size(size), flags, false, nr_cpus)?,
                    flags,
                    ctor: None,
                })
            })
        })
}

/// The largest power of two, up to a page, that divides a size.
const fn align_of_size(size: usize) -> usize {
    let align = 1 << size.trailing_zeros();
    if align < PAGE_SIZE { align } else { PAGE_SIZE }
}

/// The smallest size that holds `size_bytes` at `align`; `None` when pages serve it. Linux: `kmalloc_index`.
fn size_index(size_bytes: usize, align: usize) -> Option<usize> {
    if size_bytes > KMALLOC_MAX_CACHE_SIZE || align > PAGE_SIZE {
        return None;
    }
    SIZES
        .iter()
        .position(|size| *size >= size_bytes && align_of_size(*size) >= align)
}

/// Linux: `kmalloc_type`. Requests below 4 GiB are served below 16 MiB, as there is no cache between.
fn kind_index(gfp: Gfp) -> usize {
    if gfp.intersects(Gfp::DMA | Gfp::DMA32) {
        2
    } else {
        usize::from(gfp.contains(Gfp::RECLAIMABLE))
    }
}

impl<A: PageSource, P: PhysMap, L: RawMutex> Slub<A, P, L> {
    /// `size_bytes` of physically contiguous memory. Linux: `kmalloc`.
    ///
    /// A power of two is aligned to itself, up to a page; other sizes to at least 8. Size 0 yields [`ZERO_SIZE_PTR`].
    ///
    /// # Context
    /// May sleep when `gfp` allows it; `Gfp::ATOMIC` and `Gfp::NOWAIT` never do.
    ///
    /// # Errors
    /// [`SlubError::TooLarge`] above [`KMALLOC_MAX_SIZE`]; [`SlubError::OutOfMemory`].
    pub fn kmalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_aligned(size_bytes, 1, gfp)
    }

    /// As [`Slub::kmalloc`], at a multiple of `align`, a power of two.
    ///
    /// Beyond a page, only if the permanent map is as aligned, which that of x86-64 is.
    ///
    /// # Errors
    /// As [`Slub::kmalloc`]; [`SlubError::InvalidLayout`] when `align` is no power of two or the permanent map is not
    /// as aligned.
    pub fn kmalloc_aligned(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        if !align.is_power_of_two() {
            return Err(SlubError::InvalidLayout);
        }
        if size_bytes == 0 && align <= ZERO_SIZE_PTR.addr().get() {
            return Ok(ZERO_SIZE_PTR);
        }
        match size_index(size_bytes, align) {
            Some(index) => self.alloc_in(kind_index(gfp) * NR_SIZES + index, None, gfp),
            None => self.alloc_large(size_bytes, align, gfp),
        }
    }

    /// As [`Slub::kmalloc`], filled with zeros. Linux: `kzalloc`.
    ///
    /// # Errors
    /// As [`Slub::kmalloc`].
    pub fn kzalloc(&self, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc(size_bytes, gfp | Gfp::ZERO)
    }

    /// Room for `n` objects of `size_bytes`. Linux: `kmalloc_array`.
    ///
    /// # Errors
    /// As [`Slub::kmalloc`]; [`SlubError::TooLarge`] also when the product overflows.
    pub fn kmalloc_array(
        &self,
        n: usize,
        size_bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        let total = n.checked_mul(size_bytes).ok_or(SlubError::TooLarge)?;
        self.kmalloc(total, gfp)
    }

    /// As [`Slub::kmalloc_array`], filled with zeros. Linux: `kcalloc`.
    ///
    /// # Errors
    /// As [`Slub::kmalloc_array`].
    pub fn kcalloc(&self, n: usize, size_bytes: usize, gfp: Gfp) -> Result<NonNull<u8>, SlubError> {
        self.kmalloc_array(n, size_bytes, gfp | Gfp::ZERO)
    }

    /// Makes an allocation `new_size_bytes` large: in place if it has the room, else elsewhere, with its contents.
    ///
    /// With `Gfp::ZERO`, bytes beyond the old room are 0. `None` and [`ZERO_SIZE_PTR`] are allocated anew; a new size of
    /// 0 frees. Linux: `krealloc`.
    ///
    /// # Errors
    /// As [`Slub::kmalloc`]; [`SlubError::InvalidLayout`], reported, when `ptr` is no allocation. The old allocation
    /// is untouched then.
    ///
    /// # Safety
    /// 1. `ptr` came from the kmalloc family of this `Slub` and was not freed.
    /// 2. Nobody uses it while this runs, nor afterwards if another address is returned.
    pub unsafe fn krealloc(
        &self,
        ptr: Option<NonNull<u8>>,
        new_size_bytes: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        let Some(old) = ptr.filter(|ptr| *ptr != ZERO_SIZE_PTR) else {
            return self.kmalloc(new_size_bytes, gfp);
        };
        if new_size_bytes == 0 {
            // SAFETY: obligations 1 and 2.
            unsafe { self.kfree(old) };
            return Ok(ZERO_SIZE_PTR);
        }
        let old_room = self.ksize(old);
        if old_room == 0 {
            return Err(SlubError::InvalidLayout);
        }
        if new_size_bytes <= old_room {
            return Ok(old);
        }
        let new = self.kmalloc(new_size_bytes, gfp)?;
        // SAFETY: both have room for `old_room` bytes; `new` is fresh, so they do not overlap.
        unsafe { new.copy_from_nonoverlapping(old, old_room) };
        // SAFETY: obligations 1 and 2.
        unsafe { self.kfree(old) };
        Ok(new)
    }

    /// How many bytes an allocation has room for. Linux: `ksize`.
    ///
    /// 0 for [`ZERO_SIZE_PTR`], and for an address that is no allocation, which is reported.
    pub fn ksize(&self, ptr: NonNull<u8>) -> usize {
        if ptr == ZERO_SIZE_PTR {
            return 0;
        }
        match self.locate(ptr) {
            Ok(Place::Slab { slot, .. }) => self.object_size_of(slot),
            Ok(Place::Large { head }) => self.large_order(head).map_or(0, Order::size_bytes),
            Err(kind) => {
                self.report(kind, None, ptr.addr().get());
                0
            }
        }
    }

    /// Frees what the kmalloc family returned, or an object of any cache. Linux: `kfree`.
    ///
    /// A mistake that shows is reported and changes nothing: see [`SlubBugKind`].
    ///
    /// # Context
    /// Never sleeps; allowed from interrupts.
    ///
    /// # Safety
    /// 1. `ptr` came from this `Slub`.
    /// 2. Nobody uses it any more.
    pub unsafe fn kfree(&self, ptr: NonNull<u8>) {
        if ptr == ZERO_SIZE_PTR {
            return;
        }
        let outcome = match self.locate(ptr) {
            Ok(Place::Slab { slot, head }) => {
                self.free_in(slot, head, ptr);
                Ok(())
            }
            Ok(Place::Large { head }) => self.free_large(head, ptr),
            Err(kind) => Err(kind),
        };
        if let Err(kind) = outcome {
            self.report(kind, None, ptr.addr().get());
        }
    }

    /// The order of the large allocation that starts with this frame.
    pub(crate) fn large_order(&self, pfn: Pfn) -> Option<Order> {
        let page = self.map.get(pfn)?;
        let is_large = page.test(PageFlags::SLAB | PageFlags::HEAD)
            && !page.test(PageFlags::TAIL)
            && page.mapping() == LARGE;
        if !is_large {
            return None;
        }
        u8::try_from(page.private()).ok().and_then(Order::new)
    }

    /// Linux: `kmalloc_large`, mm/slab_common.c.
    fn alloc_large(
        &self,
        size_bytes: usize,
        align: usize,
        gfp: Gfp,
    ) -> Result<NonNull<u8>, SlubError> {
        let order = Order::for_size(size_bytes.max(align)).ok_or(SlubError::TooLarge)?;
        let gfp = (gfp | Gfp::COMP) - (Gfp::HIGHMEM | Gfp::MOVABLE_PAGE);
        let block = self.pages.alloc(PageReq::new(order, gfp))?;
        let Some(base) = reachable(self.mem(), &block) else {
            let address = block.pfn().phys().as_usize();
            self.pages.free(block);
            self.report(SlubBugKind::ForeignFrame, None, address);
            return Err(SlubError::OutOfMemory);
        };
        if base.addr().get() % align != 0 {
            self.pages.free(block);
            return Err(SlubError::InvalidLayout);
        }
        let (head, order) = block.into_raw();
        let page = self.map.page(head);
        page.set_mapping(LARGE);
        page.set_private(u64::from(order.get()));
        page.set(PageFlags::SLAB | PageFlags::HEAD);
        self.large_pages
            .fetch_add(order.nr_pages(), Ordering::Relaxed);
        self.count(head, order, CacheFlags::empty(), 1);
        Ok(base)
    }

    /// Linux: `free_large_kmalloc`, mm/slab_common.c.
    fn free_large(&self, head: Pfn, ptr: NonNull<u8>) -> Result<(), SlubBugKind> {
        if self.phys.direct(head) != Some(ptr) {
            return Err(SlubBugKind::Misaligned);
        }
        let order = self.large_order(head).ok_or(SlubBugKind::NotAllocated)?;
        let page = self.map.page(head);
        // Of two that free it at once, one finds the flag gone.
        if !page.test_and_clear(PageFlags::SLAB) {
            return Err(SlubBugKind::DoubleFree);
        }
        page.clear(PageFlags::HEAD);
        page.set_mapping(0);
        page.set_private(0);
        self.large_pages
            .fetch_sub(order.nr_pages(), Ordering::Relaxed);
        self.count(head, order, CacheFlags::empty(), -1);
        // SAFETY: `alloc_large` took the block apart, and only one caller found the flag set.
        self.pages.free(unsafe { PageBlock::from_raw(head, order) });
        Ok(())
    }
}
