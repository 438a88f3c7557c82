//! The kernel's lock: a spin lock that keeps interrupts off on this CPU while it is held.
//!
//! A per-CPU depth counter remembers how many such locks are held, and whether interrupts were on when the first was taken; only the last
//! release may turn them on again. Guards are `!Send`, so the release happens on the CPU of the acquire.
//!
//! Who waits for such a lock cannot be interrupted, and the holder may be waiting for this CPU to flush its TLB: so the wait looks for
//! such requests, and answers them ([`smp::poll`]).
#![expect(unsafe_code, reason = "implements lock_api::RawMutex")]

use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::{interrupts, timer};
use crate::smp;

/// Nobody is waited for so often ...
const DEADLOCK_SPINS: u64 = 1 << 25;
/// ... and for so long. A CPU of a virtual machine may stand still for a while.
const DEADLOCK_NS: u64 = 10_000_000_000;

/// Counts the turns of a wait that ends in microseconds, unless something is wrong.
#[derive(Debug, Default)]
pub struct Patience {
    nr_spins: u64,
    since_ns: u64,
}

impl Patience {
    /// One more turn, in which requests of other CPUs are answered. `false` when it is time to give up.
    pub fn spin(&mut self) -> bool {
        hint::spin_loop();
        smp::poll();
        if self.nr_spins == 0 {
            self.since_ns = timer::now_ns();
        }
        self.nr_spins += 1;
        // Before the clocks are measured, turns alone count.
        self.nr_spins % DEADLOCK_SPINS != 0
            || self.since_ns != 0 && timer::now_ns() - self.since_ns < DEADLOCK_NS
    }
}

/// A spin lock with interrupts off.
pub struct RawIrqSpinLock {
    locked: AtomicBool,
}

/// A value behind a [`RawIrqSpinLock`].
pub type IrqSpinLock<T> = lock_api::Mutex<RawIrqSpinLock, T>;

impl RawIrqSpinLock {
    /// Takes the lock when others give it up; interrupts are off.
    #[cold]
    #[inline(never)]
    fn wait(&self) {
        let mut patience = Patience::default();
        loop {
            while self.locked.load(Ordering::Relaxed) {
                assert!(patience.spin(), "deadlock: a spin lock is never released");
            }
            if !self.locked.swap(true, Ordering::Acquire) {
                return;
            }
        }
    }
}

// SAFETY: `lock` and `try_lock` return only after they themselves turned `locked` from false to true (acquire), and `unlock` stores
// false (release): no two holders at a time.
unsafe impl lock_api::RawMutex for RawIrqSpinLock {
    const INIT: Self = Self {
        locked: AtomicBool::new(false),
    };
    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        interrupts::push_off();
        if self.locked.swap(true, Ordering::Acquire) {
            self.wait();
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

    #[inline]
    unsafe fn unlock(&self) {
        self.locked.store(false, Ordering::Release);
        interrupts::pop_off();
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }
}
