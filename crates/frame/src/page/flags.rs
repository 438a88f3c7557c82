//! State of a frame, apart from its contents. Linux: include/linux/page-flags.h.

use bitflags::bitflags;
use kmm_kcoll::sync::atomic::Ordering;

use super::{ORDER_MASK, Page};

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
        /// Counted to an account, to be taken off when it is freed. Linux: `PageMemcgKmem`.
        const ACCOUNTED = 1 << 24;

        /// Part of the kernel image: its code, its constants, its data.
        const IMAGE = 1 << 25;

        /// Flags that no page may carry when it is freed. Linux: `PAGE_FLAGS_CHECK_AT_FREE`.
        const CHECK_AT_FREE = Self::LOCKED.bits() | Self::LRU.bits() | Self::ACTIVE.bits() | Self::SLAB.bits()
            | Self::RESERVED.bits() | Self::PRIVATE.bits() | Self::WRITEBACK.bits() | Self::UNEVICTABLE.bits()
            | Self::MLOCKED.bits() | Self::BUDDY.bits() | Self::TABLE.bits() | Self::ACCOUNTED.bits()
            | Self::IMAGE.bits();

        /// Flags that no page may carry when it is handed out: all. Linux: `PAGE_FLAGS_CHECK_AT_PREP`.
        const CHECK_AT_PREP = (1 << 26) - 1;

        /// Flags of a folio that each of its parts gets when it is split. Linux: `__split_huge_page_tail`.
        const KEPT_BY_SPLIT = Self::LOCKED.bits() | Self::REFERENCED.bits() | Self::UPTODATE.bits() | Self::DIRTY.bits()
            | Self::ACTIVE.bits() | Self::ERROR.bits() | Self::SWAPBACKED.bits() | Self::SWAPCACHE.bits()
            | Self::UNEVICTABLE.bits() | Self::MLOCKED.bits() | Self::ANON.bits() | Self::FILE.bits();
    }
}

