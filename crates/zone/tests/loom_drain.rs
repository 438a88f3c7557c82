//! One CPU asks another to empty its stock, in every order that loom finds (INV-11).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-zone --test loom_drain`.
#![cfg(loom)]
#![allow(missing_docs, reason = "a test")]

use kmm_kcoll::sync::atomic;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use loom::thread;

#[path = "../src/pcp/drain.rs"]
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
