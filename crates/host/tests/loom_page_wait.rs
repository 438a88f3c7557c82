//! Waiting for pages, in every interleaving: nobody gets in twice, nobody sleeps for ever.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-host --test loom_page_wait`
#![cfg(loom)]
#![allow(unsafe_code, missing_docs, reason = "a cell that loom watches")]

use kmm_frame::{IoStatus, Page, PageFlags};
use kmm_host::{PageWaits, Sleep, WaitQueue};
use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// A queue whose sleepers loom knows: it tells when nobody wakes them.
struct Queue {
    lock: Mutex<()>,
    woken: Condvar,
}

impl WaitQueue for Queue {
    fn wait_until(&self, is_done: &mut dyn FnMut() -> bool) {
        let mut guard = self.lock.lock().unwrap();
        while !is_done() {
            guard = self.woken.wait(guard).unwrap();
        }
    }

    fn wake_all(&self) {
        drop(self.lock.lock().unwrap());
        self.woken.notify_all();
    }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn waits() -> &'static PageWaits<Queue> {
    let queues = vec![Queue {
        lock: Mutex::new(()),
        woken: Condvar::new(),
    }];
    leak(PageWaits::new(queues.leak()))
}

/// What the page lock protects.
struct Protected(UnsafeCell<usize>);

// SAFETY: reached under the page lock; loom finds it out where it is not.
unsafe impl Sync for Protected {}

#[test]
fn all_who_want_the_page_lock_get_it_one_after_the_other() {
    loom::model(|| {
        let (page, waits, count) = (
            leak(Page::new()),
            waits(),
            leak(Protected(UnsafeCell::new(0))),
        );
        let lock_and_count = move || {
            waits.lock(&mut Sleep::grant(), page);
            // SAFETY: loom checks that nobody else is here.
            count.0.with_mut(|count| unsafe { *count += 1 });
            waits.unlock(page);
        };
        let other = thread::spawn(lock_and_count);
        lock_and_count();
        other.join().unwrap();
        // SAFETY: nobody else is left.
        assert_eq!(count.0.with(|count| unsafe { *count }), 2);
        assert_eq!(page.flags(), PageFlags::empty());
    });
}

#[test]
fn who_waits_for_input_and_output_is_woken_when_it_ends() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (page, waits) = (leak(Page::new()), waits());
        assert!(page.try_lock() && page.start_writeback());
        let device = thread::spawn(move || {
            waits.end_read(page, IoStatus::Done);
            assert!(!waits.end_writeback(page, IoStatus::Done));
        });
        waits.wait_on_locked(&mut Sleep::grant(), page);
        assert!(page.is_uptodate());
        waits.wait_on_writeback(&mut Sleep::grant(), page);
        device.join().unwrap();
        assert_eq!(page.flags(), PageFlags::UPTODATE);
    });
}
