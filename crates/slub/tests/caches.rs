//! Named caches: layout, constructors, empty slabs, the end of a cache.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::BTreeSet;

use common::{SimSlub, destroy, fill, holds, is_zero, rig};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_sim::seeded;
use kmm_slub::{CacheArgs, CacheFlags, CacheInfo, KmemCache, NR_KMALLOC_CACHES, SlubError};

fn info(slub: &SimSlub, name: &str) -> CacheInfo {
    slub.cache_infos().find(|info| info.name == name).unwrap()
}

fn free(slub: &SimSlub, cache: KmemCache, object: NonNull<u8>) {
    // SAFETY: tests free what they allocated.
    unsafe { slub.free(cache, object) };
}

#[test]
fn objects_of_any_layout_lie_apart_and_aligned() {
    seeded(0x1a70, |rng| {
        let rig = rig();
        for _ in 0..300 {
            let size = match rng.below(4) {
                0 => rng.range(1..40_000) as usize,
                _ => rng.range(1..600) as usize,
            };
            let align = 1_usize << rng.below(13);
            let ctor = rng.one_in(3).then_some(nothing as unsafe fn(NonNull<u8>));
            let flags = if rng.one_in(3) {
                CacheFlags::HWCACHE_ALIGN
            } else {
                CacheFlags::empty()
            };
            let cache = rig
                .slub
                .cache_create(&CacheArgs {
                    ctor,
                    ..CacheArgs::new("any", size).align(align).flags(flags)
                })
                .unwrap();
            let mut objects = BTreeSet::new();
            for id in 0..20 {
                let object = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
                assert_eq!(object.addr().get() % align.max(8), 0);
                fill(object, size, id);
                objects.insert((object, id));
            }
            for pair in objects.iter().zip(objects.iter().skip(1)) {
                let ((low, _), (high, _)) = pair;
                assert!(low.addr().get() + size <= high.addr().get());
            }
            rig.slub.validate().unwrap();
            for (object, id) in objects {
                assert!(holds(object, size, id));
                free(rig.slub, cache, object);
            }
            destroy(rig.slub, cache).unwrap();
        }
        rig.assert_clean();
    });
}

unsafe fn nothing(_object: NonNull<u8>) {}

#[test]
fn cache_lines_are_respected_when_asked_for() {
    let rig = rig();
    for (size, align) in [(1, 8), (9, 16), (17, 32), (33, 64), (64, 64), (100, 64)] {
        let cache = rig
            .slub
            .cache_create(&CacheArgs::new("line", size).flags(CacheFlags::HWCACHE_ALIGN))
            .unwrap();
        assert_eq!(info(rig.slub, "line").align, align, "{size} bytes");
        destroy(rig.slub, cache).unwrap();
    }
}

static NR_CONSTRUCTED: AtomicUsize = AtomicUsize::new(0);

unsafe fn construct(object: NonNull<u8>) {
    NR_CONSTRUCTED.fetch_add(1, Ordering::Relaxed);
    fill(object, 60, 0xc0de);
}

