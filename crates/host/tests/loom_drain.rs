//! One CPU asks another to empty its stock, in every order that loom finds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-host --test loom_drain`.
#![cfg(loom)]
#![allow(missing_docs, reason = "a test")]

use loom::sync::atomic;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../src/drain.rs"]
#[allow(
    unreachable_pub,
    missing_docs,
    reason = "a module of the crate, here by itself"
)]
mod drain;

use drain::DrainRequest;

/// A stock, and the free lists, with plain loads and stores as the real ones have.
struct Cpu {
    request: DrainRequest,
    stock: AtomicUsize,
    home: AtomicUsize,
}

impl Cpu {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            request: DrainRequest::new(AtomicU32::new(0), AtomicU32::new(0)),
            stock: AtomicUsize::new(1),
            home: AtomicUsize::new(0),
        })
    }

    fn empty(&self) {
        let home = self.home.load(Relaxed) + self.stock.load(Relaxed);
        self.stock.store(0, Relaxed);
        self.home.store(home, Relaxed);
    }

    fn keep(&self) {
        self.stock.store(self.stock.load(Relaxed) + 1, Relaxed);
    }

    /// The slow step of the owner.
    fn step(&self) {
        if let Some(ticket) = self.request.pending() {
            self.empty();
            self.keep();
            self.request.serve(ticket);
        }
    }

    /// The same, when nothing comes back meanwhile.
    fn step_that_keeps_nothing(&self) {
        if let Some(ticket) = self.request.pending() {
            self.empty();
            self.request.serve(ticket);
        }
    }

    /// The same in a wrong order.
    fn step_that_serves_first(&self) {
        if let Some(ticket) = self.request.pending() {
            self.request.serve(ticket);
            self.empty();
        }
    }

    /// Asks once; where that was served, what the owner had is on the free lists.
    fn ask(&self) {
        let had = self.stock.load(Relaxed) + self.home.load(Relaxed);
        self.request.ask();
        // It may do something else before it looks again.
        thread::yield_now();
        if self.request.is_served() {
            assert!(
                self.home.load(Relaxed) >= had.min(1),
                "served, but not empty"
            );
        }
    }
}

#[test]
fn what_was_in_stock_is_home_when_it_is_served() {
    loom::model(|| {
        let cpu = Cpu::new();
        let owner = Arc::clone(&cpu);
        let owner = thread::spawn(move || {
            owner.step();
            owner.step();
        });
        cpu.ask();
        owner.join().unwrap();
        // Nobody asks in vain: the next step serves what is left.
        cpu.step();
        assert!(cpu.request.is_served());
    });
}

#[test]
fn two_who_ask_are_both_served() {
    loom::model(|| {
        let cpu = Cpu::new();
        let (owner, second) = (Arc::clone(&cpu), Arc::clone(&cpu));
        let owner = thread::spawn(move || owner.step());
        let second = thread::spawn(move || second.ask());
        cpu.ask();
        owner.join().unwrap();
        second.join().unwrap();
        cpu.step();
        assert!(cpu.request.is_served());
    });
}

#[test]
#[should_panic(expected = "served, but not empty")]
fn an_owner_that_serves_first_is_found_out() {
    loom::model(|| {
        let cpu = Cpu::new();
        let owner = Arc::clone(&cpu);
        let owner = thread::spawn(move || owner.step_that_serves_first());
        cpu.ask();
        owner.join().unwrap();
    });
}

/// A CPU that another interrupts, between any two words that it reads or writes: what runs on it holds `running`.
struct Interrupted {
    running: Mutex<()>,
    mark: AtomicBool,
    cpu: Arc<Cpu>,
}

impl Interrupted {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            running: Mutex::new(()),
            mark: AtomicBool::new(false),
            cpu: Cpu::new(),
        })
    }

    fn step<R>(&self, f: impl FnOnce(&Self) -> R) -> R {
        let _running = self.running.lock().unwrap();
        f(self)
    }

    /// The fast path of the owner: whether it got a page of the stock.
    fn take(&self) -> bool {
        let stock = &self.cpu.stock;
        if self.step(|me| me.mark.load(Relaxed)) {
            return false;
        }
        self.step(|me| me.mark.store(true, Relaxed));
        let had = self.step(|_| stock.load(Relaxed));
        if had > 0 {
            self.step(|_| stock.store(had - 1, Relaxed));
        }
        self.step(|me| me.mark.store(false, Relaxed));
        had > 0
    }

    /// The interrupt that makes it look, from its first instruction to its last.
    fn interrupt(&self, heeds_mark: bool) {
        self.step(|me| {
            if !heeds_mark || !me.mark.load(Relaxed) {
                me.cpu.step_that_keeps_nothing();
            }
        });
    }

    /// One CPU asks, interrupts this one, and waits for an answer, if it gets one; this one is at it.
    fn is_asked(heeds_mark: bool) {
        let owner = Self::new();
        let asking = Arc::clone(&owner);
        let other = thread::spawn(move || {
            asking.cpu.request.ask();
            asking.interrupt(heeds_mark);
            // What it was served with is there to be seen: the page, unless the owner has it.
            let is_served = asking.cpu.request.is_served();
            is_served.then(|| asking.cpu.home.load(Relaxed))
        });
        let taken = usize::from(owner.take());
        let served = other.join().unwrap();
        if let Some(home) = served {
            assert_eq!(home + taken, 1, "a page is lost");
        }
        // An interrupt that found the mark has left the request for the next slow step.
        owner.cpu.step_that_keeps_nothing();
        assert!(owner.cpu.request.is_served());
        let left = owner.cpu.stock.load(Relaxed) + owner.cpu.home.load(Relaxed);
        assert_eq!(left + taken, 1, "a page is lost");
    }
}

#[test]
fn an_interrupt_leaves_a_stock_alone_that_is_in_use() {
    loom::model(|| Interrupted::is_asked(true));
}

#[test]
#[should_panic(expected = "a page is lost")]
fn an_interrupt_that_does_not_heed_the_mark_is_found_out() {
    loom::model(|| Interrupted::is_asked(false));
}
