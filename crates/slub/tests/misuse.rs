//! Callers that do it wrong: noticed, reported, and without effect.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;

use common::{Rig, bugs, destroy, fill, holds, kfree, rig};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_host::{PageReq, PageSource, PhysMap};
use kmm_slub::{CacheArgs, Kmem, SlubBugKind, SlubError};

/// Frees `ptr`, expects the report, and that nothing else changed.
#[track_caller]
fn refused(rig: &Rig, ptr: NonNull<u8>, kind: SlubBugKind) {
    let before: Vec<_> = rig.slub.cache_infos().collect();
    kfree(rig.slub, ptr);
    assert_eq!(bugs(), [kind]);
    assert!(rig.slub.cache_infos().eq(before));
    rig.slub.validate().unwrap();
}

#[test]
fn an_address_outside_the_permanent_map_is_refused() {
    let rig = rig();
    let mut on_stack = 0_u8;
    refused(
        &rig,
        NonNull::from(&mut on_stack),
        SlubBugKind::OutsideDirectMap,
    );
    refused(&rig, NonNull::dangling(), SlubBugKind::OutsideDirectMap);
    assert_eq!(rig.slub.ksize(NonNull::from(&mut on_stack)), 0);
    assert_eq!(bugs(), [SlubBugKind::OutsideDirectMap]);
    rig.assert_clean();
}

#[test]
fn a_page_that_is_no_slab_is_refused() {
    let rig = rig();
    let block = rig.source.alloc(PageReq::page(Gfp::KERNEL)).unwrap();
    let ptr = rig.machine.phys().direct(block.pfn()).unwrap();
    refused(&rig, ptr, SlubBugKind::NotAllocated);
    // SAFETY: a pointer that slub must refuse, and does.
    let moved = unsafe { rig.slub.krealloc(Some(ptr), 100, Gfp::KERNEL) };
    assert_eq!(moved, Err(SlubError::InvalidLayout));
    assert_eq!(bugs(), [SlubBugKind::NotAllocated]);
    rig.source.free(block);
    rig.assert_clean();
}

#[test]
fn the_middle_of_an_object_is_refused() {
    let rig = rig();
    for size in [8, 96, 1024, 8192] {
        let ptr = rig.slub.kmalloc(size, Gfp::KERNEL).unwrap();
        for offset in [1, 4, size / 2, size - 1] {
            // SAFETY: within the object.
            refused(&rig, unsafe { ptr.add(offset) }, SlubBugKind::Misaligned);
        }
        kfree(rig.slub, ptr);
    }
    rig.assert_clean();
}

#[test]
fn the_waste_at_the_end_of_a_slab_is_refused() {
    let rig = rig();
    let objects: Vec<_> = (0..42)
        .map(|_| rig.slub.kmalloc(96, Gfp::KERNEL).unwrap())
        .collect();
    let last = *objects.iter().max().unwrap();
    // SAFETY: within the slab.
    refused(&rig, unsafe { last.add(96) }, SlubBugKind::Misaligned);
    objects.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    rig.assert_clean();
}

#[test]
fn the_middle_of_a_large_allocation_is_refused() {
    let rig = rig();
    let ptr = rig.slub.kmalloc(5 * PAGE_SIZE, Gfp::KERNEL).unwrap();
    // SAFETY: within the slab.
    refused(&rig, unsafe { ptr.add(64) }, SlubBugKind::Misaligned);
    refused(
        &rig,
        // SAFETY: within the region, of which the machine lets no byte go.
        unsafe { ptr.add(PAGE_SIZE) },
        SlubBugKind::NotAllocated,
    );
    kfree(rig.slub, ptr);
    refused(&rig, ptr, SlubBugKind::NotAllocated);
    rig.assert_clean();
}

#[test]
fn a_double_free_is_refused_however_deep_the_object_lies() {
    let rig = rig();
    let objects: Vec<_> = (0..40)
        .map(|_| rig.slub.kmalloc(64, Gfp::KERNEL).unwrap())
        .collect();
    for &ptr in &objects[..30] {
        kfree(rig.slub, ptr);
        refused(&rig, ptr, SlubBugKind::DoubleFree);
    }
    for &ptr in &objects[..30] {
        refused(&rig, ptr, SlubBugKind::DoubleFree);
    }
    objects[30..].iter().for_each(|&ptr| kfree(rig.slub, ptr));
    refused(&rig, objects[0], SlubBugKind::DoubleFree);
    rig.slub.shrink_all();
    refused(&rig, objects[0], SlubBugKind::NotAllocated);
    rig.assert_clean();
}

/// Bytes that look as if the object were free prove nothing.
#[test]
fn an_object_with_the_bytes_of_a_free_one_can_be_freed() {
    let rig = rig();
    let other = rig.slub.kmalloc(64, Gfp::KERNEL).unwrap();
    let ptr = rig.slub.kmalloc(64, Gfp::KERNEL).unwrap();
    kfree(rig.slub, ptr);
    // SAFETY: 64 bytes that no CPU but this one uses; that they are free is the mistake to be played.
    let as_free = unsafe { ptr.cast::<[u8; 64]>().read() };
    assert_eq!(rig.slub.kmalloc(64, Gfp::KERNEL), Ok(ptr));
    // SAFETY: as above.
    unsafe { ptr.cast::<[u8; 64]>().write(as_free) };
    kfree(rig.slub, ptr);
    kfree(rig.slub, other);
    rig.assert_clean();
}

