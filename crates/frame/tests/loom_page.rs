//! Protocols of a page between CPUs, in every interleaving: the lock and its waiters, the last reference, freezing,
//! splitting under somebody who looks.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-frame --test loom_page`
#![cfg(loom)]
#![allow(unsafe_code, missing_docs, reason = "cells that loom watches")]

use kmm_frame::{IoStatus, Lost, MemMap, Order, Page, PageFlags, Pfn, PfnRange, Wake};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// Sleepers that loom knows: it tells when nobody wakes them. `kmm_host::PageWaits` in a few lines.
struct Waits {
    lock: Mutex<()>,
    woken: Condvar,
}

impl Waits {
    fn leaked() -> &'static Self {
        leak(Self {
            lock: Mutex::new(()),
            woken: Condvar::new(),
        })
    }

    fn until(&self, is_done: impl Fn() -> bool) {
        let mut guard = self.lock.lock().unwrap();
        while !is_done() {
            guard = self.woken.wait(guard).unwrap();
        }
    }

    fn wake(&self, wake: Wake) {
        if wake == Wake::Waiters {
            drop(self.lock.lock().unwrap());
            self.woken.notify_all();
        }
    }

    fn lock(&self, page: &Page) {
        if !page.try_lock() {
            self.until(|| page.try_lock_or_announce());
        }
    }

    fn unlock(&self, page: &Page) {
        self.wake(page.unlock());
    }
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// The bytes of the frame: who may read or write them, loom checks.
struct Contents(UnsafeCell<usize>);

// SAFETY: reached only as the protocol under test allows; loom finds it out where it does not.
unsafe impl Sync for Contents {}

impl Contents {
    fn leaked() -> &'static Self {
        leak(Self(UnsafeCell::new(0)))
    }

    fn read(&self) -> usize {
        // SAFETY: loom checks that nobody writes.
        self.0.with(|value| unsafe { *value })
    }

    fn write(&self, value: usize) {
        // SAFETY: loom checks that nobody reads or writes.
        self.0.with_mut(|old| unsafe { *old = value });
    }
}

fn map(nr_pages: usize) -> MemMap {
    let pages: Vec<Page> = (0..nr_pages).map(|_| Page::new()).collect();
    MemMap::new(PfnRange::with_len(Pfn::ZERO, nr_pages), pages.leak()).unwrap()
}

#[test]
fn one_has_the_page_lock_and_all_get_it() {
    loom::model(|| {
        let (page, waits, contents) = (leak(Page::new()), Waits::leaked(), Contents::leaked());
        let lock_and_count = move || {
            waits.lock(page);
            contents.write(contents.read() + 1);
            waits.unlock(page);
        };
        let other = thread::spawn(lock_and_count);
        lock_and_count();
        other.join().unwrap();
        assert_eq!(contents.read(), 2);
        assert_eq!(page.flags(), PageFlags::empty());
    });
}

#[test]
fn three_who_want_the_page_lock_all_get_it() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (page, waits, contents) = (leak(Page::new()), Waits::leaked(), Contents::leaked());
        let lock_and_count = move || {
            waits.lock(page);
            contents.write(contents.read() + 1);
            waits.unlock(page);
        };
        let others = [thread::spawn(lock_and_count), thread::spawn(lock_and_count)];
        lock_and_count();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(contents.read(), 3);
    });
}

#[test]
fn who_waits_for_a_read_sees_what_was_read() {
    loom::model(|| {
        let (page, waits, contents) = (leak(Page::new()), Waits::leaked(), Contents::leaked());
        assert!(page.try_lock());
        let reader = thread::spawn(move || {
            waits.until(|| page.is_clear_or_announce(PageFlags::LOCKED));
            assert!(page.is_uptodate());
            assert_eq!(contents.read(), 7);
        });
        contents.write(7);
        waits.wake(page.end_read(IoStatus::Done));
        reader.join().unwrap();
    });
}

