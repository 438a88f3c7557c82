//! The kernel's lock: a spin lock that keeps interrupts off on this CPU while it is held.
//!
//! A per-CPU depth counter remembers how many such locks are held, and whether interrupts were on when the first was taken; only the last
//! release may turn them on again. Guards are `!Send`, so the release happens on the CPU of the acquire.
#![expect(unsafe_code, reason = "implements lock_api::RawMutex")]

use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::interrupts;

/// Nobody holds such a lock for the seconds that this takes.
const DEADLOCK_SPINS: u64 = 1 << 25;

/// A spin lock with interrupts off.
pub struct RawIrqSpinLock {
    locked: AtomicBool,
}

/// A value behind a [`RawIrqSpinLock`].
pub type IrqSpinLock<T> = lock_api::Mutex<RawIrqSpinLock, T>;

// SAFETY: `lock` and `try_lock` return only after they themselves turned `locked` from false to true (acquire), and `unlock` stores
// false (release): no two holders at a time.
unsafe impl lock_api::RawMutex for RawIrqSpinLock {
    const INIT: Self = Self {
        locked: AtomicBool::new(false),
    };
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        interrupts::push_off();
        let mut nr_spins = 0_u64;
        while self.locked.swap(true, Ordering::Acquire) {
            while self.locked.load(Ordering::Relaxed) {
                hint::spin_loop();
                nr_spins += 1;
                assert!(
                    nr_spins < DEADLOCK_SPINS,
                    "deadlock: a spin lock is never released"
                );
            }
        }
    }

    fn try_lock(&self) -> bool {
        interrupts::push_off();
        if self.locked.swap(true, Ordering::Acquire) {
            interrupts::pop_off();
            return false;
        }
        true
    }

    unsafe fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
        interrupts::pop_off();
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }
}
