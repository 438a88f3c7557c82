//! Who holds a page, and who maps it. Linux: include/linux/page_ref.h, `page_mapcount`.
//!
//! | count | means |
//! |---|---|
//! | 0 | free, frozen, or held by an owner who does not count; nobody may take a reference |
//! | 1 | one holder, who may free it |
//! | n | n holders |
//!
//! A reference is taken either by who holds one already ([`Page::get`]) or by who found the page somewhere and must be ready
//! to lose it ([`Page::get_unless_zero`]). Freezing takes all references that are expected, and no other, down to 0 in
//! one step: from then on nobody gets in.

use core::sync::atomic::Ordering as CoreOrdering;

use kmm_kcoll::sync::atomic::Ordering;

use super::Page;

impl Page {
    /// How many users hold the page. Linux: `page_count`, `page_ref_count`.
    #[must_use]
    #[inline]
    pub fn ref_count(&self) -> i32 {
        self.ref_count.load(Ordering::Acquire)
    }

    /// Sets the count. For the allocator, which owns the frame alone. Linux: `set_page_count`.
    #[inline]
    pub fn set_ref_count(&self, count: i32) {
        self.ref_count.store(count, Ordering::Release);
    }

    /// One more user. The caller holds the page already. Linux: `get_page`.
    ///
    /// # Panics
    /// In debug builds, when nobody holds it.
    #[inline]
    pub fn get(&self) {
        self.get_many(1);
    }

    /// So many more users. The caller holds the page already. Linux: `page_ref_add`.
    ///
    /// # Panics
    /// In debug builds, when nobody holds it.
    #[inline]
    pub fn get_many(&self, count: i32) {
        let before = self.ref_count.fetch_add(count, Ordering::Relaxed);
        debug_assert!(before > 0, "get_page on a page that nobody holds");
    }

    /// One more user, unless nobody holds the page: then it may be free, or frozen; or so many do that there is no larger
    /// number. Linux: `get_page_unless_zero`.
    ///
    /// What was known of the page before is to be checked again afterwards: it may have been freed and found a new use.
    #[must_use = "without a reference the page may go"]
    #[inline]
    pub fn get_unless_zero(&self) -> bool {
        let mut count = self.ref_count.load(Ordering::Relaxed);
        while 0 < count && count < i32::MAX {
            match self.ref_count.compare_exchange_weak(
                count,
                count + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    /// One user fewer; whether it was the last. Linux: `put_page_testzero`.
    ///
    /// # Panics
    /// In debug builds, when nobody holds it.
    #[must_use = "the last user frees the page"]
    #[inline]
    pub fn put_and_test(&self) -> bool {
        self.put_many_and_test(1)
    }

    /// So many users fewer; whether they were the last. Linux: `page_ref_sub_and_test`.
    ///
    /// # Panics
    /// In debug builds, when fewer hold it.
    #[must_use = "the last user frees the page"]
    #[inline]
    pub fn put_many_and_test(&self, count: i32) -> bool {
        let before = self.ref_count.fetch_sub(count, Ordering::AcqRel);
        debug_assert!(before >= count, "put_page on a page that nobody holds");
        before == count
    }

    /// Takes the count from `expected` to 0, if that is what it is: nobody holds the page but those the caller speaks for,
    /// and nobody gets a reference until [`Page::unfreeze`]. Linux: `page_ref_freeze`.
    #[must_use = "without it others may hold the page"]
    #[inline]
    pub fn freeze(&self, expected: i32) -> bool {
        self.ref_count
            .compare_exchange(expected, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Lets others take references again; what was done to the page meanwhile, they see. Linux: `page_ref_unfreeze`.
    ///
    /// # Panics
    /// In debug builds, when the page is not frozen, or `count` is not above 0.
    #[inline]
    pub fn unfreeze(&self, count: i32) {
        debug_assert!(count > 0, "a page is thawed for somebody");
        debug_assert!(
            self.ref_count() == 0,
            "a page that is not frozen was thawed"
        );
        self.ref_count.store(count, Ordering::Release);
    }

    /// How many page-table entries of processes map the page. Linux: `page_mapcount`, which is `_mapcount` plus one.
    #[must_use]
    #[inline]
    pub fn map_count(&self) -> i32 {
        self.map_count.load(CoreOrdering::Acquire)
    }

    /// Whether an entry maps the page: Linux's `_mapcount` is -1 where none does. Linux: `page_mapped`.
    #[must_use]
    #[inline]
    pub fn is_mapped(&self) -> bool {
        self.map_count() > 0
    }

    /// One more entry maps the page; whether it is the first. Linux: `page_add_rmap`.
    #[inline]
    pub fn inc_map_count(&self) -> bool {
        self.map_count.fetch_add(1, CoreOrdering::Relaxed) == 0
    }

    /// One entry fewer maps the page; whether it was the last. Linux: `page_remove_rmap`.
    ///
    /// # Panics
    /// In debug builds, when none maps it.
    #[inline]
    pub fn dec_map_count(&self) -> bool {
        let before = self.map_count.fetch_sub(1, CoreOrdering::AcqRel);
        debug_assert!(before > 0, "a page that no entry maps was unmapped");
        before == 1
    }

    /// Back to "no entry maps it". For the allocator, which owns the frame alone.
    #[inline]
    pub fn reset_map_count(&self) {
        self.map_count.store(0, CoreOrdering::Relaxed);
    }
}