#[test]
fn uptodate_shows_the_contents_without_the_lock() {
    loom::model(|| {
        let (page, contents) = (leak(Page::new()), Contents::leaked());
        let reader = thread::spawn(move || {
            if page.is_uptodate() {
                assert_eq!(contents.read(), 7);
            }
        });
        contents.write(7);
        page.set_uptodate();
        reader.join().unwrap();
    });
}

#[test]
fn waiters_for_the_lock_and_for_writing_share_a_flag() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (page, waits) = (leak(Page::new()), Waits::leaked());
        assert!(page.try_lock() && page.start_writeback());
        let writer = thread::spawn(move || {
            waits.wake(page.end_writeback(IoStatus::Done).wake);
        });
        let locker = thread::spawn(move || {
            waits.lock(page);
            waits.unlock(page);
        });
        waits.unlock(page);
        waits.until(|| page.is_clear_or_announce(PageFlags::WRITEBACK));
        assert!(!page.is_writeback());
        writer.join().unwrap();
        locker.join().unwrap();
    });
}

/// Puts a reference, and frees the frame if it was the last: writes to it, as its next owner will.
fn put(page: &Page, contents: &Contents, nr_freed: &AtomicUsize) {
    if page.put_and_test() {
        contents.write(99);
        nr_freed.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_last_reference_frees_once_whoever_has_it() {
    loom::model(|| {
        let (page, contents) = (leak(Page::new()), Contents::leaked());
        let nr_freed = leak(AtomicUsize::new(0));
        page.set_ref_count(2);
        let finder = thread::spawn(move || {
            if page.get_unless_zero() {
                assert_ne!(contents.read(), 99, "the frame is somebody else's");
                put(page, contents, nr_freed);
            }
        });
        let holder = thread::spawn(move || {
            assert_ne!(contents.read(), 99);
            put(page, contents, nr_freed);
        });
        put(page, contents, nr_freed);
        finder.join().unwrap();
        holder.join().unwrap();
        assert_eq!(nr_freed.load(Ordering::Relaxed), 1);
        assert_eq!(page.ref_count(), 0);
    });
}

#[test]
fn a_frozen_page_is_its_owners_alone() {
    loom::model(|| {
        let (page, contents) = (leak(Page::new()), Contents::leaked());
        let nr_freed = leak(AtomicUsize::new(0));
        page.set_ref_count(1);
        let finder = thread::spawn(move || {
            if page.get_unless_zero() {
                assert!(matches!(contents.read(), 0 | 5));
                put(page, contents, nr_freed);
            }
        });
        if page.freeze(1) {
            contents.write(4);
            contents.write(5);
            page.unfreeze(1);
        }
        put(page, contents, nr_freed);
        finder.join().unwrap();
        assert_eq!(nr_freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn who_looks_during_a_split_gets_a_whole_folio_or_none() {
    loom::model(|| {
        let map = map(2);
        map.prep_compound_page(Pfn::ZERO, Order::new(1).unwrap());
        map.page(Pfn::ZERO).set_ref_count(1);
        let folio = map.folio(Pfn::ZERO).unwrap();
        assert!(folio.try_lock());
        let finder = thread::spawn(move || match map.try_get_folio(Pfn::new(1)) {
            Ok(found) => {
                // With a reference it stays what it is.
                let (pfn, order) = (found.pfn(), found.order());
                assert!(found.range().contains(Pfn::new(1)));
                assert_eq!(pfn == Pfn::ZERO, order > Order::ZERO, "half a folio");
                assert_eq!(map.folio(Pfn::new(1)), Some(found));
                assert_eq!((found.pfn(), found.order()), (pfn, order));
                assert!(!found.put_and_test(), "the splitter has one too");
            }
            Err(Lost::Moved(last)) => assert!(last.is_none(), "the splitter has one too"),
            Err(_) => {}
        });
        let is_split = folio.split(&map, Order::ZERO, 0).is_ok();
        finder.join().unwrap();
        for pfn in [0, 1].map(Pfn::new) {
            assert_eq!(map.is_tail(pfn), !is_split && pfn != Pfn::ZERO);
            assert_eq!(map.page_count(pfn), 1);
        }
    });
}
