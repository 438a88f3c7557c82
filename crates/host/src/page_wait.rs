//! Waiting for a page: until its lock is free, until it is read in or written out. Linux: `folio_wait_bit`, mm/filemap.c.
//!
//! A page has no queue of its own, only a flag that says that somebody waits ([`PageFlags::WAITERS`]); who waits does so in
//! one of a few queues, chosen by the page's address. Two pages may share a queue: then one's waiters are woken for the
//! other, look, and sleep again.

use core::fmt;

use kmm_frame::{IoStatus, Page, PageFlags, Wake};

use crate::Sleep;

/// One queue of sleepers. Linux: `wait_queue_head_t`.
///
/// `is_done` is asked under the queue's lock, and who wakes takes that lock: so whoever changes something and then wakes is
/// either seen by `is_done`, or wakes a sleeper.
pub trait WaitQueue {
    /// Sleeps until `is_done` says so; it is asked at once, and again whenever the queue is woken. It does not sleep.
    fn wait_until(&self, is_done: &mut dyn FnMut() -> bool);

    /// Wakes all who wait. Allowed from interrupts, as that is where input and output end.
    fn wake_all(&self);
}

impl<Q: WaitQueue + ?Sized> WaitQueue for &Q {
    fn wait_until(&self, is_done: &mut dyn FnMut() -> bool) {
        (**self).wait_until(is_done);
    }

    fn wake_all(&self) {
        (**self).wake_all();
    }
}

/// The queues in which all waits for pages happen. Linux: `folio_wait_table`, of 256.
///
/// For a compound page, hand in the head's descriptor, as `kmm_frame::Folio` does by itself.
pub struct PageWaits<Q: 'static> {
    queues: &'static [Q],
}

/// 2^64 divided by the golden ratio: multiplied by it, neighbours go far apart. Linux: `GOLDEN_RATIO_64`.
const GOLDEN_RATIO: u64 = 0x61c8_8646_80b5_83eb;

impl<Q: WaitQueue> PageWaits<Q> {
    /// Over these queues: the more, the fewer wake in vain.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub const fn new(queues: &'static [Q]) -> Self {
        assert!(!queues.is_empty(), "nowhere to wait");
        Self { queues }
    }

    /// Takes the page lock, sleeping while somebody has it. Linux: `lock_page`.
    ///
    /// # Context
    /// May sleep. The caller holds a reference.
    pub fn lock(&self, sleep: &mut Sleep, page: &Page) {
        let _ = sleep;
        if !page.try_lock() {
            let queue = self.queue(page);
            queue.wait_until(&mut || page.try_lock_or_announce());
        }
    }

    /// Gives the page lock up. Linux: `unlock_page`.
    ///
    /// # Context
    /// Does not sleep; allowed from interrupts. Whoever waited may free the page at once.
    pub fn unlock(&self, page: &Page) {
        let queue = self.queue(page);
        wake(queue, page.unlock());
    }

    /// Sleeps until nobody has the page lock. Linux: `wait_on_page_locked`.
    ///
    /// # Context
    /// May sleep. The caller holds a reference.
    pub fn wait_on_locked(&self, sleep: &mut Sleep, page: &Page) {
        self.wait_on(sleep, page, PageFlags::LOCKED);
    }

    /// Sleeps until the page is not being written out. Linux: `wait_on_page_writeback`.
    ///
    /// # Context
    /// May sleep. The caller holds a reference.
    pub fn wait_on_writeback(&self, sleep: &mut Sleep, page: &Page) {
        self.wait_on(sleep, page, PageFlags::WRITEBACK);
    }

    /// Ends reading the page in, and gives its lock up. Linux: `page_endio`.
    ///
    /// # Context
    /// As [`PageWaits::unlock`].
    pub fn end_read(&self, page: &Page, status: IoStatus) {
        let queue = self.queue(page);
        wake(queue, page.end_read(status));
    }

    /// Ends writing the page out; whether reclaim wants it at the end of its list now. Linux: `end_page_writeback`.
    ///
    /// # Context
    /// As [`PageWaits::unlock`].
    #[must_use = "else a page that reclaim waits for stays where it is"]
    pub fn end_writeback(&self, page: &Page, status: IoStatus) -> bool {
        let queue = self.queue(page);
        let written = page.end_writeback(status);
        wake(queue, written.wake);
        written.is_to_rotate
    }

    fn wait_on(&self, sleep: &mut Sleep, page: &Page, flag: PageFlags) {
        let _ = sleep;
        if page.flags().intersects(flag) {
            let queue = self.queue(page);
            queue.wait_until(&mut || page.is_clear_or_announce(flag));
        }
    }

    /// The queue of a page. To be found before the page is given up.
    fn queue(&self, page: &Page) -> &'static Q {
        let line = core::ptr::from_ref(page).addr() / align_of::<Page>();
        let hash = (line as u64).wrapping_mul(GOLDEN_RATIO) >> 32;
        let nr_queues = self.queues.len() as u64;
        // The upper half of a product: a number below the count.
        let nr = usize::try_from((hash * nr_queues) >> 32).unwrap_or(0);
        &self.queues[nr]
    }
}

fn wake(queue: &impl WaitQueue, wake: Wake) {
    match wake {
        Wake::Nobody => {}
        Wake::Waiters => queue.wake_all(),
    }
}

impl<Q> fmt::Debug for PageWaits<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageWaits")
            .field("nr_queues", &self.queues.len())
            .finish()
    }
}
