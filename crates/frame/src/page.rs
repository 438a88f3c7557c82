//! The page descriptor, one for each frame. Linux: `struct page`, include/linux/mm_types.h.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use bitflags::bitflags;

use crate::Pfn;
use crate::zone_type::{NodeId, ZoneType};

bitflags! {
    /// State of a frame, apart from its contents. Linux: `enum pageflags`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct PageFlags: u64 {
        /// Somebody does input or output on the page, or changes what it is.
        const LOCKED = 1 << 0;
        /// Used lately.
        const REFERENCED = 1 << 1;
        /// The contents are what the disk holds, or newer.
        const UPTODATE = 1 << 2;
        /// To be written back.
        const DIRTY = 1 << 3;
        /// On one of the LRU lists.
        const LRU = 1 << 4;
        /// On an active list.
        const ACTIVE = 1 << 5;
        /// Somebody waits for the lock.
        const WAITERS = 1 << 6;
        /// Input or output failed.
        const ERROR = 1 << 7;
        /// Belongs to a slab.
        const SLAB = 1 << 8;
        /// Not for the allocator: firmware, kernel image, boot allocations.
        const RESERVED = 1 << 9;
        /// `private` is in use.
        const PRIVATE = 1 << 10;
        /// Being written back.
        const WRITEBACK = 1 << 11;
        /// First page of a compound page.
        const HEAD = 1 << 12;
        /// A later page of a compound page.
        const TAIL = 1 << 13;
        /// Anonymous memory: goes to swap.
        const SWAPBACKED = 1 << 14;
        /// Has a slot in the swap area.
        const SWAPCACHE = 1 << 15;
        /// To be reclaimed soon.
        const RECLAIM = 1 << 16;
        /// Not to be reclaimed.
        const UNEVICTABLE = 1 << 17;
        /// Locked in memory by a program.
        const MLOCKED = 1 << 18;
        /// First page of a free block of the buddy allocator; `private` is the order.
        const BUDDY = 1 << 19;
        /// A page table.
        const TABLE = 1 << 20;
        /// Mapped by `vmalloc`.
        const VMALLOC = 1 << 21;
        /// An anonymous page of a process.
        const ANON = 1 << 22;
        /// A page of a file.
        const FILE = 1 << 23;

        /// Flags that no page may carry when it is freed. Linux: `PAGE_FLAGS_CHECK_AT_FREE`.
        const CHECK_AT_FREE = Self::LOCKED.bits() | Self::LRU.bits() | Self::ACTIVE.bits() | Self::SLAB.bits()
            | Self::RESERVED.bits() | Self::PRIVATE.bits() | Self::WRITEBACK.bits() | Self::UNEVICTABLE.bits()
            | Self::MLOCKED.bits() | Self::BUDDY.bits() | Self::TABLE.bits();
    }
}

const FLAG_BITS: u64 = (1 << 48) - 1;
const ZONE_SHIFT: u32 = 56;
const NODE_SHIFT: u32 = 48;

/// What is known of one page frame.
///
/// Every field is atomic, so descriptors are shared freely; what a field means is settled by the frame's owner.
///
/// 64 zero bytes are a fresh descriptor, the same as [`Page::new`]: links are kept plus one, and the map count counts
/// from 0. So descriptors in zeroed memory need no set-up, and the memory of those that nobody asked for is never touched.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Page {
    flags: AtomicU64,
    lru_prev: AtomicU64,
    lru_next: AtomicU64,
    mapping: AtomicU64,
    index: AtomicU64,
    private: AtomicU64,
    map_count: AtomicI32,
    ref_count: AtomicI32,
    owner: AtomicU64,
}

const _: () = assert!(size_of::<Page>() == 64, "one cache line for each page");

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

