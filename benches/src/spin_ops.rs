//! The host's part of `ax-sync`'s spin lock, which `buddy-slab-allocator` takes: test and set, as `spin::Mutex` does.

use core::panic::Location;
use core::sync::atomic::{AtomicBool, Ordering};

use ax_sync::interface::{AcquireResult, ContextState, LockMetadata};

struct HostLock;

#[ax_crate_interface::impl_interface]
impl ax_sync::interface::SpinOps for HostLock {
    fn acquire(
        lock: &AtomicBool,
        _metadata: &LockMetadata,
        _address: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> ContextState {
        while !take(lock) {
            while lock.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
        }
        ContextState::new(0, 0)
    }

    fn try_acquire(
        lock: &AtomicBool,
        _metadata: &LockMetadata,
        _address: usize,
        _context: u8,
        _subclass: u32,
        _caller: &'static Location<'static>,
    ) -> AcquireResult {
        AcquireResult::new(take(lock), ContextState::new(0, 0))
    }

    fn release(lock: &AtomicBool, _address: usize, _context: u8, _state: ContextState) {
        lock.store(false, Ordering::Release);
    }

    fn force_release(lock: &AtomicBool, _address: usize, _context: u8) {
        lock.store(false, Ordering::Release);
    }

    fn is_locked(lock: &AtomicBool) -> bool {
        lock.load(Ordering::Acquire)
    }
}

#[inline(always)]
fn take(lock: &AtomicBool) -> bool {
    lock.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}
