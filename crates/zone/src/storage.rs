//! Pagesets laid into memory that the host hands over.
#![expect(
    unsafe_code,
    reason = "pagesets are laid into memory that the host hands over"
)]

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::Pcp;

/// How much memory `count` pagesets want, or `None` when that is more than an address space holds.
#[must_use]
pub fn pcps_layout(count: usize) -> Option<Layout> {
    Layout::array::<Pcp>(count).ok()
}

/// Lays `count` empty pagesets into `storage`, as boot code does with memory from memblock.
///
/// # Safety
/// 1. `storage` is valid for writes of [`pcps_layout`]`(count)` and aligned to it.
/// 2. Nobody else uses that memory from now on, ever.
#[must_use]
pub unsafe fn pcps_in(storage: NonNull<u8>, count: usize) -> &'static [Pcp] {
    let first = storage.cast::<Pcp>();
    for i in 0..count {
        // SAFETY: obligation 1: `i` is within the array whose layout was promised.
        let slot = unsafe { first.add(i) };
        // SAFETY: obligations 1 and 2: the slot is valid, aligned, and ours alone.
        unsafe { slot.write(Pcp::new()) };
    }
    // SAFETY: every element was written just now; obligation 2 gives the memory away for ever.
    unsafe { core::slice::from_raw_parts(first.as_ptr(), count) }
}
