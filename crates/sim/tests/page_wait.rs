//! Page locks with threads that really sleep.
#![allow(missing_docs, reason = "tests")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kmm_frame::{IoStatus, Page, PageFlags};
use kmm_host::{PageWaits, Sleep, WaitQueue};
use kmm_sim::SimWaitQueue;

/// Queues, never given back.
fn waits(nr_queues: usize) -> (PageWaits<SimWaitQueue>, &'static [SimWaitQueue]) {
    let queues: Vec<_> = (0..nr_queues).map(|_| SimWaitQueue::new()).collect();
    let queues: &'static [SimWaitQueue] = queues.leak();
    (PageWaits::new(queues), queues)
}

fn nr_sleeps(queues: &[SimWaitQueue]) -> usize {
    queues.iter().map(SimWaitQueue::nr_sleeps).sum()
}

/// Waits for others to get on.
fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

/// What a page lock protects.
#[derive(Default)]
struct Protected(UnsafeCell<usize>);

#[expect(unsafe_code, reason = "shared under the page lock")]
// SAFETY: the tests use it under a page lock.
unsafe impl Sync for Protected {}

impl Protected {
    #[expect(unsafe_code, reason = "shared under the page lock")]
    fn add(&self) {
        // SAFETY: the caller holds the page lock.
        unsafe { *self.0.get() += 1 };
    }
}

#[test]
fn threads_take_turns_under_the_page_lock() {
    // One queue for two pages: sleepers are woken in vain, too.
    let (waits, queues) = waits(1);
    let pages = [Page::new(), Page::new()];
    let counted = [Protected::default(), Protected::default()];
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (waits, pages, counted) = (&waits, &pages, &counted);
            scope.spawn(move || {
                let mut sleep = Sleep::grant();
                let nr = thread % 2;
                for round in 0..2_000 {
                    waits.lock(&mut sleep, &pages[nr]);
                    counted[nr].add();
                    if round % 64 == 0 {
                        std::thread::yield_now();
                    }
                    waits.unlock(&pages[nr]);
                }
            });
        }
    });
    for (page, count) in pages.iter().zip(counted) {
        assert_eq!(count.0.into_inner(), 6_000, "two had the lock at once");
        assert_eq!(page.flags(), PageFlags::empty());
    }
    let _ = nr_sleeps(queues);
}

#[test]
fn a_sleeper_gets_the_lock_when_it_is_free() {
    let (waits, queues) = waits(8);
    let page = Page::new();
    waits.lock(&mut Sleep::grant(), &page);
    assert_eq!(page.flags(), PageFlags::LOCKED, "nobody waits yet");
    let got = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            waits.lock(&mut Sleep::grant(), &page);
            got.store(true, Ordering::Relaxed);
        });
        until(|| nr_sleeps(queues) == 1);
        assert_eq!(page.flags(), PageFlags::LOCKED | PageFlags::WAITERS);
        assert!(!got.load(Ordering::Relaxed));
        waits.unlock(&page);
    });
    assert!(got.load(Ordering::Relaxed) && page.is_locked());
    waits.unlock(&page);
    assert_eq!(page.flags(), PageFlags::empty(), "no waiter is left behind");
}

#[test]
fn all_who_wait_for_a_read_see_how_it_ended() {
    for (status, flags) in [
        (IoStatus::Done, PageFlags::UPTODATE),
        (IoStatus::Failed, PageFlags::ERROR),
    ] {
        let (waits, queues) = waits(4);
        let page = Page::new();
        waits.lock(&mut Sleep::grant(), &page);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    waits.wait_on_locked(&mut Sleep::grant(), &page);
                    assert_eq!(page.flags(), flags, "read in, or not");
                });
            }
            until(|| nr_sleeps(queues) >= 3);
            waits.end_read(&page, status);
        });
        assert_eq!(page.flags(), flags);
    }
}

#[test]
fn writing_out_outlasts_the_lock() {
    let (waits, queues) = waits(1);
    let page = Page::new();
    let mut sleep = Sleep::grant();
    waits.lock(&mut sleep, &page);
    page.set_reclaim();
    assert!(page.start_writeback());
    assert!(!page.start_writeback(), "it is being written out already");
    let nr_done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                waits.wait_on_writeback(&mut Sleep::grant(), &page);
                nr_done.fetch_add(1, Ordering::Relaxed);
            });
        }
        until(|| nr_sleeps(queues) == 2);
        // Wakes them for the lock; they look and sleep again, announced again.
        waits.unlock(&page);
        until(|| nr_sleeps(queues) == 4);
        assert_eq!(nr_done.load(Ordering::Relaxed), 0);
        assert!(page.has_waiters() && page.is_writeback());
        assert!(
            waits.end_writeback(&page, IoStatus::Failed),
            "reclaim wants it"
        );
    });
    assert_eq!(nr_done.load(Ordering::Relaxed), 2);
    assert_eq!(page.flags(), PageFlags::ERROR);
    waits.wait_on_writeback(&mut sleep, &page);
    waits.wait_on_locked(&mut sleep, &page);
    assert_eq!(nr_sleeps(queues), 4, "nothing to wait for");
}

#[test]
fn nobody_is_woken_who_does_not_wait() {
    struct Counting(AtomicUsize);
    impl WaitQueue for Counting {
        fn wait_until(&self, is_done: &mut dyn FnMut() -> bool) {
            assert!(is_done(), "nobody has the lock");
        }

        fn wake_all(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    static QUEUES: [Counting; 1] = [Counting(AtomicUsize::new(0))];
    let waits = PageWaits::new(&QUEUES);
    let page = Page::new();
    waits.lock(&mut Sleep::grant(), &page);
    waits.unlock(&page);
    assert_eq!(QUEUES[0].0.load(Ordering::Relaxed), 0);
    waits.lock(&mut Sleep::grant(), &page);
    assert!(!page.try_lock_or_announce());
    waits.unlock(&page);
    assert_eq!(QUEUES[0].0.load(Ordering::Relaxed), 1);
}

#[test]
fn pages_spread_over_the_queues() {
    let pages: Vec<Page> = (0..4096).map(|_| Page::new()).collect();
    struct Marked(AtomicUsize);
    impl WaitQueue for Marked {
        fn wait_until(&self, is_done: &mut dyn FnMut() -> bool) {
            self.0.fetch_add(1, Ordering::Relaxed);
            assert!(!is_done());
        }

        fn wake_all(&self) {}
    }
    let queues: Vec<_> = (0..64).map(|_| Marked(AtomicUsize::new(0))).collect();
    let queues: &'static [Marked] = queues.leak();
    let waits = PageWaits::new(queues);
    for page in &pages {
        page.set(PageFlags::LOCKED);
        waits.wait_on_locked(&mut Sleep::grant(), page);
    }
    for queue in queues {
        let count = queue.0.load(Ordering::Relaxed);
        assert!(
            (32..=128).contains(&count),
            "{count} of 4096 in one of 64 queues"
        );
    }
}