impl Page {
    /// A frame of which nothing is known yet: no flags, no count, no links.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            flags: AtomicU64::new(0),
            lru_prev: AtomicU64::new(0),
            lru_next: AtomicU64::new(0),
            mapping: AtomicU64::new(0),
            index: AtomicU64::new(0),
            private: AtomicU64::new(0),
            map_count: AtomicI32::new(0),
            ref_count: AtomicI32::new(0),
            owner: AtomicU64::new(0),
        }
    }

    /// All flags as they are now.
    #[must_use]
    pub fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed) & FLAG_BITS)
    }

    /// Whether all of `flags` are set. Linux: `PageLocked` and its like.
    #[must_use]
    pub fn test(&self, flags: PageFlags) -> bool {
        self.flags().contains(flags)
    }

    /// Sets `flags`. Linux: `SetPageDirty` and its like.
    pub fn set(&self, flags: PageFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::Relaxed);
    }

    /// Clears `flags`. Linux: `ClearPageDirty` and its like.
    pub fn clear(&self, flags: PageFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::Relaxed);
    }

    /// Sets `flags`; whether all of them were set before. Linux: `TestSetPageLocked` and its like.
    pub fn test_and_set(&self, flags: PageFlags) -> bool {
        self.flags.fetch_or(flags.bits(), Ordering::AcqRel) & flags.bits() == flags.bits()
    }

    /// Clears `flags`; whether all of them were set before.
    pub fn test_and_clear(&self, flags: PageFlags) -> bool {
        self.flags.fetch_and(!flags.bits(), Ordering::AcqRel) & flags.bits() == flags.bits()
    }

    /// Marks the frame as not for the allocator. Nobody else changes its flags meanwhile. Linux: `__SetPageReserved`.
    pub(crate) fn reserve(&self) {
        let flags = self.flags.load(Ordering::Relaxed) | PageFlags::RESERVED.bits();
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Replaces all flags, keeping zone and node. For the allocator, which owns the frame alone.
    pub fn reset_flags(&self, flags: PageFlags) {
        let place = self.flags.load(Ordering::Relaxed) & !FLAG_BITS;
        self.flags.store(place | flags.bits(), Ordering::Relaxed);
    }

    /// The zone of the frame. Linux: `page_zonenum`.
    #[must_use]
    pub fn zone_type(&self) -> ZoneType {
        let index =
            usize::from((self.flags.load(Ordering::Relaxed) >> ZONE_SHIFT).to_le_bytes()[0]);
        ZoneType::from_index(index).unwrap_or(ZoneType::Normal)
    }

    /// The node of the frame. Linux: `page_to_nid`.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::new((self.flags.load(Ordering::Relaxed) >> NODE_SHIFT).to_le_bytes()[0])
    }

    /// Says where the frame belongs. Linux: `set_page_links`.
    pub fn set_place(&self, zone: ZoneType, node: NodeId) {
        let place = (zone.index() as u64) << ZONE_SHIFT | (node.index() as u64) << NODE_SHIFT;
        let flags = self.flags.load(Ordering::Relaxed) & FLAG_BITS;
        self.flags.store(place | flags, Ordering::Relaxed);
    }

    /// How many users hold the page. Linux: `page_count`.
    #[must_use]
    pub fn ref_count(&self) -> i32 {
        self.ref_count.load(Ordering::Acquire)
    }

    /// Sets the count. For the allocator, which owns the frame alone. Linux: `set_page_count`.
    pub fn set_ref_count(&self, count: i32) {
        self.ref_count.store(count, Ordering::Release);
    }

    /// One more user. The caller holds the page already. Linux: `get_page`.
    pub fn get(&self) {
        let before = self.ref_count.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before > 0, "get_page on a page that nobody holds");
    }

    /// One user fewer; whether it was the last. Linux: `put_page_testzero`.
    #[must_use = "the last user frees the page"]
    pub fn put_and_test(&self) -> bool {
        let before = self.ref_count.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "put_page on a page that nobody holds");
        before == 1
    }

    /// How many page-table entries of processes map the page. Linux: `page_mapcount`, which is `_mapcount` plus one.
    #[must_use]
    pub fn map_count(&self) -> i32 {
        self.map_count.load(Ordering::Acquire)
    }

    /// One more entry maps the page. Linux: `page_add_rmap`.
    pub fn inc_map_count(&self) {
        self.map_count.fetch_add(1, Ordering::Relaxed);
    }

    /// One entry fewer maps the page; whether it was the last. Linux: `page_remove_rmap`.
    pub fn dec_map_count(&self) -> bool {
        let before = self.map_count.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a page that no entry maps was unmapped");
        before == 1
    }

    /// Back to "no entry maps it". For the allocator, which owns the frame alone.
    pub fn reset_map_count(&self) {
        self.map_count.store(0, Ordering::Relaxed);
    }

    /// The owner's word: order of a free block, buffer, swap entry, entries in use of a page table.
    #[must_use]
    pub fn private(&self) -> u64 {
        self.private.load(Ordering::Relaxed)
    }

    /// Sets the owner's word.
    pub fn set_private(&self, value: u64) {
        self.private.store(value, Ordering::Relaxed);
    }

    /// Adds to the owner's word, wrapping; the value before.
    pub fn add_private(&self, delta: i64) -> u64 {
        self.private
            .fetch_add(u64::from_ne_bytes(delta.to_ne_bytes()), Ordering::Relaxed)
    }

    /// What the page is mapped from: an address space, an anonymous region, a slab's cache.
    #[must_use]
    pub fn mapping(&self) -> u64 {
        self.mapping.load(Ordering::Acquire)
    }

    /// Sets what the page is mapped from.
    pub fn set_mapping(&self, value: u64) {
        self.mapping.store(value, Ordering::Release);
    }

    /// The place within `mapping`, in pages.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::Relaxed)
    }

    /// Sets the place within `mapping`.
    pub fn set_index(&self, value: u64) {
        self.index.store(value, Ordering::Relaxed);
    }

    /// A second word for the owner: a slab's free list, the head of a tail page.
    #[must_use]
    pub fn owner_word(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Sets the second word.
    pub fn set_owner_word(&self, value: u64) {
        self.owner.store(value, Ordering::Relaxed);
    }

    /// The next page of the list that this one is on.
    #[must_use]
    pub fn lru_next(&self) -> Option<Pfn> {
        link(&self.lru_next)
    }

    /// The page before this one on its list.
    #[must_use]
    pub fn lru_prev(&self) -> Option<Pfn> {
        link(&self.lru_prev)
    }

    /// Sets the next page of the list.
    pub fn set_lru_next(&self, next: Option<Pfn>) {
        set_link(&self.lru_next, next);
    }

    /// Sets the page before this one.
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
