//! A piece of host memory as the physical memory of a small machine.
#![allow(
    unsafe_code,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by tests, each of which uses a part"
)]

use core::alloc::Layout;
use core::sync::atomic::{AtomicBool, Ordering};

use kmm_frame::{Order, PAGE_SIZE, Pfn, VirtAddr};
use kmm_host::{DirectMap, PageBlock};
use lock_api::{GuardSend, RawMutex};

/// Frames `0..nr_pages`, filled with 0xA5, for ever.
pub fn ram(nr_pages: usize) -> DirectMap {
    let layout = Layout::from_size_align(nr_pages * PAGE_SIZE, 1 << 21).unwrap();
    // SAFETY: the layout has a size.
    let memory = unsafe { std::alloc::alloc(layout) };
    assert!(!memory.is_null());
    // SAFETY: the allocation is as long as that.
    unsafe { memory.write_bytes(0xA5, layout.size()) };
    let page_offset = VirtAddr::new(memory.expose_provenance() as u64);
    // SAFETY: 1. the memory is never freed; 2. it is aligned and not null.
    unsafe { DirectMap::new(page_offset, Pfn::new(nr_pages)) }
}

/// A block that the test promises to use once.
pub fn block(pfn: usize, order: u8) -> PageBlock {
    // SAFETY: each test has its own memory and claims each frame once.
    unsafe { PageBlock::from_raw(Pfn::new(pfn), Order::new(order).unwrap()) }
}

pub struct SpinLock(AtomicBool);

// SAFETY: one holder at a time: only the one that turned the flag from false to true.
unsafe impl RawMutex for SpinLock {
    #[allow(clippy::declare_interior_mutable_const, reason = "as lock_api asks")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            core::hint::spin_loop();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}