/// An object that nobody wrote to still has what the free list left in it.
#[test]
fn an_untouched_object_can_be_freed() {
    let rig = rig();
    for _ in 0..3 {
        let objects: Vec<_> = (0..200)
            .map(|_| rig.slub.kmalloc(32, Gfp::KERNEL).unwrap())
            .collect();
        objects.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    }
    rig.assert_clean();
}

#[test]
fn the_wrong_cache_refuses() {
    let rig = rig();
    let make = |name| rig.slub.cache_create(&CacheArgs::new(name, 100)).unwrap();
    let (ours, theirs) = (make("ours"), make("theirs"));
    let object = rig.slub.alloc(ours, Gfp::KERNEL).unwrap();
    // SAFETY: the wrong cache, which slub must refuse.
    unsafe { rig.slub.free(theirs, object) };
    assert_eq!(bugs(), [SlubBugKind::WrongCache]);
    let large = rig.slub.kmalloc(20_000, Gfp::KERNEL).unwrap();
    // SAFETY: as above.
    unsafe { rig.slub.free(theirs, large) };
    assert_eq!(bugs(), [SlubBugKind::WrongCache]);
    assert_eq!(rig.active("ours"), 1);
    kfree(rig.slub, large);
    // kfree finds the cache by itself.
    kfree(rig.slub, object);
    destroy(rig.slub, theirs).unwrap();
    let object = rig.slub.alloc(ours, Gfp::KERNEL).unwrap();
    // SAFETY: as above: one that is gone.
    unsafe { rig.slub.free(theirs, object) };
    assert_eq!(bugs(), [SlubBugKind::WrongCache], "of a cache that is gone");
    // SAFETY: the right one; nobody uses the object.
    unsafe { rig.slub.free(ours, object) };
    rig.assert_clean();
}

/// A write to a free object costs the free objects of that slab, and nothing else.
#[test]
fn a_written_free_list_is_not_followed() {
    // Rubbish, zeros, the number of an object in use, the end of a list.
    for word in [0x4141_4141_4141_4141, 0, 7, 0xffff, u64::MAX] {
        write_after_free(word);
    }
}

fn write_after_free(word: u64) {
    let rig = rig();
    let mut live: Vec<_> = (0..64)
        .map(|_| rig.slub.kmalloc(64, Gfp::KERNEL).unwrap())
        .collect();
    for (id, &ptr) in live.iter().enumerate() {
        fill(ptr, 64, id as u64);
    }
    let freed: Vec<_> = live.drain(54..).collect();
    freed.iter().for_each(|&ptr| kfree(rig.slub, ptr));
    // Use after free: of the object third in line.
    // SAFETY: memory of the region: that it is free is the mistake to be played.
    unsafe { freed[7].cast::<u64>().write(word) };
    assert!(rig.slub.validate().is_err(), "an audit sees it");
    let more: Vec<_> = (0..20)
        .map(|_| rig.slub.kmalloc(64, Gfp::KERNEL).unwrap())
        .collect();
    assert_eq!(bugs(), [SlubBugKind::CorruptFreelist]);
    rig.slub.validate().unwrap();
    for ptr in &more {
        assert!(!live.contains(ptr));
        fill(*ptr, 64, 99);
    }
    for (id, &ptr) in live.iter().enumerate() {
        assert!(holds(ptr, 64, id as u64));
        kfree(rig.slub, ptr);
    }
    more.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    rig.slub.shrink_all();
    rig.slub.validate().unwrap();
    assert_eq!(bugs(), []);
    assert_eq!(rig.outstanding(), 1, "the slab itself is given up");
    assert_eq!(rig.active("kmalloc-64"), 8, "two were handed out before it");
}

/// The count knows it, though the list does not.
#[test]
fn a_double_free_of_a_written_object_is_refused() {
    let rig = rig();
    let ptr = rig.slub.kmalloc(64, Gfp::KERNEL).unwrap();
    kfree(rig.slub, ptr);
    // SAFETY: as above: the object is free.
    unsafe { ptr.cast::<u64>().write(0) };
    kfree(rig.slub, ptr);
    assert_eq!(bugs(), [SlubBugKind::DoubleFree]);
    assert_eq!(rig.active("kmalloc-64"), 0);
}

#[test]
fn a_double_free_into_a_spoilt_list_is_refused() {
    let rig = rig();
    let live: Vec<_> = (0..10)
        .map(|_| rig.slub.kmalloc(64, Gfp::KERNEL).unwrap())
        .collect();
    for &ptr in &live[..5] {
        kfree(rig.slub, ptr);
    }
    // SAFETY: of a live object of this test.
    unsafe { live[2].cast::<u64>().write(7) };
    kfree(rig.slub, live[0]);
    assert_eq!(bugs(), [SlubBugKind::DoubleFree]);
}

#[test]
fn destroying_a_cache_in_use_reports_the_leak() {
    let rig = rig();
    let cache = rig
        .slub
        .cache_create(&CacheArgs::new("leaky", 200))
        .unwrap();
    let objects = [(); 3].map(|()| rig.slub.alloc(cache, Gfp::KERNEL).unwrap());
    assert_eq!(destroy(rig.slub, cache), Err(SlubError::Busy(3)));
    assert_eq!(bugs(), [SlubBugKind::Leaked(3)]);
    for object in objects {
        // SAFETY: of this cache, and nobody uses it.
        unsafe { rig.slub.free(cache, object) };
    }
    assert_eq!(destroy(rig.slub, cache), Ok(()));
    assert_eq!(
        rig.slub.alloc(cache, Gfp::KERNEL),
        Err(SlubError::NoSuchCache)
    );
    assert_eq!(destroy(rig.slub, cache), Err(SlubError::NoSuchCache));
    rig.assert_clean();
}
