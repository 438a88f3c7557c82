//! A lock that notices deadlocks.
#![expect(unsafe_code, reason = "implements RawMutex")]

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use lock_api::{GuardNoSend, RawMutex};

const FREE: u64 = 0;
/// After so long in vain, two threads wait for each other.
const PATIENCE: Duration = Duration::from_secs(60);

/// A spin lock that panics when its own thread locks it again, or when it waits for a minute.
#[derive(Debug)]
pub struct SimLock {
    /// The thread that has it.
    owner: AtomicU64,
}

/// A number for this thread, not 0.
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(FREE + 1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

// SAFETY: `owner` goes from free to a thread by one compare-exchange, and back by that thread's unlock.
unsafe impl RawMutex for SimLock {
    const INIT: Self = Self {
        owner: AtomicU64::new(FREE),
    };

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let me = this_thread();
        assert_ne!(
            self.owner.load(Ordering::Relaxed),
            me,
            "deadlock: the thread that has the lock locks it again"
        );
        let start = Instant::now();
        while !self.try_lock() {
            assert!(
                start.elapsed() < PATIENCE,
                "deadlock: no lock for {PATIENCE:?}"
            );
            thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        let me = this_thread();
        self.owner
            .compare_exchange(FREE, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    unsafe fn unlock(&self) {
        let owner = self.owner.swap(FREE, Ordering::Release);
        assert_eq!(
            owner,
            this_thread(),
            "a lock is released by a thread that does not have it"
        );
    }

    fn is_locked(&self) -> bool {
        self.owner.load(Ordering::Relaxed) != FREE
    }
}
