//! What the allocator asks of a page that comes back. Linux: `page_expected_state`, mm/page_alloc.c.
#![expect(
    unsafe_code,
    reason = "words that nobody else writes are read as parts of comparisons"
)]

use super::Page;
#[cfg(not(any(loom, target_endian = "big")))]
use super::PageFlags;

/// The flags that forbid it: all are in the lower half.
#[cfg(not(any(loom, target_endian = "big")))]
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const FORBIDDEN: u32 = PageFlags::CHECK_AT_FREE.bits() as u32;
#[cfg(not(any(loom, target_endian = "big")))]
const _: () = assert!(FORBIDDEN as u64 == PageFlags::CHECK_AT_FREE.bits());

impl Page {
    /// Whether the page is held exactly `held` times, mapped nowhere, and without a flag that forbids to free it
    /// ([`PageFlags::CHECK_AT_FREE`]): two comparisons, where loads of atomics would make it nine instructions.
    ///
    /// # Safety
    /// Nobody else writes the counts and flags of the page meanwhile: it is about to be freed by the last who could.
    #[cfg(not(any(loom, target_endian = "big")))]
    #[must_use]
    #[inline(always)]
    pub unsafe fn is_free_to_go(&self, held: u32) -> bool {
        use core::mem::offset_of;

        const { assert!(offset_of!(Page, map_count) == offset_of!(Page, ref_count) + 4) };
        // Both by one `&&` would be one instruction more.
        // SAFETY: by the caller.
        if unsafe { self.has_forbidden() } {
            return false;
        }
        let page = core::ptr::from_ref(self).cast::<u8>();
        let counts = page.wrapping_add(offset_of!(Self, ref_count)).cast::<u64>();
        // SAFETY: both counts of this page, one behind the other and aligned; nobody writes them, by the caller.
        let counts = unsafe { counts.read() };
        counts == u64::from(held)
    }

    /// As [`Page::is_free_to_go`], of a page that nobody holds any more.
    ///
    /// # Safety
    /// As there.
    #[cfg(not(any(loom, target_endian = "big")))]
    #[must_use]
    #[inline(always)]
    pub unsafe fn is_unused(&self) -> bool {
        // SAFETY: by the caller.
        if unsafe { self.has_forbidden() } {
            return false;
        }
        // SAFETY: valid, aligned, and not written meanwhile, by the caller.
        let map_count = unsafe { self.map_count.as_ptr().read() };
        map_count == 0
    }

    /// Whether it has a flag that forbids to free it.
    ///
    /// # Safety
    /// As for [`Page::is_free_to_go`].
    #[cfg(not(any(loom, target_endian = "big")))]
    #[inline(always)]
    unsafe fn has_forbidden(&self) -> bool {
        let flags = self.flags.as_ptr().cast::<u32>();
        // SAFETY: the lower half of the flags of this page, aligned; nobody writes them, by the caller.
        let flags = unsafe { flags.read() };
        flags & FORBIDDEN != 0
    }

    /// As elsewhere.
    ///
    /// # Safety
    /// As elsewhere.
    #[cfg(any(loom, target_endian = "big"))]
    #[must_use]
    pub unsafe fn is_free_to_go(&self, held: u32) -> bool {
        i64::from(self.ref_count()) == i64::from(held)
            && self.map_count() == 0
            && self.forbidden_at_free().is_empty()
    }

    /// As elsewhere.
    ///
    /// # Safety
    /// As elsewhere.
    #[cfg(any(loom, target_endian = "big"))]
    #[must_use]
    pub unsafe fn is_unused(&self) -> bool {
        self.map_count() == 0 && self.forbidden_at_free().is_empty()
    }
}
