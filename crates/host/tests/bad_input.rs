//! Arguments that no caller should have: an answer or the panic that is documented.
#![allow(
    clippy::cast_possible_truncation,
    missing_docs,
    unsafe_code,
    reason = "names of tests say what they prove; maps of memory that is not there are made, and not used; numbers are of 64 bits"
)]

mod common;

use core::panic::AssertUnwindSafe;
use core::ptr::NonNull;
use std::panic::catch_unwind;

use common::SpinLock;
use kmm_frame::memblock::Memblock;
use kmm_frame::{Gfp, MAX_ORDER, Order, Pfn, PhysAddr, VirtAddr};
use kmm_host::{AllocError, DirectMap, MemblockSource, PageBlock, PageReq, PageSource, PhysMap};

#[test]
fn the_permanent_map_ends_with_the_address_space() {
    let base = 0xffff_8880_0000_0000;
    // SAFETY: nothing is reached through it.
    let map = unsafe { DirectMap::new(VirtAddr::new(base), Pfn::new(usize::MAX)) };
    let last = Pfn::new(((u64::MAX - base) >> 12) as usize);
    let at = map.direct(last).unwrap();
    assert_eq!(at.addr().get() as u64, u64::MAX - 0xfff);
    assert_eq!(map.virt_to_pfn(at), Some(last));
    // Frames whose addresses would come out at the beginning again.
    for beyond in [last + 1, Pfn::new(1 << 52), Pfn::new(usize::MAX)] {
        assert_eq!(map.direct(beyond), None, "{beyond}");
    }
    for outside in [1, 0x1000, base as usize - 1] {
        let outside = NonNull::new(core::ptr::without_provenance_mut(outside)).unwrap();
        assert_eq!(map.virt_to_pfn(outside), None);
    }
    let wrapped = map.virt(PhysAddr::new(u64::MAX)).as_u64();
    assert_eq!(wrapped, base - 1);
    assert_eq!(map.phys(VirtAddr::new(wrapped)), None);
}

#[test]
fn blocks_that_memblock_never_gave_are_refused_loudly_and_change_nothing() {
    let mut memory = Memblock::<4>::with_room();
    memory.add(PhysAddr::new(1 << 20), 8 << 20).unwrap();
    let bounds = PhysAddr::ZERO..PhysAddr::new(u64::MAX);
    // SAFETY: nothing is reached through it, as no page is to be zero.
    let phys = unsafe { DirectMap::new(VirtAddr::new(0x1000), Pfn::new(1 << 20)) };
    // SAFETY: as above; nobody uses the frames.
    let source = unsafe { MemblockSource::<SpinLock, _, 4>::new(&mut memory, phys, bounds) };
    let mine = source.alloc(PageReq::new(MAX_ORDER, Gfp::KERNEL)).unwrap();
    for (pfn, order) in [
        (0, Order::ZERO),
        (0x100, MAX_ORDER),
        (1 << 40, Order::ZERO),
        (usize::MAX, Order::ZERO),
    ] {
        // SAFETY: forged, and refused.
        let forged = unsafe { PageBlock::from_raw(Pfn::new(pfn), order) };
        let freed = catch_unwind(AssertUnwindSafe(|| source.free(forged)));
        assert!(freed.is_err(), "{pfn:#x}");
    }
    source.free(mine);
    let mut count = 0;
    while let Ok(block) = source.alloc(PageReq::new(MAX_ORDER, Gfp::KERNEL)) {
        count += 1;
        let _ = block.into_raw();
    }
    assert_eq!(
        count, 1,
        "of 8 MiB from 1 MiB on, one block of 4 MiB is aligned"
    );
    let failed = source.alloc(PageReq::new(MAX_ORDER, Gfp::NOFAIL | Gfp::KERNEL));
    assert_eq!(failed, Err(AllocError::OutOfMemory));
}
