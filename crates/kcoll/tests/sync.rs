//! The shim hands out the same interface with and without loom.
//!
//! With loom: `RUSTFLAGS="--cfg loom" cargo test -p kmm-kcoll --test sync`.
#![expect(unsafe_code, reason = "reads and writes through a cell's pointer")]

use std::sync::Arc;

use kmm_kcoll::sync::atomic::{AtomicBool, Ordering};
use kmm_kcoll::sync::cell::UnsafeCell;
use kmm_kcoll::sync::hint;

struct Mailbox {
    full: AtomicBool,
    letter: UnsafeCell<u32>,
}

// SAFETY: `letter` is written before `full` is set (release) and read after it was seen set (acquire).
unsafe impl Sync for Mailbox {}

fn pass_a_letter(spawn: impl FnOnce(Box<dyn FnOnce() + Send>), wait: impl Fn()) {
    let sender = Arc::new(Mailbox {
        full: AtomicBool::new(false),
        letter: UnsafeCell::new(0),
    });
    let receiver = Arc::clone(&sender);
    spawn(Box::new(move || {
        // SAFETY: nobody reads before `full` is set.
        sender.letter.with_mut(|letter| unsafe { *letter = 7 });
        sender.full.store(true, Ordering::Release);
    }));
    while !receiver.full.load(Ordering::Acquire) {
        hint::spin_loop();
        wait();
    }
    // SAFETY: `full` was seen set: the writer is done.
    assert_eq!(receiver.letter.with(|letter| unsafe { *letter }), 7);
}

#[cfg(not(loom))]
#[test]
fn shim_passes_a_letter_between_threads() {
    pass_a_letter(|f| drop(std::thread::spawn(f)), std::thread::yield_now);
}

#[cfg(not(loom))]
#[test]
fn shim_costs_nothing_without_loom() {
    use kmm_kcoll::sync::atomic::AtomicU32;
    static IN_A_STATIC: AtomicU32 = AtomicU32::new(3);
    assert_eq!(IN_A_STATIC.load(Ordering::Relaxed), 3);
    assert_eq!(size_of::<AtomicU32>(), 4);
    assert_eq!(size_of::<UnsafeCell<u32>>(), 4);
    assert_eq!(UnsafeCell::new(5).into_inner(), 5);
}

#[cfg(loom)]
#[test]
fn shim_is_watched_by_loom() {
    loom::model(|| pass_a_letter(|f| drop(loom::thread::spawn(f)), loom::thread::yield_now));
}
