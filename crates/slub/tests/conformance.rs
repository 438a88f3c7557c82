//! One suite for all back ends: each property of `Kmem` is a test of each of them.
//!
//! What a back end may do in its own way is said by [`BackEnd`]; everything else is the same for all.
#![allow(
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

#[path = "conformance/back_ends.rs"]
mod back_ends;
#[path = "conformance/random.rs"]
mod random;
#[path = "conformance/refusals.rs"]
mod refusals;
#[path = "conformance/requests.rs"]
mod requests;

use core::alloc::Layout;
use core::cell::Cell;
use core::ptr::NonNull;

use back_ends::*;
use random::*;
use refusals::*;
use requests::*;

use common::{bugs, fast_config, fill, holds, is_zero};
use kmm_frame::{Gfp, PAGE_SIZE};
use kmm_slub::{
    CacheArgs, CacheFlags, KMALLOC_MAX_SIZE, Kmem, SlubBugKind, SlubError, ZERO_SIZE_PTR,
};

/// Each property, as a test of each back end.
macro_rules! conformance {
    ($($property:ident)*) => {
        mod slub {
            $(#[test] fn $property() { super::$property::<super::OfSlub>(); })*
        }
        mod slab {
            $(#[test] fn $property() { super::$property::<super::OfSlab>(); })*
        }
        mod slob {
            $(#[test] fn $property() { super::$property::<super::OfSlob>(); })*
        }
    };
}

conformance! {
    every_size_and_alignment_lies_apart
    contents_survive_what_others_do
    krealloc_keeps_the_contents
    size_zero_is_an_address
    what_cannot_be_is_refused
    zeroed_memory_is_zero
    constructed_objects_are_constructed
    caches_have_names_and_figures
    objects_of_caches_may_be_kfreed
    bulk_is_all_or_nothing
    nodes_are_asked_for
    whoever_may_not_wait_does_not
    no_lock_is_held_while_pages_are_asked_for
    each_page_request_may_fail
    shrink_and_destroy_return_every_page
    a_leak_is_reported_and_stays
    handles_of_caches_that_are_gone_are_refused
    wrong_pointers_are_refused
    every_frame_is_told_once_and_marked
    random_requests_match_the_oracle
    random_requests_match_the_oracle_when_pages_fail
}

fn every_size_and_alignment_lies_apart<B: BackEnd>() {
    for rig in rigs::<B>() {
        let mut oracle = Oracle::default();
        let mut id = 0;
        let mut sizes: Vec<usize> = (1..300).chain((300..9000).step_by(97)).collect();
        sizes.extend([16_384, 20_000, 65_536, 100_001]);
        for &size in &sizes {
            for align in [1, 8, 16, 64, 256, 2048, 4096] {
                id += 1;
                let ptr = rig.kmem.kmalloc_aligned(size, align, Gfp::KERNEL).unwrap();
                assert_eq!(ptr.addr().get() % align.max(8), 0, "{size} at {align}");
                let room = rig.kmem.ksize(ptr);
                let promised = rig.kmem.kmalloc_size_roundup(size, align);
                assert_eq!(room, promised, "{size} at {align}");
                let layout = Layout::from_size_align(size, align).ok();
                let cache = None;
                oracle.add(Live {
                    ptr,
                    size,
                    room,
                    id,
                    cache,
                    layout,
                });
                if oracle.live.len() > 700 {
                    let (_, live) = oracle.live.pop_first().unwrap();
                    assert!(holds(live.ptr, live.size, live.id));
                    // SAFETY: it was asked for with this layout, and the oracle gave it up.
                    unsafe { rig.kmem.kfree_sized(live.ptr, live.layout.unwrap()) };
                }
            }
        }
        // A power of two is aligned to itself: Linux has promised that since 5.4.
        for size in (3..=22).map(|bit| 1_usize << bit) {
            let ptr = rig.kmem.kmalloc(size, Gfp::KERNEL).unwrap();
            assert_eq!(ptr.addr().get() % size.min(PAGE_SIZE), 0, "{size}");
            rig.kfree(ptr);
        }
        rig.kmem.validate().unwrap();
        for live in oracle.live.into_values() {
            assert!(holds(live.ptr, live.size, live.id));
            rig.kfree(live.ptr);
        }
        rig.assert_clean();
    }
}

fn contents_survive_what_others_do<B: BackEnd>() {
    for rig in rigs::<B>() {
        let kept: Vec<_> = (1..400)
            .map(|nr: usize| {
                let ptr = rig.kmem.kmalloc(nr * 3, Gfp::KERNEL).unwrap();
                let room = rig.kmem.ksize(ptr);
                fill(ptr, room, nr as u64);
                (ptr, room, nr as u64)
            })
            .collect();
        for round in 0..3 {
            let others: Vec<_> = (0..1000)
                .map(|nr| {
                    rig.kmem
                        .kmalloc(1 + nr * (round + 1) % 900, Gfp::KERNEL)
                        .unwrap()
                })
                .collect();
            for &ptr in &others {
                // SAFETY: the object has so many bytes.
                unsafe { ptr.write_bytes(0xee, rig.kmem.ksize(ptr)) };
            }
            others.into_iter().for_each(|ptr| rig.kfree(ptr));
            rig.kmem.shrink_all();
        }
        for (ptr, room, id) in kept {
            assert!(holds(ptr, room, id));
            rig.kfree(ptr);
        }
        rig.assert_clean();
    }
}

fn krealloc_keeps_the_contents<B: BackEnd>() {
    for rig in rigs::<B>() {
        // SAFETY: nothing is given up.
        let mut ptr = unsafe { rig.kmem.krealloc(None, 1, Gfp::KERNEL) }.unwrap();
        let mut size = 1;
        for new_size in [8, 9, 100, 90, 5000, 4097, 300_000, 20, 1 << 20] {
            fill(ptr, size, 3);
            let room = rig.kmem.ksize(ptr);
            // SAFETY: the object is live, and only its new place is used.
            let moved = unsafe { rig.kmem.krealloc(Some(ptr), new_size, Gfp::KERNEL) }.unwrap();
            assert_eq!(moved == ptr, new_size <= room, "{size} to {new_size}");
            assert!(holds(moved, size.min(new_size), 3));
            (ptr, size) = (moved, new_size);
        }
        // SAFETY: as above.
        let none = unsafe { rig.kmem.krealloc(Some(ptr), 0, Gfp::KERNEL) };
        assert_eq!(none, Ok(ZERO_SIZE_PTR));
        // SAFETY: the name of an object without bytes.
        let again = unsafe { rig.kmem.krealloc(Some(ZERO_SIZE_PTR), 5, Gfp::KERNEL) }.unwrap();
        // What cannot grow stays.
        fill(again, 5, 4);
        rig.source.set_per_mille(1000);
        // SAFETY: the object is live; it stays where it is, as the move fails.
        let grown = unsafe { rig.kmem.krealloc(Some(again), 100_000, Gfp::KERNEL) };
        rig.source.set_per_mille(0);
        assert_eq!(grown, Err(SlubError::OutOfMemory));
        assert!(holds(again, 5, 4));
        rig.kfree(again);
        rig.assert_clean();
    }
}

fn size_zero_is_an_address<B: BackEnd>() {
    for rig in rigs::<B>() {
        assert_eq!(rig.kmem.kmalloc(0, Gfp::KERNEL), Ok(ZERO_SIZE_PTR));
        assert_eq!(rig.kmem.kcalloc(0, 8, Gfp::KERNEL), Ok(ZERO_SIZE_PTR));
        assert_eq!(rig.kmem.ksize(ZERO_SIZE_PTR), 0);
        rig.kfree(ZERO_SIZE_PTR);
        rig.assert_clean();
    }
}

fn what_cannot_be_is_refused<B: BackEnd>() {
    let rig = rig_with::<B>(fast_config());
    let kmem = &rig.kmem;
    let too_large = Err(SlubError::TooLarge);
    assert_eq!(kmem.kmalloc(KMALLOC_MAX_SIZE + 1, Gfp::KERNEL), too_large);
    assert_eq!(kmem.kmalloc(usize::MAX, Gfp::KERNEL), too_large);
    assert_eq!(kmem.kcalloc(usize::MAX, 2, Gfp::KERNEL), too_large);
    assert_eq!(kmem.kmalloc_array(1 << 33, 1 << 33, Gfp::KERNEL), too_large);
    let odd = kmem.kmalloc_aligned(8, 3, Gfp::KERNEL);
    assert_eq!(odd, Err(SlubError::InvalidLayout));
    assert_eq!(kmem.kmalloc_size_roundup(KMALLOC_MAX_SIZE + 1, 1), 0);
    let make = |size, align| {
        let args = CacheArgs::new("bad", size).align(align);
        kmem.cache_create(&args).unwrap_err()
    };
    assert_eq!(make(0, 8), SlubError::InvalidLayout);
    assert_eq!(make(8, 0), SlubError::InvalidLayout);
    assert_eq!(make(8, 24), SlubError::InvalidLayout);
    assert_eq!(make(8, 2 * PAGE_SIZE), SlubError::InvalidLayout);
    assert_eq!(make(KMALLOC_MAX_SIZE + 1, 8), SlubError::TooLarge);
    assert_eq!(make(usize::MAX, 8), SlubError::TooLarge);
    let mut nr = 0;
    while kmem.cache_create(&CacheArgs::new("one more", 8)).is_ok() {
        nr += 1;
        assert!(nr <= 256);
    }
    let more = kmem.cache_create(&CacheArgs::new("one more", 8));
    assert_eq!(more, Err(SlubError::NoSlot));
    rig.assert_clean();
}

fn zeroed_memory_is_zero<B: BackEnd>() {
    for rig in rigs::<B>() {
        let cache = rig
            .kmem
            .cache_create(&CacheArgs::new("zeroed", 77))
            .unwrap();
        for _ in 0..3 {
            let mut dirty = Vec::new();
            for size in [1, 8, 100, 1000, 4096, 5000, 9000, 70_000] {
                let one = rig.kmem.kzalloc(size, Gfp::KERNEL).unwrap();
                assert!(is_zero(one, size), "{size}");
                let many = rig.kmem.kcalloc(3, size, Gfp::ATOMIC).unwrap();
                assert!(is_zero(many, 3 * size), "{size}");
                fill(one, size, 1);
                fill(many, 3 * size, 2);
                dirty.extend([one, many]);
            }
            dirty.into_iter().for_each(|ptr| rig.kfree(ptr));
            let object = rig.kmem.alloc(cache, Gfp::KERNEL | Gfp::ZERO).unwrap();
            assert!(is_zero(object, 77));
            fill(object, 77, 5);
            rig.free(cache, object);
        }
        rig.destroy(cache).unwrap();
        rig.assert_clean();
    }
}

thread_local! {
    static NR_CONSTRUCTED: Cell<usize> = const { Cell::new(0) };
}

unsafe fn construct(object: NonNull<u8>) {
    NR_CONSTRUCTED.set(NR_CONSTRUCTED.get() + 1);
    fill(object, 60, 0xc0de);
}

fn constructed_objects_are_constructed<B: BackEnd>() {
    for rig in rigs::<B>() {
        NR_CONSTRUCTED.set(0);
        let args = CacheArgs::new("built", 60).ctor(construct);
        let cache = rig.kmem.cache_create(&args).unwrap();
        assert_eq!(NR_CONSTRUCTED.get(), 0, "no slab yet");
        let mut nr = 0;
        for _ in 0..5 {
            let objects: Vec<_> = (0..150)
                .map(|_| rig.kmem.alloc(cache, Gfp::KERNEL).unwrap())
                .collect();
            nr += objects.len();
            for object in objects {
                assert!(holds(object, 60, 0xc0de));
                rig.free(cache, object);
            }
        }
        let info = rig.info("built");
        let per_slab = info.slabs_taken as usize * info.objperslab;
        let wanted = if B::CONSTRUCTS_SLABS { per_slab } else { nr };
        assert_eq!(NR_CONSTRUCTED.get(), wanted);
        let zeroed = rig.kmem.alloc(cache, Gfp::KERNEL | Gfp::ZERO);
        assert_eq!(zeroed, Err(SlubError::Constructed));
        rig.destroy(cache).unwrap();
        rig.assert_clean();
    }
}

fn caches_have_names_and_figures<B: BackEnd>() {
    for rig in rigs::<B>() {
        let make = |args: CacheArgs| rig.kmem.cache_create(&args).unwrap();
        let inodes = make(CacheArgs::new("inodes", 600));
        let lines = make(CacheArgs::new("lines", 90).flags(CacheFlags::HWCACHE_ALIGN));
        let large = make(CacheArgs::new("large", 30_000).align(256));
        assert_eq!(rig.outstanding(), 0, "created without a page");
        let mut live = Vec::new();
        for (cache, nr) in [(inodes, 70), (lines, 9), (large, 3)] {
            for _ in 0..nr {
                live.push((cache, rig.kmem.alloc(cache, Gfp::KERNEL).unwrap()));
            }
        }
        let figures = |name| {
            let info = rig.info(name);
            assert!(info.num_objs >= info.active_objs);
            assert!(info.objsize >= info.object_size);
            (info.active_objs, info.object_size, info.align)
        };
        assert_eq!(figures("inodes"), (70, 600, 8));
        assert_eq!(figures("lines"), (9, 90, 64));
        assert_eq!(figures("large"), (3, 30_000, 256));
        for (cache, object) in live {
            let align = if cache == lines { 64 } else { 8 };
            assert_eq!(object.addr().get() % align, 0);
            rig.free(cache, object);
        }
        for cache in [inodes, lines, large] {
            rig.destroy(cache).unwrap();
        }
        rig.kmem
            .for_each_cache(&mut |info| assert_ne!(info.name, "inodes"));
        rig.assert_clean();
    }
}

fn objects_of_caches_may_be_kfreed<B: BackEnd>() {
    for rig in rigs::<B>() {
        for size in [8, 600, 3000, 30_000] {
            let cache = rig.kmem.cache_create(&CacheArgs::new("any", size)).unwrap();
            let object = rig.kmem.alloc(cache, Gfp::KERNEL).unwrap();
            assert!(rig.kmem.ksize(object) >= size);
            rig.kfree(object);
            assert_eq!(rig.info("any").active_objs, 0);
            rig.destroy(cache).unwrap();
        }
        rig.assert_clean();
    }
}

fn bulk_is_all_or_nothing<B: BackEnd>() {
    for rig in rigs::<B>() {
        let cache = rig.kmem.cache_create(&CacheArgs::new("bulk", 200)).unwrap();
        let mut objects = [None; 333];
        for _ in 0..3 {
            rig.kmem
                .alloc_bulk(cache, Gfp::KERNEL, &mut objects)
                .unwrap();
            for (object, id) in objects.iter().zip(0..) {
                fill(object.unwrap(), 200, id);
            }
            for (object, id) in objects.iter().zip(0..) {
                assert!(holds(object.unwrap(), 200, id));
            }
            assert_eq!(rig.info("bulk").active_objs, 333);
            // SAFETY: they came from this cache, and nobody uses them.
            unsafe { rig.kmem.free_bulk(cache, &mut objects) };
            assert!(objects.iter().all(Option::is_none));
        }
        B::drain(&rig.kmem);
        // Some pages come, the next does not.
        let mut failed = 0;
        for _ in 0..50 {
            rig.source.set_per_mille(300);
            let got = rig.kmem.alloc_bulk(cache, Gfp::KERNEL, &mut objects);
            rig.source.set_per_mille(0);
            if got.is_err() {
                failed += 1;
                assert!(objects.iter().all(Option::is_none));
                assert_eq!(rig.info("bulk").active_objs, 0);
            }
            // SAFETY: as above.
            unsafe { rig.kmem.free_bulk(cache, &mut objects) };
            B::drain(&rig.kmem);
        }
        assert!(failed > 5);
        rig.destroy(cache).unwrap();
        rig.assert_clean();
    }
}

/// For each request for pages that a script makes: let that one fail, and look at what is left.
fn each_page_request_may_fail<B: BackEnd>() {
    let script = [8, 8192, 9000, 100, 4096, 1 << 20, 2048, KMALLOC_MAX_SIZE];
    for failing in 0..script.len() {
        for rig in rigs::<B>() {
            let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
            for (nth, &size) in script.iter().enumerate() {
                let before = (rig.outstanding(), rig.kmem.nr_pages());
                rig.source
                    .set_per_mille(if nth == failing { 1000 } else { 0 });
                let got = rig.kmem.kmalloc(size, Gfp::KERNEL);
                rig.source.set_per_mille(0);
                match got {
                    Ok(ptr) => {
                        fill(ptr, size, size as u64);
                        live.push((ptr, size));
                    }
                    Err(error) => {
                        assert_eq!((nth, error), (failing, SlubError::OutOfMemory));
                        assert!(rig.outstanding() <= before.0);
                        assert!(rig.kmem.nr_pages().total() <= before.1.total());
                    }
                }
                rig.kmem.validate().unwrap();
            }
            // Nothing is there at first, and large ones always need pages.
            assert!(live.len() < script.len() || ![0, 1, 2, 5, 7].contains(&failing));
            for (ptr, size) in live {
                assert!(holds(ptr, size, size as u64));
                rig.kfree(ptr);
            }
            rig.assert_clean();
        }
    }
}

fn shrink_and_destroy_return_every_page<B: BackEnd>() {
    for rig in rigs::<B>() {
        let other = rig.kmem.kmalloc(40, Gfp::KERNEL).unwrap();
        rig.kmem.shrink_all();
        let start = rig.outstanding();
        let cache = rig.kmem.cache_create(&CacheArgs::new("task", 700)).unwrap();
        let fetch = || -> Vec<_> {
            let objects = (0..500).map(|_| rig.kmem.alloc(cache, Gfp::KERNEL).unwrap());
            objects.collect()
        };
        for object in fetch() {
            rig.free(cache, object);
        }
        rig.kmem.shrink(cache).unwrap();
        assert_eq!(rig.info("task").nr_pages, 0);
        // Every second one stays: nothing that is in use goes.
        let objects = fetch();
        for &object in objects.iter().step_by(2) {
            rig.free(cache, object);
        }
        for (&object, id) in objects.iter().skip(1).step_by(2).zip(0..) {
            fill(object, 700, id);
        }
        rig.kmem.shrink(cache).unwrap();
        rig.kmem.shrink_all();
        rig.kmem.validate().unwrap();
        for (&object, id) in objects.iter().skip(1).step_by(2).zip(0..) {
            assert!(holds(object, 700, id));
            rig.free(cache, object);
        }
        rig.destroy(cache).unwrap();
        rig.kmem.shrink_all();
        // An array of each CPU for a size it has used, at most.
        assert!(
            rig.outstanding() <= start + 1,
            "{} of {start}",
            rig.outstanding()
        );
        rig.kfree(other);
        rig.assert_clean();
    }
}

fn a_leak_is_reported_and_stays<B: BackEnd>() {
    for rig in rigs::<B>() {
        let cache = rig
            .kmem
            .cache_create(&CacheArgs::new("leaky", 100))
            .unwrap();
        let objects: Vec<_> = (0..40)
            .map(|_| rig.kmem.alloc(cache, Gfp::KERNEL).unwrap())
            .collect();
        objects[3..]
            .iter()
            .for_each(|&object| rig.free(cache, object));
        assert_eq!(rig.destroy(cache), Err(SlubError::Busy(3)));
        let mut told = bugs();
        assert_eq!(told.remove(0), SlubBugKind::Leaked(3));
        // Each of them, if it is debugged.
        assert!(told.is_empty() || told == [SlubBugKind::LeakedObject; 3]);
        let more = rig.kmem.alloc(cache, Gfp::KERNEL).unwrap();
        rig.free(cache, more);
        objects[..3]
            .iter()
            .for_each(|&object| rig.free(cache, object));
        rig.destroy(cache).unwrap();
        rig.assert_clean();
    }
}
