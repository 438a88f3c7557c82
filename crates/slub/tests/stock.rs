//! What CPUs and depots keep: when it comes, when it goes, and that it is nobody's meanwhile.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use std::collections::BTreeSet;

use common::{Rig, bugs, destroy, fast_config, fast_rig, fill, holds, kfree, slub_with, smp_rig};
use kmm_frame::Gfp;
use kmm_host::CpuId;
use kmm_sim::{Config, FailNth, FreeListSource, Machine};
use kmm_slub::{CacheArgs, CacheFlags, CacheInfo, CacheStats, KmemCache, SlubConfig, SlubError};

fn info(rig: &Rig, name: &str) -> CacheInfo {
    let mut infos = rig.slub.cache_infos();
    infos.find(|info| info.name == name).unwrap()
}

fn stats(rig: &Rig, cache: KmemCache) -> CacheStats {
    rig.slub.cache_stats(cache).unwrap()
}

fn create(rig: &Rig, name: &'static str, size: usize) -> KmemCache {
    rig.slub.cache_create(&CacheArgs::new(name, size)).unwrap()
}

fn take(rig: &Rig, cache: KmemCache) -> NonNull<u8> {
    rig.slub.alloc(cache, Gfp::KERNEL).unwrap()
}

fn free(rig: &Rig, cache: KmemCache, object: NonNull<u8>) {
    // SAFETY: tests free what they allocated, or what slub must refuse.
    unsafe { rig.slub.free(cache, object) };
}

/// The walk-through of `task_struct`: created without anything, then slab, array, depot, one after the other, as they are needed.
#[test]
fn a_cache_gets_what_it_needs_when_it_needs_it() {
    let rig = smp_rig(2, fast_config());
    let start = rig.outstanding();
    let cache = create(&rig, "task_struct", 512);
    assert_eq!(rig.outstanding(), start, "created without a page");
    assert_eq!(rig.active("kmem_cache_cpu"), 0, "and without arrays");

    // The first object: a slab, then an array for this CPU and no other.
    let first = take(&rig, cache);
    assert_eq!(rig.active("kmem_cache_cpu"), 1);
    let now = stats(&rig, cache);
    assert_eq!((now.alloc_slab, now.alloc_slowpath), (1, 1));
    assert_eq!((now.alloc_refill, now.alloc_fastpath), (0, 0));

    // The second fills the array, the third finds one there. A batch is more than this slab has left.
    let (second, third) = (take(&rig, cache), take(&rig, cache));
    let now = stats(&rig, cache);
    assert_eq!((now.alloc_refill, now.alloc_fastpath), (1, 1));
    assert_eq!((now.alloc_from_partial, now.alloc_from_depot), (1, 0));
    assert_eq!(info(&rig, "task_struct").active_objs, 3);

    // The other CPU has nothing yet.
    let other = rig.on(1, || take(&rig, cache));
    assert_eq!(rig.active("kmem_cache_cpu"), 2);
    assert_eq!(stats(&rig, cache).alloc_slab, 2);

    // What is freed stays with the CPU that frees it; the last in is the first out.
    for object in [first, second, third] {
        free(&rig, cache, object);
    }
    assert_eq!(take(&rig, cache), third);
    assert_ne!(rig.on(1, || take(&rig, cache)), second);
    assert_eq!(stats(&rig, cache).free_fastpath, 3);
    let _ = other;
    rig.slub.validate().unwrap();
}