#[test]
fn constructed_state_survives_being_free() {
    let rig = rig();
    let cache = rig
        .slub
        .cache_create(&CacheArgs::new("built", 60).ctor(construct))
        .unwrap();
    assert_eq!(NR_CONSTRUCTED.load(Ordering::Relaxed), 0, "no slab yet");
    for _ in 0..5 {
        let objects: Vec<_> = (0..150)
            .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
            .collect();
        for object in objects {
            assert!(holds(object, 60, 0xc0de));
            free(rig.slub, cache, object);
        }
    }
    let taken = info(rig.slub, "built").slabs_taken as usize;
    let per_slab = info(rig.slub, "built").objperslab;
    assert_eq!(NR_CONSTRUCTED.load(Ordering::Relaxed), taken * per_slab);
    assert_eq!(
        rig.slub.alloc(cache, Gfp::KERNEL | Gfp::ZERO),
        Err(SlubError::Constructed)
    );
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

#[test]
fn zeroed_objects_are_zero_though_they_were_used() {
    let rig = rig();
    let cache = rig
        .slub
        .cache_create(&CacheArgs::new("zeroed", 77).align(1))
        .unwrap();
    for _ in 0..3 {
        let object = rig.slub.alloc(cache, Gfp::KERNEL | Gfp::ZERO).unwrap();
        assert!(is_zero(object, 77));
        fill(object, 77, 5);
        free(rig.slub, cache, object);
    }
}

/// The walk-through of a cache's life, seen in its figures.
#[test]
fn slabs_come_when_needed_and_go_when_empty() {
    let rig = rig();
    let cache = rig.slub.cache_create(&CacheArgs::new("task", 512)).unwrap();
    let start = rig.outstanding();
    assert_eq!(
        info(rig.slub, "task").num_slabs,
        0,
        "created without a page"
    );

    let objects: Vec<_> = (0..80)
        .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
        .collect();
    let full = info(rig.slub, "task");
    assert_eq!((full.active_objs, full.num_objs), (80, 80));
    assert_eq!((full.active_slabs, full.num_slabs), (10, 10));
    assert_eq!(full.slabs_taken, 10);
    assert_eq!(rig.outstanding() - start, 10);

    // Freed and taken again: the object just freed, from no new slab.
    free(rig.slub, cache, objects[40]);
    assert_eq!(rig.slub.alloc(cache, Gfp::KERNEL), Ok(objects[40]));
    assert_eq!(info(rig.slub, "task").slabs_taken, 10);

    for &object in &objects {
        free(rig.slub, cache, object);
        assert!(info(rig.slub, "task").num_slabs - info(rig.slub, "task").active_slabs <= 2);
    }
    assert_eq!(info(rig.slub, "task").num_slabs, 2, "a few are kept");
    assert_eq!(rig.slub.shrink(cache), Ok(2));
    assert_eq!(info(rig.slub, "task").slabs_returned, 10);
    assert_eq!(rig.outstanding(), start);
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

/// Objects are taken from slabs in use as long as these have some.
#[test]
fn partial_slabs_are_filled_before_others_are_touched() {
    let rig = rig();
    let cache = rig.slub.cache_create(&CacheArgs::new("fill", 256)).unwrap();
    let objects: Vec<_> = (0..160)
        .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
        .collect();
    // One object left in each slab, then as many more as fit.
    let page = |object: NonNull<u8>| object.addr().get() / PAGE_SIZE;
    let mut kept = BTreeSet::new();
    for &object in &objects {
        if !kept.insert(page(object)) {
            free(rig.slub, cache, object);
        }
    }
    for _ in kept.len()..160 {
        let object = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        assert!(kept.contains(&page(object)));
    }
    assert_eq!(info(rig.slub, "fill").slabs_taken, 10);
}

/// An empty slab stays empty while a partial one can serve, and so can go back.
#[test]
fn empty_slabs_are_the_last_resort() {
    let rig = rig();
    let cache = rig.slub.cache_create(&CacheArgs::new("last", 512)).unwrap();
    let objects: Vec<_> = (0..24)
        .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
        .collect();
    objects[1..17]
        .iter()
        .for_each(|&object| free(rig.slub, cache, object));
    assert_eq!(info(rig.slub, "last").active_slabs, 2);
    for _ in 0..8 {
        rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        assert_eq!(info(rig.slub, "last").active_slabs, 2);
    }
    rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
    assert_eq!(info(rig.slub, "last").active_slabs, 3);
    assert_eq!(info(rig.slub, "last").slabs_taken, 3);
}

#[test]
fn a_slot_is_used_again_but_its_old_handle_is_not() {
    let rig = rig();
    let make = || rig.slub.cache_create(&CacheArgs::new("x", 8));
    let mut caches = Vec::new();
    while let Ok(cache) = make() {
        caches.push(cache);
    }
    assert_eq!(caches.len(), 128 - NR_KMALLOC_CACHES);
    assert_eq!(make(), Err(SlubError::NoSlot));
    let old = caches[7];
    destroy(rig.slub, old).unwrap();
    let new = make().unwrap();
    assert_ne!(old, new);
    assert_eq!(
        rig.slub.alloc(old, Gfp::KERNEL),
        Err(SlubError::NoSuchCache)
    );
    assert_eq!(rig.slub.shrink(old), Err(SlubError::NoSuchCache));
    let object = rig.slub.alloc(new, Gfp::KERNEL).unwrap();
    free(rig.slub, new, object);
    rig.assert_clean();
}

#[test]
fn layouts_that_make_no_sense_are_refused() {
    let rig = rig();
    let make = |size, align| {
        rig.slub
            .cache_create(&CacheArgs::new("bad", size).align(align))
            .unwrap_err()
    };
    assert_eq!(make(0, 8), SlubError::InvalidLayout);
    assert_eq!(make(8, 0), SlubError::InvalidLayout);
    assert_eq!(make(8, 24), SlubError::InvalidLayout);
    assert_eq!(make(8, 2 * PAGE_SIZE), SlubError::InvalidLayout);
    assert_eq!(make((4 << 20) + 1, 8), SlubError::TooLarge);
    assert_eq!(make(usize::MAX, 8), SlubError::TooLarge);
}
