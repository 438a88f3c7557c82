//! Batches that CPUs hand to each other by way of the depot, while one sends the other's stock home, in every order that loom
//! finds (INV-2, INV-18).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-slub --test loom_depot`.
#![cfg(loom)]
#![allow(missing_docs, dead_code, reason = "a test")]
#![allow(unsafe_code, reason = "a test makes blocks of its own")]

use core::ptr::{self, NonNull};
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../src/block.rs"]
mod block;
#[path = "../src/depot.rs"]
mod depot;

use block::{BLOCK_BYTES, BlockBox};
use depot::{Depot, Stock};

const OBJECTS: usize = 4;
/// In the depot or in stock.
const NOBODY: usize = usize::MAX;

/// One cache on two CPUs whose arrays hold nothing: each object is a batch.
struct Cache {
    stocks: [Mutex<Stock>; 2],
    depot: Mutex<Depot>,
    /// Who has an object.
    owner: [AtomicUsize; OBJECTS],
}

fn block() -> BlockBox {
    #[repr(align(64))]
    struct Memory([u8; BLOCK_BYTES]);
    let memory = Box::leak(Box::new(Memory([0; BLOCK_BYTES])));
    // SAFETY: as large, leaked, and nobody else's.
    unsafe { BlockBox::new(NonNull::from(memory).cast()) }
}

fn nr_of(object: *mut u8) -> usize {
    object.addr() / 64 - 1
}

impl Cache {
    /// The objects are their numbers' owners', and each CPU has `spares` empty blocks.
    fn new(owners: [usize; OBJECTS], spares: usize) -> Arc<Self> {
        let stock = || {
            let mut stock = Stock::new();
            stock.set_most(1);
            (0..spares).for_each(|_| stock.add_spare(block()));
            Mutex::new(stock)
        };
        Arc::new(Self {
            stocks: [stock(), stock()],
            depot: Mutex::new(Depot::new()),
            owner: owners.map(AtomicUsize::new),
        })
    }

    /// As `ObjectCaches::stow`; whether there was a block.
    fn stow(&self, cpu: usize, nr: usize) -> bool {
        let mut stock = self.stocks[cpu].lock().unwrap();
        let fill = |place: &mut [*mut u8]| {
            let owner = self.owner[nr].swap(NOBODY, SeqCst);
            assert_eq!(owner, cpu, "somebody else's");
            place[0] = ptr::without_provenance_mut((nr + 1) * 64);
            1
        };
        let is_too_much = stock.is_full_with(1);
        if is_too_much || !stock.has_spare() {
            let mut depot = self.depot.lock().unwrap();
            if !stock.has_spare() {
                stock.get_spares(&mut depot);
            }
            if !stock.has_spare() {
                return false;
            }
            stock.put(1, fill);
            if is_too_much {
                stock.give_half(&mut depot);
            }
        } else {
            stock.put(1, fill);
        }
        true
    }

    /// As `ObjectCaches::refill`: a batch, if there is one.
    fn refill(&self, cpu: usize) -> Option<usize> {
        let mut got = None;
        let mut sink = |objects: &[*mut u8]| {
            assert_eq!(objects.len(), 1);
            got = Some(nr_of(objects[0]));
        };
        let mut stock = self.stocks[cpu].lock().unwrap();
        if !stock.take(&mut sink) {
            let mut depot = self.depot.lock().unwrap();
            if stock.get_bundle(&mut depot) {
                assert!(stock.take(&mut sink));
            }
        }
        if let Some(nr) = got {
            let owner = self.owner[nr].swap(cpu, SeqCst);
            assert_eq!(owner, NOBODY, "handed out twice");
        }
        got
    }

    /// As `ObjectCaches::empty_stock`, by whom it may be.
    fn empty(&self, cpu: usize, by: usize) -> Vec<usize> {
        let mut got = Vec::new();
        let mut stock = self.stocks[cpu].lock().unwrap();
        while stock.take(|objects| got.extend(objects.iter().map(|object| nr_of(*object)))) {}
        drop(stock);
        for &nr in &got {
            let owner = self.owner[nr].swap(by, SeqCst);
            assert_eq!(owner, NOBODY, "taken twice");
        }
        got
    }

    /// All objects are somebody's, or in one place; so many.
    fn check(&self) -> usize {
        let mut found = Vec::new();
        for stock in &self.stocks {
            let stock = stock.lock().unwrap();
            let before = found.len();
            stock.for_each(|object| found.push(nr_of(object.as_ptr())));
            assert_eq!(found.len() - before, stock.nr_objects());
        }
        let mut depot = self.depot.lock().unwrap();
        let before = found.len();
        depot.for_each(|object| found.push(nr_of(object.as_ptr())));
        assert_eq!(found.len() - before, depot.nr_objects());
        while depot.take_one().is_some() {}
        assert_eq!(depot.nr_objects(), 0);
        let nr = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), nr, "in two places");
        for (object, owner) in self.owner.iter().enumerate() {
            assert_eq!(owner.load(SeqCst) == NOBODY, found.contains(&object));
        }
        nr
    }
}

/// One frees more than it may keep while the other looks for some.
#[test]
fn a_bundle_goes_from_one_cpu_to_the_other() {
    loom::model(|| {
        let cache = Cache::new([0; OBJECTS], 4);
        let other = Arc::clone(&cache);
        let other = thread::spawn(move || {
            let got = [other.refill(1), other.refill(1)];
            got.into_iter().flatten().count()
        });
        for nr in 0..3 {
            assert!(cache.stow(0, nr));
        }
        let nr_got = other.join().unwrap();
        assert_eq!(cache.check(), 3 - nr_got);
    });
}

/// Both free and refill: blocks run short, and come back by the depot.
#[test]
fn blocks_are_nobodys_twice() {
    loom::model(|| {
        let cache = Cache::new([0, 0, 1, 1], 1);
        let other = Arc::clone(&cache);
        let other = thread::spawn(move || {
            let nr_put = [2, 3].into_iter().filter(|&nr| other.stow(1, nr)).count();
            nr_put as isize - isize::from(other.refill(1).is_some())
        });
        let nr_put = [0, 1].into_iter().filter(|&nr| cache.stow(0, nr)).count();
        let nr_here = nr_put as isize - isize::from(cache.refill(0).is_some());
        let nr_there = other.join().unwrap();
        assert_eq!(cache.check() as isize, nr_here + nr_there);
    });
}

/// A third one sends a stock home while its CPU uses it.
#[test]
fn a_stock_is_sent_home_under_the_hands_of_its_cpu() {
    loom::model(|| {
        let cache = Cache::new([0; OBJECTS], 4);
        assert!(cache.stow(0, 0));
        let other = Arc::clone(&cache);
        let other = thread::spawn(move || other.empty(0, 1).len());
        assert!(cache.stow(0, 1));
        let nr_got = usize::from(cache.refill(0).is_some());
        let nr_home = other.join().unwrap();
        assert_eq!(cache.check(), 2 - nr_got - nr_home);
    });
}
