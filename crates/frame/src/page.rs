//! The page descriptor, one for each frame. Linux: `struct page`, include/linux/mm_types.h.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use kmm_kcoll::sync::atomic::{AtomicI32 as SharedI32, AtomicU64 as SharedU64};

use crate::Pfn;

mod age;
mod compound;
mod count;
mod flags;
mod last;
mod lock;

pub use age::{Access, Fate, References};
pub use flags::PageFlags;
pub use lock::{IoStatus, Wake, Written};

/// The order of a compound page, in its head's word of flags: it appears and goes with [`PageFlags::HEAD`].
const ORDER_SHIFT: u32 = 40;
const ORDER_MASK: u64 = 0xf << ORDER_SHIFT;

/// What is known of one page frame.
///
/// Every field is atomic, so descriptors are shared freely; what a field means is settled by the frame's owner.
///
/// 64 zero bytes are a fresh descriptor, the same as [`Page::new`]: links are kept plus one, and the map count counts
/// from 0. So descriptors in zeroed memory need no set-up, and the memory of those that nobody asked for is never touched.
/// For the same reason zone and node are not noted here, as Linux does (`set_page_links`): the number of the frame tells
/// them.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Page {
    /// Flags, and the order of a compound page's head.
    flags: SharedU64,
    lru_prev: AtomicU64,
    lru_next: AtomicU64,
    mapping: AtomicU64,
    index: AtomicU64,
    private: AtomicU64,
    /// The counts lie in one word: [`Page::is_free_to_go`] compares both at once.
    ref_count: SharedI32,
    map_count: AtomicI32,
    owner: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Page>() == 64, "one cache line for each page");

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Page::new`] makes, which is not `const` under loom.
macro_rules! fresh {
    () => {
        Self {
            flags: SharedU64::new(0),
            lru_prev: AtomicU64::new(0),
            lru_next: AtomicU64::new(0),
            mapping: AtomicU64::new(0),
            index: AtomicU64::new(0),
            private: AtomicU64::new(0),
            ref_count: SharedI32::new(0),
            map_count: AtomicI32::new(0),
            owner: AtomicU64::new(0),
        }
    };
}

impl Page {
    /// A frame of which nothing is known yet: no flags, no count, no links.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        fresh!()
    }

    /// A frame of which nothing is known yet: no flags, no count, no links.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        fresh!()
    }

    /// The owner's word: order of a free block, buffer, swap entry, entries in use of a page table.
    #[must_use]
    #[inline]
    pub fn private(&self) -> u64 {
        self.private.load(Ordering::Relaxed)
    }

    /// Sets the owner's word.
    #[inline]
    pub fn set_private(&self, value: u64) {
        self.private.store(value, Ordering::Relaxed);
    }

    /// The owner's word itself, for owners who share it among CPUs.
    #[must_use]
    #[inline]
    pub const fn private_word(&self) -> &AtomicU64 {
        &self.private
    }

    /// Adds to the owner's word, wrapping; the value before.
    #[inline]
    pub fn add_private(&self, delta: i64) -> u64 {
        self.private
            .fetch_add(u64::from_ne_bytes(delta.to_ne_bytes()), Ordering::Relaxed)
    }

    /// What the page is mapped from: an address space, an anonymous region, a slab's cache.
    #[must_use]
    #[inline]
    pub fn mapping(&self) -> u64 {
        self.mapping.load(Ordering::Acquire)
    }

    /// Sets what the page is mapped from.
    #[inline]
    pub fn set_mapping(&self, value: u64) {
        self.mapping.store(value, Ordering::Release);
    }

    /// The place within `mapping`, in pages.
    #[must_use]
    #[inline]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Sets the place within `mapping`.
    #[inline]
    pub fn set_index(&self, value: u64) {
        self.index.store(value, Ordering::Relaxed);
    }

    /// A second word for the owner: a slab's free list; of the second page of a folio, how many entries map all of it.
    #[must_use]
    #[inline]
    pub fn owner_word(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Sets the second word.
    #[inline]
    pub fn set_owner_word(&self, value: u64) {
        self.owner.store(value, Ordering::Relaxed);
    }

    /// The next page of the list that this one is on.
    #[must_use]
    #[inline]
    pub fn lru_next(&self) -> Option<Pfn> {
        link(&self.lru_next)
    }

    /// The page before this one on its list.
    #[must_use]
    #[inline]
    pub fn lru_prev(&self) -> Option<Pfn> {
        link(&self.lru_prev)
    }

    /// Sets the next page of the list.
    #[inline]
    pub fn set_lru_next(&self, next: Option<Pfn>) {
        set_link(&self.lru_next, next);
    }

    /// Sets the page before this one.
    #[inline]
    pub fn set_lru_prev(&self, prev: Option<Pfn>) {
        set_link(&self.lru_prev, prev);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits on every supported target"
)]
fn link(word: &AtomicU64) -> Option<Pfn> {
    let index = word.load(Ordering::Relaxed).checked_sub(1)?;
    Some(Pfn::new(index as usize))
}

fn set_link(word: &AtomicU64, to: Option<Pfn>) {
    let value = to.map_or(0, |pfn| (pfn.index() as u64).wrapping_add(1));
    word.store(value, Ordering::Relaxed);
}
