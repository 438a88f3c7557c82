//! SLAB: what is free is not written to, slabs differ in colour, large objects have their array elsewhere.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::cell::Cell;
use core::ptr::NonNull;

use common::{Source, bugs, config, fast_config, fill, holds, storage};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_host::PhysMap;
use kmm_sim::{Config, FailRandom, FreeListSource, Machine, SimCpus, SimLock, SimPhys};
use kmm_slub::{CacheArgs, CacheInfo, KmemCache, Slab, SlubBugKind, SlubConfig};

type SimSlab = Slab<&'static Source, SimPhys, SimLock, SimCpus>;

thread_local! {
    static PHYS: Cell<Option<SimPhys>> = const { Cell::new(None) };
}

fn slab(config: SlubConfig) -> (&'static SimSlab, &'static Source) {
    let machine = Machine::new(Config::with_mib(64));
    let source = FailRandom::new(FreeListSource::new(machine), 1, 0);
    let source: &'static _ = Box::leak(Box::new(source));
    let (phys, map, cpus) = (*machine.phys(), machine.mem_map(), *machine.cpus());
    let slab = Slab::new(source, phys, map, cpus, storage(machine), config).unwrap();
    PHYS.set(Some(phys));
    (Box::leak(Box::new(slab)), source)
}

fn info(slab: &SimSlab, name: &str) -> CacheInfo {
    slab.cache_infos().find(|info| info.name == name).unwrap()
}

fn alloc(slab: &SimSlab, cache: KmemCache, nr: usize) -> Vec<NonNull<u8>> {
    let objects = (0..nr).map(|_| slab.alloc(cache, Gfp::KERNEL).unwrap());
    objects.collect()
}

fn free(slab: &SimSlab, cache: KmemCache, object: NonNull<u8>) {
    // SAFETY: tests free what they allocated.
    unsafe { slab.free(cache, object) };
}

/// The last word and the first: neither is the allocator's, on the CPU's array, in the depot, or in the slab.
#[test]
fn no_byte_of_a_free_object_is_written() {
    for (size, config) in [(64, config()), (64, fast_config()), (700, fast_config())] {
        let (slab, _) = slab(config);
        let cache = slab.cache_create(&CacheArgs::new("still", size)).unwrap();
        let objects = alloc(slab, cache, 300);
        for (&object, id) in objects.iter().zip(0..) {
            fill(object, size, id);
        }
        for &object in &objects {
            free(slab, cache, object);
        }
        // Empty slabs are gone, but for a few; what is still there holds what its last owner wrote.
        for round in 0..3 {
            for object in alloc(slab, cache, 30) {
                let owner = (0..).zip(&objects).find(|(_, old)| **old == object);
                let (id, _) = owner.expect("no new slab is needed");
                assert!(holds(object, size, id), "round {round}");
            }
        }
        assert_eq!(bugs(), []);
    }
}

unsafe fn construct(object: NonNull<u8>) {
    fill(object, 64, 0xc0de);
}

#[test]
fn constructed_objects_need_no_room_behind_them() {
    for config in [config(), fast_config()] {
        let (slab, _) = slab(config);
        let args = CacheArgs::new("built", 64).ctor(construct);
        let cache = slab.cache_create(&args).unwrap();
        assert_eq!(info(slab, "built").objsize, 64);
        for _ in 0..3 {
            let objects = alloc(slab, cache, 500);
            assert!(objects.iter().all(|object| holds(*object, 64, 0xc0de)));
            objects.iter().for_each(|object| free(slab, cache, *object));
        }
        slab.validate().unwrap();
    }
}