#[test]
fn a_full_array_leaves_half_in_the_depot_and_an_empty_one_takes_it() {
    let rig = smp_rig(2, fast_config());
    let cache = create(&rig, "depot", 256);
    let objects: Vec<_> = (0..600).map(|_| take(&rig, cache)).collect();
    let full = stats(&rig, cache);
    objects.iter().for_each(|&object| free(&rig, cache, object));
    let back = stats(&rig, cache);
    assert_eq!(back.frees(), 600);
    assert_eq!(back.free_to_depot, back.free_flush);
    assert!(back.free_flush >= 5, "{back:?}");
    assert_eq!(info(&rig, "depot").active_objs, 0);
    assert_eq!(back.free_slab, 0, "slabs do not hear of it");
    // The other CPU is served from what this one has left.
    let again: BTreeSet<_> = rig.on(1, || (0..100).map(|_| take(&rig, cache)).collect());
    assert_eq!(again.len(), 100);
    assert!(
        again
            .iter()
            .filter(|object| objects.contains(object))
            .count()
            > 95
    );
    let now = stats(&rig, cache);
    assert!(now.alloc_from_depot >= 2, "{now:?}");
    assert_eq!(
        now.alloc_slab,
        full.alloc_slab + u64::from(now.alloc_slab > full.alloc_slab)
    );
    rig.slub.validate().unwrap();
    for object in again {
        rig.on(1, || free(&rig, cache, object));
    }
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

#[test]
fn a_depot_has_no_more_than_it_may() {
    let config = SlubConfig {
        depot_bytes: Some(60 * 256),
        ..fast_config()
    };
    let rig = smp_rig(1, config);
    let cache = create(&rig, "small", 256);
    let objects: Vec<_> = (0..800).map(|_| take(&rig, cache)).collect();
    objects.iter().for_each(|&object| free(&rig, cache, object));
    let now = stats(&rig, cache);
    assert_eq!(now.free_to_depot, 1, "one batch fits");
    assert!(now.free_slab > 15, "the rest goes home, and slabs with it");
    rig.slub.validate().unwrap();
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

#[test]
fn what_other_cpus_have_goes_home_when_they_get_to_it() {
    let rig = smp_rig(2, fast_config());
    let objects: Vec<_> = (0..40)
        .map(|_| rig.slub.kmalloc(512, Gfp::KERNEL).unwrap())
        .collect();
    rig.on(1, || objects.iter().for_each(|&ptr| kfree(rig.slub, ptr)));
    rig.slub.shrink_all();
    assert!(!rig.slub.is_drained(CpuId::new(1)));
    assert!(rig.slub.is_drained(CpuId::new(0)));
    assert!(
        info(&rig, "kmalloc-512").num_slabs > 0,
        "the other CPU has them"
    );
    // A slow step of that CPU: a size that it has no stock of.
    let ptr = rig.on(1, || rig.slub.kmalloc(64, Gfp::KERNEL).unwrap());
    assert!(rig.slub.is_drained(CpuId::new(1)));
    rig.slub.shrink_all();
    assert_eq!(info(&rig, "kmalloc-512").num_slabs, 0);
    rig.on(1, || kfree(rig.slub, ptr));
    // Or it is told to.
    rig.slub.request_drain(CpuId::new(1));
    assert!(!rig.slub.is_drained(CpuId::new(1)));
    rig.on(1, || rig.slub.drain_local());
    assert!(rig.slub.is_drained(CpuId::new(1)));
    rig.assert_clean();
}

#[test]
fn a_dead_cpu_leaves_nothing() {
    let rig = smp_rig(2, fast_config());
    rig.on(1, || {
        for size in [8, 64, 1024, 8192] {
            let ptr = rig.slub.kmalloc(size, Gfp::KERNEL).unwrap();
            kfree(rig.slub, ptr);
        }
    });
    assert_eq!(rig.active("kmem_cache_cpu"), 4);
    // SAFETY: nobody plays the CPU any more.
    unsafe { rig.slub.cpu_dead(CpuId::new(1)) };
    assert_eq!(rig.active("kmem_cache_cpu"), 0);
    rig.slub.shrink_all();
    assert_eq!(rig.slub.nr_pages().total(), 0);
    // It may come back.
    let ptr = rig.on(1, || rig.slub.kmalloc(64, Gfp::KERNEL).unwrap());
    rig.on(1, || kfree(rig.slub, ptr));
    rig.assert_clean();
}

#[test]
fn a_cache_ends_with_all_that_cpus_have_of_it() {
    let rig = smp_rig(3, fast_config());
    let cache = create(&rig, "short", 100);
    let objects: Vec<_> = (0..300).map(|_| take(&rig, cache)).collect();
    for (nr, &object) in objects.iter().enumerate().skip(1) {
        rig.on(nr as u32 % 3, || free(&rig, cache, object));
    }
    assert_eq!(destroy(rig.slub, cache), Err(SlubError::Busy(1)));
    assert_eq!(bugs().len(), 1);
    free(&rig, cache, objects[0]);
    destroy(rig.slub, cache).unwrap();
    // A new one in its place has nothing of it.
    let next = create(&rig, "next", 100);
    assert_eq!(stats(&rig, next).allocs(), 0);
    assert_eq!(stats(&rig, next).free_slowpath, 0);
    let object = take(&rig, next);
    free(&rig, next, object);
    destroy(rig.slub, next).unwrap();
    rig.assert_clean();
}

#[test]
fn memory_falls_back_to_where_it_began() {
    let rig = fast_rig();
    let keep: Vec<_> = (0..2000)
        .map(|nr| rig.slub.kmalloc(8 + nr * 7 % 4000, Gfp::KERNEL).unwrap())
        .collect();
    rig.slub.shrink_all();
    let before = rig.outstanding();
    let more: Vec<_> = (0..5000)
        .map(|nr| rig.slub.kmalloc(8 + nr * 11 % 4000, Gfp::KERNEL).unwrap())
        .collect();
    assert!(rig.outstanding() > 2 * before);
    more.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    rig.slub.shrink_all();
    let after = rig.outstanding();
    assert!(after * 20 <= before * 21, "{before} pages, then {after}");
    keep.into_iter().for_each(|ptr| kfree(rig.slub, ptr));
    rig.assert_clean();
}

/// Pages that lie idle as stock are found before a request is refused.
#[test]
fn stock_goes_home_before_a_request_fails() {
    let rig = fast_rig();
    let mut live = Vec::new();
    while let Ok(ptr) = rig.slub.kmalloc(4096, Gfp::KERNEL) {
        live.push(ptr);
    }
    let nr = live.len();
    live.drain(..).for_each(|ptr| kfree(rig.slub, ptr));
    // Everything is there again for a size that has nothing.
    while let Ok(ptr) = rig.slub.kmalloc(1000, Gfp::KERNEL) {
        live.push(ptr);
    }
    assert!(live.len() > 4 * nr * 19 / 20, "{} after {nr}", live.len());
    live.drain(..).for_each(|ptr| kfree(rig.slub, ptr));
    rig.assert_clean();
}

#[test]
fn bulk_is_all_or_nothing() {
    let rig = fast_rig();
    let cache = create(&rig, "bulk", 1000);
    let mut out = vec![None; 500];
    rig.slub.alloc_bulk(cache, Gfp::KERNEL, &mut out).unwrap();
    let distinct: BTreeSet<_> = out.iter().flatten().collect();
    assert_eq!(distinct.len(), 500);
    for (id, object) in out.iter().flatten().enumerate() {
        fill(*object, 1000, id as u64);
    }
    for (id, object) in out.iter().flatten().enumerate() {
        assert!(holds(*object, 1000, id as u64));
    }
    assert_eq!(info(&rig, "bulk").active_objs, 500);
    // SAFETY: they came from this cache, and nobody uses them.
    unsafe { rig.slub.free_bulk(cache, &mut out) };
    assert!(out.iter().all(Option::is_none));
    assert_eq!(info(&rig, "bulk").active_objs, 0);
    assert_eq!(stats(&rig, cache).allocs(), stats(&rig, cache).frees());
    // Pages for a part of it.
    rig.slub.shrink(cache).unwrap();
    rig.source.set_per_mille(300);
    let mut nr_refused = 0;
    for _ in 0..50 {
        let got = rig.slub.alloc_bulk(cache, Gfp::KERNEL, &mut out);
        let nr = out.iter().flatten().count();
        assert_eq!(nr, if got.is_ok() { 500 } else { 0 });
        nr_refused += usize::from(got.is_err());
        // SAFETY: as above.
        unsafe { rig.slub.free_bulk(cache, &mut out) };
        rig.slub.shrink(cache).unwrap();
        assert_eq!(info(&rig, "bulk").active_objs, 0);
    }
    assert!(nr_refused > 10, "{nr_refused} of 50 refused");
    rig.source.set_per_mille(0);
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

#[test]
fn bulk_frees_pass_over_what_is_not_there() {
    let rig = fast_rig();
    let cache = create(&rig, "holes", 64);
    let mut out = vec![None; 100];
    rig.slub.alloc_bulk(cache, Gfp::KERNEL, &mut out).unwrap();
    for nr in (0..100).step_by(3) {
        free(&rig, cache, out[nr].take().unwrap());
    }
    // SAFETY: as above.
    unsafe { rig.slub.free_bulk(cache, &mut out) };
    assert_eq!(info(&rig, "holes").active_objs, 0);
    rig.slub.alloc_bulk(cache, Gfp::KERNEL, &mut []).unwrap();
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

#[test]
fn caches_that_are_alike_share_their_slabs() {
    let config = SlubConfig {
        merges: true,
        ..fast_config()
    };
    let rig = smp_rig(1, config);
    let make = |args: CacheArgs| rig.slub.cache_create(&args).unwrap();
    let one = make(CacheArgs::new("one", 200));
    let two = make(CacheArgs::new("two", 198));
    assert_eq!(one, two, "200 bytes either way");
    let base = make(CacheArgs::new("like kmalloc", 192));
    assert_eq!(info(&rig, "kmalloc-192").num_slabs, 0);
    let object = take(&rig, base);
    assert_eq!(info(&rig, "kmalloc-192").active_objs, 1);
    free(&rig, base, object);
    unsafe fn construct(_: NonNull<u8>) {}
    for args in [
        CacheArgs::new("too large", 224 + 8),
        CacheArgs::new("apart", 200).flags(CacheFlags::NO_MERGE),
        CacheArgs::new("checked", 200).flags(CacheFlags::CHECKED),
        CacheArgs::new("dma", 200).flags(CacheFlags::CACHE_DMA),
        CacheArgs::new("reclaimable", 200).flags(CacheFlags::RECLAIM_ACCOUNT),
        CacheArgs::new("built", 200).ctor(construct),
        CacheArgs::new("aligned", 200).align(64),
    ] {
        let cache = make(args);
        assert_ne!(cache, one, "{}", args.name);
        destroy(rig.slub, cache).unwrap();
    }
    // It lives as long as one of its names.
    let object = take(&rig, two);
    destroy(rig.slub, one).unwrap();
    free(&rig, two, object);
    let object = take(&rig, two);
    assert_eq!(destroy(rig.slub, two), Err(SlubError::Busy(1)));
    assert_eq!(bugs().len(), 1);
    free(&rig, two, object);
    destroy(rig.slub, two).unwrap();
    assert_eq!(
        rig.slub.alloc(two, Gfp::KERNEL),
        Err(SlubError::NoSuchCache)
    );
    destroy(rig.slub, base).unwrap();
    rig.assert_clean();
}

#[test]
fn mistakes_show_when_objects_go_home() {
    let rig = fast_rig();
    let ptr = rig.slub.kmalloc(64, Gfp::KERNEL).unwrap();
    let other = rig.slub.kmalloc(64, Gfp::KERNEL).unwrap();
    // In stock, nobody looks.
    kfree(rig.slub, ptr);
    kfree(rig.slub, ptr);
    // SAFETY: within the object.
    kfree(rig.slub, unsafe { other.add(8) });
    assert_eq!(bugs(), []);
    rig.slub.shrink_all();
    use kmm_slub::SlubBugKind::{DoubleFree, Misaligned};
    assert_eq!(bugs(), [DoubleFree, Misaligned]);
    assert_eq!(rig.active("kmalloc-64"), 1);
    rig.slub.validate().unwrap();
    kfree(rig.slub, other);
    rig.assert_clean();
}

/// Each request for pages that a script makes is the one that fails, in turn: the caller hears of it or does not need it, and
/// everything is where it was.
#[test]
fn whichever_request_for_pages_fails_nothing_is_lost() {
    let mut nr_refused = 0;
    for nth in 0..200 {
        let machine = Machine::new(Config::with_mib(16));
        let source: &'static _ = Box::leak(Box::new(FailNth::new(FreeListSource::new(machine))));
        let slub = slub_with(machine, source, fast_config());
        let cache = slub.cache_create(&CacheArgs::new("nth", 700)).unwrap();
        source.fail_at(nth);
        let mut live = Vec::new();
        let mut refused = 0;
        for nr in 0..120 {
            let got = match nr % 4 {
                0 => slub.alloc(cache, Gfp::KERNEL),
                1 => slub.kmalloc(64, Gfp::KERNEL),
                2 => slub.kmalloc(4096, Gfp::KERNEL),
                _ => slub.kzalloc(9000, Gfp::KERNEL),
            };
            match got {
                Ok(ptr) => live.push(ptr),
                Err(error) => {
                    assert_eq!(error, SlubError::OutOfMemory);
                    refused += 1;
                }
            }
            let infos = slub.cache_infos();
            let users = infos.filter(|info| !info.name.starts_with("kmem_cache"));
            let active: usize = users.map(|info| info.active_objs).sum();
            let nr_large = slub.nr_pages().large / 4;
            assert_eq!(active + nr_large, live.len());
        }
        slub.validate().unwrap();
        // SAFETY: live objects of this test.
        live.into_iter().for_each(|ptr| unsafe { slub.kfree(ptr) });
        // SAFETY: the threads are joined: the test is alone.
        unsafe { slub.cache_destroy(cache) }.unwrap();
        // SAFETY: as above.
        unsafe { slub.drain_all() };
        slub.validate().unwrap();
        source.inner().assert_nothing_outstanding();
        assert_eq!(bugs(), []);
        assert!(refused <= 1);
        nr_refused += refused;
        if source.nr_failed() == 0 {
            break;
        }
    }
    assert!(
        nr_refused > 10,
        "{nr_refused} of the failures were heard of"
    );
}
