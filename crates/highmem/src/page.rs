//! What is done with whole pages, wherever they lie.
#![expect(unsafe_code, reason = "frames are named by number")]

use kmm_frame::Pfn;
use kmm_host::PhysMap;

/// Fills a frame with zeros. Linux: `clear_highpage`.
///
/// On a 64-bit machine ([`kmm_host::DirectMap`]) this is a shift, an add, and a jump to `memset`.
///
/// # Context
/// Does not sleep. A window is open meanwhile if the frame lies outside the permanent map.
///
/// # Safety
/// 1. The frame is RAM.
/// 2. Nobody else touches its bytes until this returns.
pub unsafe fn clear_highpage<P: PhysMap>(phys: &P, pfn: Pfn) {
    // SAFETY: the caller's obligations are the same.
    unsafe { phys.with_pfn(pfn, |mut page| page.clear()) }
}

/// Copies a frame. Linux: `copy_highpage`.
///
/// # Context
/// Does not sleep. Up to two windows are open meanwhile, one within the other.
///
/// # Safety
/// 1. Both frames are RAM, and they are not the same.
/// 2. Nobody else writes `from` or touches `to` until this returns.
pub unsafe fn copy_highpage<P: PhysMap>(phys: &P, to: Pfn, from: Pfn) {
    debug_assert_ne!(to, from, "copied onto itself");
    let copy = |from: kmm_host::PagePtr<'_>| {
        // SAFETY: RAM, and not the page that is open already, by obligation 1; nobody else's by 2.
        unsafe { phys.with_pfn(to, |mut to| to.copy_from(&from)) }
    };
    // SAFETY: RAM by obligation 1, and left alone by 2.
    unsafe { phys.with_pfn(from, copy) }
}
