//! Self-tests of what is told of slabs, and of mappings that are refused.
#![expect(unsafe_code, reason = "frees what it allocated")]

use core::sync::atomic::Ordering;

use kmm::frame::{Gfp, PhysAddr};
use kmm::host::PhysMap as _;
use kmm::pagetable_walker::{FrameOwner, MapError, PteFlags, TableCounter};
use kmm::slub::CacheArgs;
use kmm::vmalloc::VmallocError;

use super::boot::{self, SlabCount};
use super::tests::new_space;
use super::{manager, phys};
use crate::boot::image;
use crate::ensure;
use crate::selftest::{Failure, Outcome};

/// F33: general caches and those with a name alike.
pub(super) fn a_hook_sees_new_slabs() -> Outcome {
    let counts = || {
        let SlabCount { general, specific } = &boot::SLABS;
        [general, specific].map(|count| count.load(Ordering::Relaxed))
    };
    let slub = manager().slub();
    let before = counts();
    ensure!(before[0] > 0, "the heap has no slab");
    let cache = slub
        .cache_create(&CacheArgs::new("selftest_hook", 3000))
        .map_err(Failure::of)?;
    let specific = slub.alloc(cache, Gfp::KERNEL).map_err(Failure::of)?;
    let general = slub.kmalloc(1 << 20, Gfp::KERNEL).map_err(Failure::of)?;
    let after = counts();
    // SAFETY: it came from there, and nobody uses it.
    unsafe { slub.kfree(general) };
    // SAFETY: the same.
    unsafe { slub.free(cache, specific) };
    // SAFETY: nobody else has the cache.
    unsafe { slub.cache_destroy(cache) }.map_err(Failure::of)?;
    ensure!(
        after[0] > before[0] && after[1] > before[1],
        "{before:?} {after:?}"
    );
    Ok(())
}

/// F33: slabs, page tables and the image, by `vmap` and in a program's tables.
pub(super) fn no_second_mapping() -> Outcome {
    let slub = manager().slub();
    let guard = manager().map_guard();
    let was_on = guard.is_on();
    let space = new_space()?;
    let small = slub.kmalloc(100, Gfp::KERNEL).map_err(Failure::of)?;
    let large = slub.kmalloc(64 << 10, Gfp::KERNEL).map_err(Failure::of)?;
    let frame = |object| phys().virt_to_pfn(object).ok_or("no frame");
    let image = image::frame_of(image::whole().start).ok_or("no image")?;
    let owned = [
        (frame(small)?, FrameOwner::Slab),
        (frame(large)? + 5, FrameOwner::Slab),
        (space.root(), FrameOwner::PageTable),
        (PhysAddr::new(image).pfn(), FrameOwner::KernelImage),
    ];
    guard.turn_on();
    let results = owned.map(|(pfn, _)| {
        let counter = TableCounter::new();
        let vmapped = manager()
            .vmalloc()
            .vmap(&[pfn], PteFlags::RW | PteFlags::NX);
        let mapper = manager().mapper(&counter);
        (vmapped, mapper.may_map([pfn]))
    });
    if !was_on {
        guard.turn_off();
    }
    // SAFETY: they came from there, and nobody uses them.
    unsafe { slub.kfree(small) };
    // SAFETY: the same.
    unsafe { slub.kfree(large) };
    for ((pfn, owner), (vmapped, mapped)) in owned.into_iter().zip(results) {
        ensure!(
            vmapped == Err(VmallocError::Owned(owner)) && mapped == Err(MapError::Owned(owner)),
            "{pfn} of {owner}: {vmapped:?}, {mapped:?}"
        );
    }
    Ok(())
}