/// How far the first objects of the slabs of a cache lie behind the start of their pages.
fn offsets(slab: &SimSlab, size: usize, align: usize, nr_slabs: usize) -> Vec<usize> {
    let args = CacheArgs::new("tinted", size).align(align);
    let cache = slab.cache_create(&args).unwrap();
    let per_slab = info(slab, "tinted").objperslab;
    let mut objects = alloc(slab, cache, nr_slabs * per_slab);
    let mut starts = Vec::new();
    slab.for_each_frame(|frames, _| starts.push(frames));
    let slabs = objects.chunks_mut(per_slab).map(|objects| {
        objects.sort_unstable();
        let (first, last) = (objects[0].addr().get(), objects[per_slab - 1].addr().get());
        assert_eq!(first % align, 0);
        let pfn = |addr| {
            PHYS.with(|phys| phys.get().unwrap().virt_to_pfn(addr))
                .unwrap()
        };
        let frames = starts
            .iter()
            .find(|frames| frames.contains(pfn(objects[0])));
        let frames = frames.expect("a slab");
        let start = PHYS.with(|phys| phys.get().unwrap().direct(frames.start()));
        let offset = first - start.unwrap().addr().get();
        assert!(offset + last + size - first <= frames.nr_pages() * PAGE_SIZE);
        offset
    });
    let offsets = slabs.collect();
    objects
        .into_iter()
        .for_each(|object| free(slab, cache, object));
    // SAFETY: only the test uses the cache.
    unsafe { slab.cache_destroy(cache) }.unwrap();
    offsets
}

#[test]
fn slabs_begin_at_one_colour_after_another_within_the_waste() {
    let (slab, _) = slab(config());
    // 20 objects of 200 bytes and as many entries take 4040 of 4096 bytes: no line is left over.
    assert_eq!(offsets(slab, 200, 8, 4), [0; 4]);
    // 12 of 320 and their entries take 3864: three lines are.
    let lines = offsets(slab, 320, 8, 9);
    assert!(
        lines.windows(2).all(|pair| pair[1] == (pair[0] + 64) % 256),
        "{lines:?}"
    );
    // Whoever wants more than a line gets multiples of it: 10 of 1536 leave 1024 bytes of four pages.
    let tints = offsets(slab, 1500, 128, 12);
    assert!(
        tints
            .windows(2)
            .all(|pair| pair[1] == (pair[0] + 128) % 1152),
        "{tints:?}"
    );
    slab.validate().unwrap();
}

#[test]
fn the_array_of_large_objects_is_elsewhere() {
    let (slab, source) = slab(config());
    let in_kmalloc = || -> usize {
        let infos = slab.cache_infos();
        let few = infos.filter(|info| info.name.starts_with("kmalloc-") && info.objsize <= 128);
        few.map(|info| info.active_objs).sum()
    };
    // On the slab: two bytes of each object.
    let small = slab.cache_create(&CacheArgs::new("small", 256)).unwrap();
    assert_eq!(info(slab, "small").objperslab, 15);
    let few = alloc(slab, small, 40);
    assert_eq!(in_kmalloc(), 0);
    // Off it: none, so as many objects as if there were no array.
    let large = slab.cache_create(&CacheArgs::new("large", 512)).unwrap();
    assert_eq!(info(slab, "large").objperslab, 8);
    let many = alloc(slab, large, 80);
    assert_eq!(info(slab, "large").num_slabs, 10);
    assert_eq!(in_kmalloc(), 10, "one array for each slab");
    slab.validate().unwrap();
    many.into_iter()
        .for_each(|object| free(slab, large, object));
    few.into_iter().for_each(|object| free(slab, small, object));
    slab.shrink_all();
    assert_eq!(in_kmalloc(), 0, "it goes with the slab");
    source.inner().assert_nothing_outstanding();
}

/// The array knows: whatever the object's bytes are.
#[test]
fn a_double_free_is_found_though_the_object_was_written_to() {
    let (slab, _) = slab(config());
    let cache = slab.cache_create(&CacheArgs::new("twice", 96)).unwrap();
    let objects = alloc(slab, cache, 60);
    for &object in &objects[..30] {
        free(slab, cache, object);
        fill(object, 96, 7);
        free(slab, cache, object);
        assert_eq!(bugs(), [SlubBugKind::DoubleFree]);
    }
    slab.validate().unwrap();
}

#[test]
fn a_slab_without_an_array_is_given_back() {
    let (slab, source) = slab(config());
    let cache = slab.cache_create(&CacheArgs::new("large", 1024)).unwrap();
    // The slab's own pages come first, those of its array fail.
    for nth in 0..200 {
        source.set_per_mille(500);
        let got = slab.alloc(cache, Gfp::KERNEL);
        source.set_per_mille(0);
        slab.validate().unwrap();
        match got {
            Ok(object) => free(slab, cache, object),
            Err(_) => assert_eq!(info(slab, "large").num_slabs, 0, "try {nth}"),
        }
        slab.shrink_all();
        source.inner().assert_nothing_outstanding();
    }
    assert_eq!(bugs(), []);
}
