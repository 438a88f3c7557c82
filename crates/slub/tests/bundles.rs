//! What CPUs have behind their arrays: whose it is, how it gets from one to another, and that any CPU may send it home.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::ptr::NonNull;
use std::collections::BTreeSet;

use common::{Rig, destroy, fast_config, smp_rig};
use kmm_frame::Gfp;
use kmm_slub::{CacheArgs, CacheStats, KmemCache, SlubConfig};

const SIZE: usize = 256;
/// Half of a CPU's array of objects of that size.
const BATCH: usize = 60;

/// Two CPUs, each of which may have four batches in stock; with the depot sixteen.
fn rig() -> (Rig, KmemCache) {
    let rig = smp_rig(
        2,
        SlubConfig {
            depot_bytes: Some(16 * BATCH * SIZE),
            ..fast_config()
        },
    );
    let args = CacheArgs::new("bundled", SIZE);
    let cache = rig.slub.cache_create(&args).unwrap();
    (rig, cache)
}

fn take(rig: &Rig, cache: KmemCache, cpu: u32, nr: usize) -> Vec<NonNull<u8>> {
    let one = || rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
    rig.on(cpu, || (0..nr).map(|_| one()).collect())
}

fn free(rig: &Rig, cache: KmemCache, cpu: u32, objects: &[NonNull<u8>]) {
    // SAFETY: tests free what they took from this cache, once.
    let one = |object: &NonNull<u8>| unsafe { rig.slub.free(cache, *object) };
    rig.on(cpu, || objects.iter().for_each(one));
}

fn stats(rig: &Rig, cache: KmemCache) -> CacheStats {
    rig.slub.cache_stats(cache).unwrap()
}

fn slabs(rig: &Rig) -> usize {
    let mut infos = rig.slub.cache_infos();
    infos.find(|info| info.name == "bundled").unwrap().num_slabs
}

#[test]
fn what_a_cpu_may_keep_stays_with_it() {
    let (rig, cache) = rig();
    // Its array and its stock hold six batches.
    let objects = take(&rig, cache, 0, 5 * BATCH);
    free(&rig, cache, 0, &objects);
    let mine: BTreeSet<_> = objects.into_iter().collect();
    let others = take(&rig, cache, 1, 3 * BATCH);
    assert!(!others.iter().any(|object| mine.contains(object)));
    let slabs_before = stats(&rig, cache).alloc_slab;
    let again = take(&rig, cache, 0, 5 * BATCH);
    assert!(again.iter().all(|object| mine.contains(object)));
    assert_eq!(stats(&rig, cache).alloc_slab, slabs_before);
    rig.slub.validate().unwrap();
    free(&rig, cache, 0, &again);
    free(&rig, cache, 1, &others);
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

/// One CPU allocates, the other frees: what the one has too much of serves the other, and no slab is needed in the long run.
#[test]
fn one_cpu_lives_on_what_the_other_frees() {
    let (rig, cache) = rig();
    for _ in 0..10 {
        free(&rig, cache, 1, &take(&rig, cache, 0, 2 * BATCH));
    }
    let before = stats(&rig, cache);
    for _ in 0..20 {
        free(&rig, cache, 1, &take(&rig, cache, 0, 2 * BATCH));
        rig.slub.validate().unwrap();
    }
    let after = stats(&rig, cache);
    assert_eq!(after.alloc_slab, before.alloc_slab);
    assert_eq!(after.free_slab, 0);
    assert_eq!(after.alloc_from_depot - before.alloc_from_depot, 40);
    assert_eq!(after.free_to_depot - before.free_to_depot, 40);
    // Blocks go back the way the objects came: there are no more of them than batches at any time.
    assert!(
        rig.active("kmem_cache_depot") <= 10,
        "{}",
        rig.active("kmem_cache_depot")
    );
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

/// Neither needs to be asked for it, nor to run.
#[test]
fn any_cpu_sends_the_stock_of_all_home() {
    let (rig, cache) = rig();
    let objects = take(&rig, cache, 1, 6 * BATCH);
    free(&rig, cache, 1, &objects);
    let before = slabs(&rig);
    rig.slub.shrink(cache).unwrap();
    // What is left is in the array of the other CPU: two batches at most.
    assert!(
        slabs(&rig) * 16 < 4 * BATCH,
        "{} of {before} slabs",
        slabs(&rig)
    );
    rig.slub.validate().unwrap();
    destroy(rig.slub, cache).unwrap();
    assert_eq!(rig.active("kmem_cache_depot"), 0);
    rig.assert_clean();
}

#[test]
fn stock_and_depot_are_bounded_and_the_rest_goes_home() {
    let (rig, cache) = rig();
    let objects = take(&rig, cache, 0, 40 * BATCH);
    free(&rig, cache, 0, &objects);
    let now = stats(&rig, cache);
    // Sixteen batches in depot and stock, two in the array.
    assert_eq!(now.free_to_depot, 16, "{now:?}");
    assert_eq!(now.free_flush, 38, "{now:?}");
    let nr_objects = slabs(&rig) * 16;
    assert!(nr_objects < (16 + 2 + 6) * BATCH, "{nr_objects} in slabs");
    rig.slub.validate().unwrap();
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}
