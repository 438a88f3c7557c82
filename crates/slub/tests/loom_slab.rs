//! Objects that come back to a slab from other CPUs while one takes from it, in every order that loom finds (INV-3).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p kmm-slub --test loom_slab`.
#![cfg(loom)]
#![allow(missing_docs, dead_code, reason = "a test")]

use kmm_kcoll::sync::atomic;
use loom::sync::atomic::{
    AtomicU16, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../src/slab/state.rs"]
mod state;

use state::{NIL, SlabState};

const OBJECTS: usize = 4;

/// A slab on which all objects are in use, and the lists of its cache: where the slab is, by the lock's word.
struct Slab {
    word: AtomicU64,
    /// What is behind each free object.
    next: [AtomicU16; OBJECTS],
    /// Who has an object; 0 for nobody.
    owner: [AtomicU16; OBJECTS],
    list: Mutex<List>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    Full,
    Partial,
    Empty,
    /// Given back to the page source: whoever touches it now is lost.
    Gone,
}

impl Slab {
    fn full() -> Arc<Self> {
        let fresh = SlabState::fresh(OBJECTS as u16, 0, 0).word();
        // No free object, all in use.
        let word = fresh & !0xffff_ffff | (OBJECTS as u64) << 16 | u64::from(NIL);
        Arc::new(Self {
            word: AtomicU64::new(word),
            next: [(); OBJECTS].map(|()| AtomicU16::new(NIL)),
            owner: [(); OBJECTS].map(|()| AtomicU16::new(1)),
            list: Mutex::new(List::Full),
        })
    }

    fn link(&self, index: u16, next: u16) {
        assert_ne!(index, next, "an object behind itself");
        self.next[usize::from(index)].store(next, Relaxed);
    }

    fn follow(&self, index: u16) -> Result<u16, ()> {
        Ok(self.next[usize::from(index)].load(Relaxed))
    }

    /// Gives an object back as the allocator does: without the lock if that will do.
    fn give(&self, index: u16, me: u16) {
        let owner = self.owner[usize::from(index)].swap(0, SeqCst);
        assert_eq!(owner, me, "somebody else's");
        let link = |next| self.link(index, next);
        if state::push(&self.word, index, false, link).is_some() {
            // Whatever happens to the slab now is none of our business.
            return;
        }
        let mut list = self.list.lock().unwrap();
        assert_ne!(*list, List::Gone, "a slab was given back under our hands");
        let pushed = state::push(&self.word, index, true, |next| self.link(index, next));
        let after = pushed.expect("the lock is held").after;
        *list = if after.in_use() == 0 {
            // No other slab is empty, say: this one goes at once.
            List::Gone
        } else {
            List::Partial
        };
    }

    /// Takes objects if the slab is on a list that has some; how many.
    fn take(&self, most: u16, me: u16) -> Vec<u16> {
        let mut list = self.list.lock().unwrap();
        if !matches!(*list, List::Partial | List::Empty) {
            return Vec::new();
        }
        let taken = state::take(&self.word, most, |index| self.follow(index));
        let Ok(Some(taken)) = taken else {
            return Vec::new();
        };
        let (mut at, mut got) = (taken.first, Vec::new());
        for _ in 0..taken.count {
            let before = self.owner[usize::from(at)].swap(me, SeqCst);
            assert_eq!(before, 0, "handed out twice");
            got.push(at);
            at = self.next[usize::from(at)].load(Relaxed);
        }
        if taken.after.is_full() {
            *list = List::Full;
        }
        got
    }

    /// Every object is somebody's or free, once.
    fn check(&self) {
        let word = SlabState::from_word(self.word.load(SeqCst));
        let (mut at, mut nr_free) = (word.first(), 0);
        while at != NIL {
            assert_eq!(self.owner[usize::from(at)].load(SeqCst), 0);
            at = self.next[usize::from(at)].load(Relaxed);
            nr_free += 1;
            assert!(nr_free <= OBJECTS, "a ring");
        }
        assert_eq!(nr_free, OBJECTS - usize::from(word.in_use()));
    }
}

#[test]
fn two_give_while_one_takes() {
    loom::model(|| {
        let slab = Slab::full();
        let (one, other) = (Arc::clone(&slab), Arc::clone(&slab));
        slab.give(3, 1);
        let one = thread::spawn(move || one.give(0, 1));
        let other = thread::spawn(move || other.give(1, 1));
        let got = slab.take(2, 2);
        assert!(!got.is_empty());
        one.join().unwrap();
        other.join().unwrap();
        slab.check();
        let in_use = SlabState::from_word(slab.word.load(SeqCst)).in_use();
        assert_eq!(usize::from(in_use), 1 + got.len());
        assert_eq!(*slab.list.lock().unwrap(), List::Partial);
    });
}

/// What was taken comes back in between: the first free object is the same, but not what is behind it.
#[test]
fn an_object_that_comes_back_does_not_mislead_who_takes() {
    loom::model(|| {
        let slab = Slab::full();
        slab.give(3, 1);
        slab.give(2, 1);
        let other = Arc::clone(&slab);
        let other = thread::spawn(move || {
            for index in other.take(1, 2) {
                other.give(index, 2);
            }
            other.give(0, 1);
        });
        let got = slab.take(2, 3);
        for index in got {
            slab.give(index, 3);
        }
        other.join().unwrap();
        slab.check();
    });
}

/// The last objects of a slab come back at once: it goes when the last one is in, and not before.
#[test]
fn a_slab_goes_with_its_last_object() {
    loom::model(|| {
        let slab = Slab::full();
        slab.give(3, 1);
        slab.give(2, 1);
        let (one, other) = (Arc::clone(&slab), Arc::clone(&slab));
        let one = thread::spawn(move || one.give(0, 1));
        let other = thread::spawn(move || other.give(1, 1));
        one.join().unwrap();
        other.join().unwrap();
        slab.check();
        assert_eq!(*slab.list.lock().unwrap(), List::Gone);
    });
}

/// Two who free into a full slab: one of them moves it to the list, and both objects are there.
#[test]
fn a_full_slab_becomes_partial_once() {
    loom::model(|| {
        let slab = Slab::full();
        let other = Arc::clone(&slab);
        let other = thread::spawn(move || other.give(0, 1));
        slab.give(1, 1);
        other.join().unwrap();
        slab.check();
        assert_eq!(*slab.list.lock().unwrap(), List::Partial);
    });
}
