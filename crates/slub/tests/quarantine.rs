//! What is freed waits, in order and bounded, and who writes to it meanwhile is found; what was not asked for is red zone.
#![allow(
    clippy::cast_possible_truncation,
    unsafe_code,
    missing_docs,
    reason = "a test"
)]

mod common;

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;

use common::{Rig, config, destroy, fast_config, kfree, rig_with};
use kmm_frame::Gfp;
use kmm_host::Backtrace;
use kmm_slub::{CacheArgs, Callers, Kmem, ObjectReport, SlubBug, SlubBugKind as Kind, SlubConfig};

thread_local! {
    static TOLD: RefCell<Vec<(Kind, Option<ObjectReport>, String)>> = const { RefCell::new(Vec::new()) };
    static SITE: Cell<usize> = const { Cell::new(0) };
}

fn keep(bug: &SlubBug) {
    TOLD.with_borrow_mut(|all| all.push((bug.kind, bug.object.copied(), bug.to_string())));
}

fn kinds() -> Vec<Kind> {
    TOLD.take().into_iter().map(|(kind, ..)| kind).collect()
}

struct Sites;

impl Backtrace for Sites {
    fn capture(&self, addresses: &mut [usize]) -> usize {
        addresses[0] = SITE.get();
        1
    }
}

fn debug(text: &'static str, quarantine_bytes: usize) -> Rig {
    rig_with(SlubConfig {
        on_bug: keep,
        debug: text,
        quarantine_bytes,
        callers: Callers(&Sites),
        ..fast_config()
    })
}

fn stride(rig: &Rig, name: &str) -> usize {
    let info = rig.slub.cache_infos().find(|info| info.name == name);
    info.unwrap().objsize
}

fn kmalloc(rig: &Rig, size: usize) -> NonNull<u8> {
    rig.slub.kmalloc(size, Gfp::KERNEL).unwrap()
}

fn write(ptr: NonNull<u8>, at: isize, len: usize) {
    // SAFETY: within the machine's memory, as nobody writes far.
    let place = unsafe { ptr.offset(at) };
    // SAFETY: as above; that it is not the writer's is what is tested.
    unsafe { place.write_bytes(0x41, len) };
}

/// The oldest goes first, when there are more bytes than may wait, and not before.
#[test]
fn objects_wait_in_order_until_there_are_too_many() {
    let plain = debug("", 0);
    let ptr = kmalloc(&plain, 64);
    kfree(plain.slub, ptr);
    assert_eq!(kmalloc(&plain, 64), ptr, "without it the last comes first");

    let stride = stride(&debug("FZPUQ", 0), "kmalloc-64");
    for room in [0, 1, 3] {
        // All objects of one slab, so that only those that went out of the quarantine come again.
        let rig = debug("FZPUQ", room * stride + stride / 2);
        let first = kmalloc(&rig, 64);
        let per_slab = rig
            .slub
            .cache_infos()
            .find(|info| info.name == "kmalloc-64");
        let per_slab = per_slab.unwrap().objperslab;
        let ptrs: Vec<_> = core::iter::once(first)
            .chain((1..per_slab).map(|_| kmalloc(&rig, 64)))
            .collect();
        for (nr, &ptr) in ptrs.iter().enumerate().take(6) {
            kfree(rig.slub, ptr);
            assert_eq!(
                rig.active("kmalloc-64"),
                per_slab - nr - 1,
                "it is free to all but its slab"
            );
            rig.slub.validate().unwrap();
        }
        let again: Vec<_> = (room..6).map(|_| kmalloc(&rig, 64)).collect();
        let mut wanted = ptrs[..6 - room].to_vec();
        wanted.reverse();
        assert_eq!(again, wanted, "{room} wait");
        for ptr in again.into_iter().chain(ptrs[6..].iter().copied()) {
            kfree(rig.slub, ptr);
        }
        assert_eq!(kinds(), []);
        rig.assert_clean();
    }
}

/// Long after it was freed, and without anybody allocating: both stacks are told.
#[test]
fn a_late_write_is_found_when_the_object_leaves() {
    let rig = debug("FZPUQ", 1 << 16);
    let cache = rig.slub.cache_create(&CacheArgs::new("late", 40)).unwrap();
    for (at, kind) in [
        (7, Kind::UseAfterFree),
        (-1, Kind::LeftRedzone),
        (40, Kind::RightRedzone),
    ] {
        SITE.set(0xa110c);
        let ptr = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        SITE.set(0xf4ee);
        // SAFETY: of this cache, and freed once.
        unsafe { rig.slub.free(cache, ptr) };
        SITE.set(1);
        write(ptr, at, 1);
        assert_eq!(kinds(), []);
        rig.slub.shrink(cache).unwrap();
        let told = TOLD.take();
        assert_eq!(told.len(), 1, "{told:?}");
        let report = told[0].1.unwrap();
        assert_eq!((told[0].0, report.offset), (kind, at));
        assert_eq!(report.object, ptr.addr().get());
        let sites = [report.allocated, report.freed].map(|track| track.unwrap().addresses()[0]);
        assert_eq!(sites, [0xa110c, 0xf4ee]);
    }
    destroy(rig.slub, cache).unwrap();
    assert_eq!(kinds(), []);
    rig.assert_clean();
}

