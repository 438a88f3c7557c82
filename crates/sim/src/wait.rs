//! Threads that sleep.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Condvar, Mutex, PoisonError};

use kmm_host::WaitQueue;

/// After so long in vain, nobody is going to wake the sleeper.
const PATIENCE: Duration = Duration::from_secs(60);

/// A queue of threads that really sleep, and that panic when nobody wakes them for a minute.
#[derive(Debug, Default)]
pub struct SimWaitQueue {
    lock: Mutex<()>,
    woken: Condvar,
    nr_sleeps: AtomicUsize,
}

impl SimWaitQueue {
    /// A queue in which nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lock: Mutex::new(()),
            woken: Condvar::new(),
            nr_sleeps: AtomicUsize::new(0),
        }
    }

    /// How often a thread went to sleep here.
    #[must_use]
    pub fn nr_sleeps(&self) -> usize {
        self.nr_sleeps.load(Ordering::Relaxed)
    }
}

impl WaitQueue for SimWaitQueue {
    fn wait_until(&self, is_done: &mut dyn FnMut() -> bool) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !is_done() {
            self.nr_sleeps.fetch_add(1, Ordering::Relaxed);
            let waited = self.woken.wait_timeout(guard, PATIENCE);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            assert!(
                !timeout.timed_out(),
                "nobody woke a sleeper for {PATIENCE:?}"
            );
            guard = again;
        }
    }

    fn wake_all(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.woken.notify_all();
    }
}
