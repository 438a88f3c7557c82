//! Handles and pointers that are none.

use core::ptr::NonNull;

use kmm_frame::{Gfp, NodeId, PAGE_SIZE};
use kmm_host::{PageReq, PageSource, PhysMap};
use kmm_slub::{CacheArgs, Kmem, SlubBugKind, SlubError};

use crate::back_ends::{BackEnd, rig_with, rigs};
use crate::common::{bugs, config, fill, holds};

pub(crate) fn handles_of_caches_that_are_gone_are_refused<B: BackEnd>() {
    for rig in rigs::<B>() {
        let make = || rig.kmem.cache_create(&CacheArgs::new("x", 48)).unwrap();
        let old = make();
        rig.destroy(old).unwrap();
        let new = make();
        assert_ne!(old, new);
        let gone = Err(SlubError::NoSuchCache);
        assert_eq!(rig.kmem.alloc(old, Gfp::KERNEL), gone);
        assert_eq!(rig.kmem.alloc_node(old, Gfp::KERNEL, NodeId::new(0)), gone);
        assert_eq!(rig.kmem.shrink(old), Err(SlubError::NoSuchCache));
        assert_eq!(rig.destroy(old), Err(SlubError::NoSuchCache));
        let object = rig.kmem.alloc(new, Gfp::KERNEL).unwrap();
        rig.free(new, object);
        rig.destroy(new).unwrap();
        rig.assert_clean();
    }
}

pub(crate) fn wrong_pointers_are_refused<B: BackEnd>() {
    let rig = rig_with::<B>(config());
    let refused = |ptr: NonNull<u8>, kind: SlubBugKind| {
        let before = rig.kmem.nr_pages();
        rig.kfree(ptr);
        assert_eq!(bugs(), [kind]);
        assert_eq!(rig.kmem.nr_pages(), before);
        rig.kmem.validate().unwrap();
    };
    let mut on_stack = 0_u8;
    refused(NonNull::from(&mut on_stack), SlubBugKind::OutsideDirectMap);
    assert_eq!(rig.kmem.ksize(NonNull::from(&mut on_stack)), 0);
    assert_eq!(bugs(), [SlubBugKind::OutsideDirectMap]);

    let block = rig.source.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    let page = rig.machine.phys().direct(block.pfn()).unwrap();
    refused(page, SlubBugKind::NotAllocated);
    // SAFETY: a pointer that must be refused.
    let moved = unsafe { rig.kmem.krealloc(Some(page), 100, Gfp::KERNEL) };
    assert_eq!(moved, Err(SlubError::InvalidLayout));
    assert_eq!(bugs(), [SlubBugKind::NotAllocated]);
    rig.source.free(block);

    for size in [8, 96, 1024, 1500, 50_000] {
        // So that its page stays.
        let other = rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
        let ptr = rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
        fill(ptr, size, 9);
        for offset in [1, 4, size / 2, size - 1] {
            // SAFETY: within the object.
            let middle = unsafe { ptr.add(offset) };
            let kind = if offset >= PAGE_SIZE && size > 8192 {
                SlubBugKind::NotAllocated
            } else {
                SlubBugKind::Misaligned
            };
            refused(middle, kind);
        }
        assert!(holds(ptr, size, 9));
        rig.kfree(ptr);
        let kind = if size > 8192 {
            SlubBugKind::NotAllocated
        } else {
            SlubBugKind::DoubleFree
        };
        refused(ptr, kind);
        rig.kfree(other);
    }

    let make = |name| rig.kmem.cache_create(&CacheArgs::new(name, 100)).unwrap();
    let (ours, theirs) = (make("ours"), make("theirs"));
    for size in [100, 30_000] {
        let kmalloced = rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
        rig.free(theirs, kmalloced);
        assert_eq!(bugs(), [SlubBugKind::WrongCache]);
        rig.kfree(kmalloced);
    }
    let (object, other) = (
        rig.kmem.alloc(ours, Gfp::KERNEL).unwrap(),
        rig.kmem.alloc(ours, Gfp::KERNEL).unwrap(),
    );
    rig.free(theirs, object);
    assert_eq!(bugs(), [SlubBugKind::WrongCache]);
    rig.free(ours, object);
    rig.free(ours, object);
    assert_eq!(bugs(), [SlubBugKind::DoubleFree]);
    rig.free(ours, other);
    rig.destroy(ours).unwrap();
    rig.destroy(theirs).unwrap();
    rig.assert_clean();
}