/// Without a quarantine a late write is found when its slab goes back, if nobody gets the object before.
#[test]
fn a_late_write_is_found_when_its_slab_goes_back() {
    for (nr, is_destroyed) in [(1, false), (60, false), (60, true)] {
        let rig = debug("FZPU,late", 0);
        let cache = rig.slub.cache_create(&CacheArgs::new("late", 40)).unwrap();
        SITE.set(0xa110c);
        let ptrs: Vec<_> = (0..nr)
            .map(|_| rig.slub.alloc(cache, Gfp::KERNEL).unwrap())
            .collect();
        SITE.set(0xf4ee);
        // SAFETY: of this cache, and freed once.
        let free = |ptr: &NonNull<u8>| unsafe { rig.slub.free(cache, *ptr) };
        let (last, others) = ptrs.split_last().unwrap();
        free(last);
        write(*last, 7, 1);
        others.iter().for_each(free);
        if is_destroyed {
            destroy(rig.slub, cache).unwrap();
        } else {
            rig.slub.shrink_all();
        }
        let told = TOLD.take();
        assert_eq!(told.len(), 1, "{told:?}");
        let report = told[0].1.unwrap();
        assert_eq!((told[0].0, report.offset), (Kind::UseAfterFree, 7));
        assert_eq!(report.object, last.addr().get());
        assert_eq!(report.freed.unwrap().addresses()[0], 0xf4ee);
        if !is_destroyed {
            destroy(rig.slub, cache).unwrap();
        }
        rig.assert_clean();
    }
}

/// Poisoned although nobody asked for `P`; the others are not.
#[test]
fn the_letter_stands_for_itself_and_poison() {
    let rig = debug("Q,kmalloc-32", 1 << 16);
    let (held, other) = (kmalloc(&rig, 32), kmalloc(&rig, 48));
    kfree(rig.slub, held);
    kfree(rig.slub, other);
    write(held, 3, 1);
    write(other, 3, 1);
    rig.slub.shrink_all();
    assert_eq!(kinds(), [Kind::UseAfterFree]);
    rig.assert_clean();
}

#[test]
fn whoever_frees_what_waits_frees_twice() {
    let rig = debug("FZPUQ", 1 << 16);
    let ptrs = [(); 5].map(|()| kmalloc(&rig, 24));
    ptrs.iter().for_each(|&ptr| kfree(rig.slub, ptr));
    for ptr in ptrs {
        kfree(rig.slub, ptr);
        assert_eq!(kinds(), [Kind::DoubleFree]);
    }
    // Even if what says so was written over: word, records and mark, all behind the red zone.
    for ptr in ptrs {
        write(ptr, 24, stride(&rig, "kmalloc-24") - 24 - 64);
    }
    kfree(rig.slub, ptrs[0]);
    assert_eq!(
        kinds(),
        [Kind::DoubleFree],
        "the first of the chain is known"
    );
    rig.slub.shrink_all();
    rig.slub.validate().unwrap();
}

/// A chain that was written to is made anew; nothing is lost.
#[test]
fn a_broken_chain_is_mended() {
    for broken in 0..4 {
        let rig = debug("FZPUQ", 1 << 16);
        let ptrs = [(); 4].map(|()| kmalloc(&rig, 64));
        ptrs.iter().for_each(|&ptr| kfree(rig.slub, ptr));
        write(ptrs[broken], 136, 8);
        assert!(rig.slub.validate().is_err(), "an audit sees it");
        rig.slub.shrink_all();
        let told = TOLD.take();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Kind::CorruptFreelist);
        assert_eq!(told[0].1.unwrap().object, ptrs[broken].addr().get());
        assert!(
            told[0].2.contains("FIX kmalloc-64: Restoring Freepointer"),
            "{}",
            told[0].2
        );
        rig.assert_clean();
        assert_eq!(kinds(), []);
    }
}

/// They are the first to go when pages are short.
#[test]
fn what_waits_is_let_go_before_a_request_fails() {
    let rig = debug("FZPUQ,hungry", usize::MAX);
    let cache = rig
        .slub
        .cache_create(&CacheArgs::new("hungry", 3000))
        .unwrap();
    let mut nr = 0;
    // More than there is memory, were it not for that.
    for _ in 0..40_000 {
        let object = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        // SAFETY: of this cache, and freed once.
        unsafe { rig.slub.free(cache, object) };
        nr += 1;
    }
    assert_eq!((nr, kinds()), (40_000, vec![]));
    destroy(rig.slub, cache).unwrap();
    rig.assert_clean();
}

