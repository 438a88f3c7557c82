//! The page lock, and what brackets input and output. Linux: `folio_lock` and its like, mm/filemap.c.
//!
//! [`PageFlags::LOCKED`] is held by who reads the page in or changes what it is; [`PageFlags::WRITEBACK`] is set while it
//! is written out. Who must wait for one of them to go says so with [`PageFlags::WAITERS`], in the same step that finds the
//! flag set: so who clears the flag either sees the waiter, or the waiter sees it cleared.
//!
//! | flags | means |
//! |---|---|
//! | none | free to take |
//! | `LOCKED` or `WRITEBACK` | taken, nobody waits |
//! | that and `WAITERS` | taken; who clears it takes `WAITERS` away as well and wakes all, who look again |
//!
//! This module decides; nobody sleeps here. `kmm_host::PageWaits` puts the host's sleep and wake around it.

use kmm_kcoll::sync::atomic::Ordering;

use super::{Page, PageFlags};

/// Whether somebody is to be woken: all who wait for this page. Linux: `folio_wake_bit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "who waits sleeps for ever unless woken"]
pub enum Wake {
    /// Nobody waits.
    Nobody,
    /// Somebody does.
    Waiters,
}

/// How input or output ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoStatus {
    /// All of the page was transferred.
    Done,
    /// It was not; what was, is no good.
    Failed,
}

/// What is left to do when a page was written out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "who waits sleeps for ever unless woken"]
pub struct Written {
    /// Whether somebody waits for it.
    pub wake: Wake,
    /// Reclaim wants the page: it goes to the end of the inactive list. Linux: `folio_rotate_reclaimable`.
    pub is_to_rotate: bool,
}

impl Page {
    /// Takes the lock, if nobody has it. Linux: `trylock_page`.
    #[must_use = "only who took the lock holds it"]
    #[inline]
    pub fn try_lock(&self) -> bool {
        let locked = PageFlags::LOCKED.bits();
        self.flags.fetch_or(locked, Ordering::Acquire) & locked == 0
    }

    /// Takes the lock, or says that somebody waits for it: whether it was taken. For the condition of a wait queue.
    #[must_use = "only who took the lock holds it"]
    pub fn try_lock_or_announce(&self) -> bool {
        self.take_or_announce(PageFlags::LOCKED, PageFlags::LOCKED.bits())
    }

    /// Whether none of `flags` is set; else it says that somebody waits for that. For the condition of a wait queue.
    ///
    /// `flags` are of [`PageFlags::LOCKED`] and [`PageFlags::WRITEBACK`]: for others nobody wakes.
    #[must_use = "else it is to be waited for"]
    pub fn is_clear_or_announce(&self, flags: PageFlags) -> bool {
        self.take_or_announce(flags, 0)
    }

    /// Gives the lock up. The caller holds it. Linux: `unlock_page`.
    ///
    /// # Panics
    /// In debug builds, when nobody holds it.
    #[inline]
    pub fn unlock(&self) -> Wake {
        debug_assert!(self.is_locked(), "a page that is not locked was unlocked");
        self.finish(PageFlags::LOCKED)
    }

    /// Ends reading the page in: its contents are good, or they are not; and gives up the lock, which the caller holds.
    ///
    /// Linux: `page_endio`, `mpage_end_io`.
    ///
    /// # Panics
    /// As [`Page::unlock`].
    pub fn end_read(&self, status: IoStatus) -> Wake {
        match status {
            IoStatus::Done => self.set_uptodate(),
            IoStatus::Failed => {
                self.clear_uptodate();
                self.set_error();
            }
        }
        self.unlock()
    }

    /// Begins writing the page out; whether nobody else did already. The caller holds the lock, and may give it up then.
    ///
    /// Linux: `set_page_writeback`.
    ///
    /// # Panics
    /// In debug builds, when nobody holds the lock.
    pub fn start_writeback(&self) -> bool {
        debug_assert!(self.is_locked(), "writing out begins under the page lock");
        !self.test_and_set(PageFlags::WRITEBACK)
    }

    /// Ends writing the page out. Linux: `end_page_writeback`.
    ///
    /// # Panics
    /// In debug builds, when it is not written out.
    pub fn end_writeback(&self, status: IoStatus) -> Written {
        debug_assert!(
            self.is_writeback(),
            "a page that is not written out is done"
        );
        if status == IoStatus::Failed {
            self.set_error();
        }
        let is_to_rotate = self.is_reclaim() && self.test_clear_reclaim();
        Written {
            wake: self.finish(PageFlags::WRITEBACK),
            is_to_rotate,
        }
    }

    /// Sets `take` if none of `unless` is set, else `WAITERS`; whether it was the first.
    fn take_or_announce(&self, unless: PageFlags, take: u64) -> bool {
        let mut word = self.flags.load(Ordering::Acquire);
        loop {
            let is_clear = word & unless.bits() == 0;
            let wanted = if is_clear {
                word | take
            } else {
                word | PageFlags::WAITERS.bits()
            };
            if wanted == word {
                return is_clear;
            }
            match self.flags.compare_exchange_weak(
                word,
                wanted,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return is_clear,
                Err(now) => word = now,
            }
        }
    }

    fn finish(&self, flag: PageFlags) -> Wake {
        let gone = flag | PageFlags::WAITERS;
        let before = self.flags.fetch_and(!gone.bits(), Ordering::Release);
        if before & PageFlags::WAITERS.bits() == 0 {
            Wake::Nobody
        } else {
            Wake::Waiters
        }
    }
}
