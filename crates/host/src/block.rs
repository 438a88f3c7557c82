//! An owned block of frames.
#![expect(unsafe_code, reason = "minting ownership of frames")]

use kmm_frame::{Order, Pfn, PfnRange};

/// `1 << order` frames that nobody else has: the proof that [`crate::PhysMap::with_page`] asks for.
///
/// Not `Copy`, so it is spent by freeing it. It has no `Drop`, as freeing needs the source it came from: a block that
/// is dropped is leaked.
///
/// Freeing twice does not compile, nor does use after free:
///
/// ```compile_fail,E0382
/// use kmm_host::{PageBlock, PageSource};
///
/// fn free_twice(pages: &impl PageSource, block: PageBlock) {
///     pages.free(block);
///     pages.free(block);
/// }
/// ```
///
/// ```compile_fail,E0382
/// use kmm_host::{PageBlock, PageSource, PhysMap};
///
/// fn use_after_free(pages: &impl PageSource, phys: &impl PhysMap, mut block: PageBlock) {
///     pages.free(block);
///     phys.clear(&mut block);
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block that is dropped is leaked; give it back to its PageSource"]
pub struct PageBlock {
    pfn: Pfn,
    order: Order,
}

impl PageBlock {
    /// Claims frames.
    ///
    /// # Safety
    /// 1. The frames are RAM that the host can reach, and nobody else reads, writes or owns them while the block lives.
    /// 2. `pfn` is aligned to `order`.
    pub const unsafe fn from_raw(pfn: Pfn, order: Order) -> Self {
        Self { pfn, order }
    }

    /// Gives the claim up without freeing: the frames are now accounted for elsewhere, as by a page-table entry.
    #[must_use]
    pub const fn into_raw(self) -> (Pfn, Order) {
        (self.pfn, self.order)
    }

    /// The first frame.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The size.
    #[must_use]
    pub const fn order(&self) -> Order {
        self.order
    }

    /// All frames.
    #[must_use]
    pub const fn range(&self) -> PfnRange {
        PfnRange::with_len(self.pfn, self.order.nr_pages())
    }
}