/// Constructed objects wait, too, and keep their state.
#[test]
fn constructed_objects_wait_as_they_are() {
    unsafe fn construct(object: NonNull<u8>) {
        // SAFETY: objects of the cache have 100 bytes.
        unsafe { object.write_bytes(7, 100) };
    }
    let rig = debug("FZPUQ", 1 << 12);
    let args = CacheArgs::new("made", 100).ctor(construct);
    let cache = rig.slub.cache_create(&args).unwrap();
    for _ in 0..50 {
        let ptr = rig.slub.alloc(cache, Gfp::KERNEL).unwrap();
        // SAFETY: the test's, with 100 bytes.
        assert_eq!(unsafe { ptr.cast::<[u8; 100]>().read() }, [7; 100]);
        // SAFETY: of this cache, and freed once.
        unsafe { rig.slub.free(cache, ptr) };
    }
    destroy(rig.slub, cache).unwrap();
    assert_eq!(kinds(), []);
    rig.assert_clean();
}

/// One byte behind what was asked for, whatever the class has.
#[test]
fn the_red_zone_begins_where_the_request_ends() {
    let rig = debug("FZPU", 0);
    for size in [1, 7, 8, 20, 33, 63, 64, 65, 100, 1000, 5000, 8191, 8192] {
        for back in [0, 1, 5] {
            SITE.set(0xa110c);
            let ptr = kmalloc(&rig, size);
            write(ptr, 0, size);
            write(ptr, size as isize + back, 1);
            kfree(rig.slub, ptr);
            let told = TOLD.take();
            assert_eq!(told.len(), 1, "{size} and {back}: {told:?}");
            let report = told[0].1.unwrap();
            assert_eq!(
                (told[0].0, report.offset),
                (Kind::RightRedzone, size as isize + back)
            );
            assert_eq!(report.allocated.unwrap().addresses()[0], 0xa110c);
        }
        let ptr = rig.slub.kzalloc(size, Gfp::KERNEL).unwrap();
        assert!(common::is_zero(ptr, size));
        kfree(rig.slub, ptr);
    }
    // Without red zones nobody looks.
    let rig = debug("FPU", 0);
    let ptr = kmalloc(&rig, 20);
    write(ptr, 20, 4);
    kfree(rig.slub, ptr);
    assert_eq!(kinds(), []);
    rig.assert_clean();
}

/// `ksize` is what may be used: all of it then may be.
#[test]
fn whoever_asks_for_the_size_may_use_it() {
    let rig = debug("FZPU", 0);
    let ptr = kmalloc(&rig, 20);
    assert_eq!(rig.slub.ksize(ptr), rig.slub.kmalloc_size_roundup(20, 1));
    assert_eq!(rig.slub.ksize(ptr), 24);
    write(ptr, 0, 24);
    kfree(rig.slub, ptr);
    assert_eq!(kinds(), []);
    // Behind it, nobody may; and what was written before he asked is told.
    let ptr = kmalloc(&rig, 20);
    write(ptr, 22, 1);
    rig.slub.ksize(ptr);
    assert_eq!(kinds(), [Kind::RightRedzone]);
    write(ptr, 24, 1);
    kfree(rig.slub, ptr);
    assert_eq!(kinds(), [Kind::RightRedzone]);
    // Of what is free, or the middle of something, nothing is marked.
    rig.slub.ksize(ptr);
    let other = kmalloc(&rig, 100);
    // SAFETY: within the object.
    rig.slub.ksize(unsafe { other.add(8) });
    write(other, 100, 1);
    kfree(rig.slub, other);
    assert_eq!(kinds(), [Kind::RightRedzone]);
    assert_eq!(rig.slub.check_objects(), 0);
    rig.assert_clean();
}

#[test]
fn the_red_zone_follows_a_resize() {
    let rig = debug("FZPU", 0);
    // SAFETY: each is the test's own.
    let resize = |ptr, size| unsafe { rig.slub.krealloc(Some(ptr), size, Gfp::KERNEL) }.unwrap();
    let mut ptr = kmalloc(&rig, 100);
    for size in [110, 97, 112, 3, 60] {
        assert_eq!(resize(ptr, size), ptr);
        write(ptr, 0, size);
    }
    write(ptr, 60, 1);
    ptr = resize(ptr, 61);
    assert_eq!(kinds(), [Kind::RightRedzone], "told before it moves");
    write(ptr, 61, 1);
    ptr = resize(ptr, 5000);
    assert_eq!(
        kinds(),
        [Kind::RightRedzone],
        "told when the old one is read"
    );
    write(ptr, 5000, 1);
    kfree(rig.slub, ptr);
    assert_eq!(kinds(), [Kind::RightRedzone]);
    rig.assert_clean();
}

/// A checked cache has nothing around its objects, and so nothing of this.
#[test]
fn caches_that_are_only_checked_take_no_room() {
    let rig = rig_with(SlubConfig {
        debug: "F",
        ..config()
    });
    assert!(
        rig.slub
            .cache_infos()
            .all(|info| info.objsize < info.object_size + 64)
    );
    let ptr = kmalloc(&rig, 20);
    write(ptr, 20, 4);
    kfree(rig.slub, ptr);
    rig.assert_clean();
}