impl Page {
    /// All flags as they are now.
    #[must_use]
    #[inline]
    pub fn flags(&self) -> PageFlags {
        PageFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Whether all of `flags` are set. Linux: `PageLocked` and its like.
    #[must_use]
    #[inline]
    pub fn test(&self, flags: PageFlags) -> bool {
        self.flags().contains(flags)
    }

    /// Sets `flags`. Linux: `SetPageDirty` and its like.
    #[inline]
    pub fn set(&self, flags: PageFlags) {
        self.flags.fetch_or(flags.bits(), Ordering::Relaxed);
    }

    /// Clears `flags`. Linux: `ClearPageDirty` and its like.
    #[inline]
    pub fn clear(&self, flags: PageFlags) {
        self.flags.fetch_and(!flags.bits(), Ordering::Relaxed);
    }

    /// Sets `flags`; whether all of them were set before. Linux: `TestSetPageDirty` and its like.
    #[inline]
    pub fn test_and_set(&self, flags: PageFlags) -> bool {
        self.flags.fetch_or(flags.bits(), Ordering::AcqRel) & flags.bits() == flags.bits()
    }

    /// Clears `flags`; whether all of them were set before. Linux: `TestClearPageDirty` and its like.
    #[inline]
    pub fn test_and_clear(&self, flags: PageFlags) -> bool {
        self.flags.fetch_and(!flags.bits(), Ordering::AcqRel) & flags.bits() == flags.bits()
    }

    /// Replaces all flags; the page is no longer a compound page's. For the allocator, which owns the frame alone.
    ///
    /// Linux: `__SetPageSlab` and its like.
    #[inline]
    pub fn reset_flags(&self, flags: PageFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// The flags that forbid to free the page now ([`PageFlags::CHECK_AT_FREE`]). Linux: `page_bad_reason`.
    #[must_use]
    #[inline]
    pub fn forbidden_at_free(&self) -> PageFlags {
        self.flags() & PageFlags::CHECK_AT_FREE
    }

    /// Marks the frame as not for the allocator. Nobody else changes its flags meanwhile. Linux: `__SetPageReserved`.
    pub(crate) fn reserve(&self) {
        let flags = self.flags.load(Ordering::Relaxed) | PageFlags::RESERVED.bits();
        self.flags.store(flags, Ordering::Relaxed);
    }

    /// Whether the contents are what the disk holds, or newer: then they are to be seen. Linux: `PageUptodate`.
    #[must_use]
    #[inline]
    pub fn is_uptodate(&self) -> bool {
        self.flags.load(Ordering::Acquire) & PageFlags::UPTODATE.bits() != 0
    }

    /// Says that the contents, which the caller wrote, are good: whoever sees the flag sees them. Linux: `SetPageUptodate`.
    #[inline]
    pub fn set_uptodate(&self) {
        self.flags
            .fetch_or(PageFlags::UPTODATE.bits(), Ordering::Release);
    }

    /// Says that the contents are no good. Linux: `ClearPageUptodate`.
    #[inline]
    pub fn clear_uptodate(&self) {
        self.clear(PageFlags::UPTODATE);
    }

    /// Replaces all flags and the order. Nobody else changes them meanwhile.
    pub(super) fn replace_state(&self, flags: PageFlags, order_bits: u64) {
        debug_assert!(order_bits & !ORDER_MASK == 0);
        self.flags
            .store(order_bits | flags.bits(), Ordering::Release);
    }
}

/// Flags that are only asked for: they change by a protocol of their own.
macro_rules! tests {
    ($($flag:ident $linux:literal $is:ident;)*) => {
        impl Page {$(
            #[doc = concat!("Whether [`PageFlags::", stringify!($flag), "`] is set. Linux: `Page", $linux, "`.")]
            #[must_use]
            #[inline]
            pub fn $is(&self) -> bool {
                self.test(PageFlags::$flag)
            }
        )*}
    };
}

tests! {
    LOCKED "Locked" is_locked;
    WAITERS "Waiters" has_waiters;
    WRITEBACK "Writeback" is_writeback;
    HEAD "Head" is_head;
}

/// The accessors of Linux, each one atomic operation.
macro_rules! accessors {
    ($($flag:ident $linux:literal $is:ident $set:ident $clear:ident $test_set:ident $test_clear:ident;)*) => {
        tests! { $($flag $linux $is;)* }
        impl Page {$(
            #[doc = concat!("Sets [`PageFlags::", stringify!($flag), "`]. Linux: `SetPage", $linux, "`.")]
            #[inline]
            pub fn $set(&self) {
                self.set(PageFlags::$flag);
            }

            #[doc = concat!("Clears [`PageFlags::", stringify!($flag), "`]. Linux: `ClearPage", $linux, "`.")]
            #[inline]
            pub fn $clear(&self) {
                self.clear(PageFlags::$flag);
            }

            #[doc = concat!("Sets [`PageFlags::", stringify!($flag), "`]; whether it was set before. Linux: `TestSetPage", $linux, "`.")]
            #[inline]
            pub fn $test_set(&self) -> bool {
                self.test_and_set(PageFlags::$flag)
            }

            #[doc = concat!("Clears [`PageFlags::", stringify!($flag), "`]; whether it was set before. Linux: `TestClearPage", $linux, "`.")]
            #[inline]
            pub fn $test_clear(&self) -> bool {
                self.test_and_clear(PageFlags::$flag)
            }
        )*}
    };
}

accessors! {
    REFERENCED "Referenced" is_referenced set_referenced clear_referenced test_set_referenced test_clear_referenced;
    DIRTY "Dirty" is_dirty set_dirty clear_dirty test_set_dirty test_clear_dirty;
    LRU "LRU" is_lru set_lru clear_lru test_set_lru test_clear_lru;
    ACTIVE "Active" is_active set_active clear_active test_set_active test_clear_active;
    ERROR "Error" is_error set_error clear_error test_set_error test_clear_error;
    SLAB "Slab" is_slab set_slab clear_slab test_set_slab test_clear_slab;
    RESERVED "Reserved" is_reserved set_reserved clear_reserved test_set_reserved test_clear_reserved;
    PRIVATE "Private" has_private set_has_private clear_has_private test_set_has_private test_clear_has_private;
    SWAPBACKED "SwapBacked" is_swap_backed set_swap_backed clear_swap_backed test_set_swap_backed test_clear_swap_backed;
    SWAPCACHE "SwapCache" is_swap_cache set_swap_cache clear_swap_cache test_set_swap_cache test_clear_swap_cache;
    RECLAIM "Reclaim" is_reclaim set_reclaim clear_reclaim test_set_reclaim test_clear_reclaim;
    UNEVICTABLE "Unevictable" is_unevictable set_unevictable clear_unevictable test_set_unevictable test_clear_unevictable;
    MLOCKED "Mlocked" is_mlocked set_mlocked clear_mlocked test_set_mlocked test_clear_mlocked;
}
